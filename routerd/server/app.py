"""The data plane of one worker: every path on one screen, and the life of the worker's server.

    POST /v1/chat/completions, completions, embeddings, responses, ...         model requests (operations, chat.ModelCall)
    /v1/audio/*, /v1/images/edits, /v1/files, /providers/{provider}/...        passed on as they came (passage.PassCall)
    GET  /v1/models             GET  /v1/models/{id}                           what the client may ask for
    GET  /health                                                               200 while this worker serves
    all of /v1 also under /api/v1; OPTIONS everywhere (CORS preflight)

A Gateway is given generations: `prepare` builds one and changes nothing, `swap` makes it the one that new requests see.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from aiohttp import web

from routerd.attempt import AskToken, Ticker, TokenNews, Tokens, no_tokens
from routerd.errors import ConfigError, MethodNotAllowed, NotFound, NotReady, Problem, RequestError
from routerd.graph import Cors, Graph
from routerd.health import Health
from routerd.ledger import Entry
from routerd.observe import AccessRecord, Metrics
from routerd.plan import ModelNews
from routerd.policy import Counters
from routerd.server.budget.admission import Remote
from routerd.server.budget.limits import UsedRatio
from routerd.server.chat import ModelCall
from routerd.server.generation import Generation
from routerd.server.http.intake import request_id_of
from routerd.server.http.protocol import DataServer, Reply
from routerd.server.http.render import JSON_FIELD, cors_fields, error_reply, preflight
from routerd.server.models import list_models, one_model
from routerd.server.operations import OPERATIONS, Operation, operation_at
from routerd.server.passage import PassCall, passed_at
from routerd.server.shared import Shared, Tracer
from routerd.upstream import Upstreams

__all__ = ["Gateway"]

LISTS = frozenset({"/v1/models", "/api/v1/models"})
ONE = ("/v1/models/", "/api/v1/models/")
LAST_WORDS_S = 0.5  # for the answers of what the drain did not wait for; no upstream is asked any more
ADMIN = ("/metrics", "/ui", "/-/", "/events")  # where people look first; they are on a listener of their own
BACKLOG = 4096  # connections that wait to be accepted; the kernel caps it at net.core.somaxconn


class Gateway:
    """One worker's data plane."""

    def __init__(
        self,
        *,
        counters: Counters,
        metrics: Metrics,
        access: Callable[[AccessRecord], None] | None,
        health: Health,
        worker: int = 0,
        notice: Callable[[str, dict[str, Any]], None] = lambda _kind, _fields: None,
        remote: Remote | None = None,
        tracer: Tracer | None = None,
        ask_token: AskToken = no_tokens,
        ledger: Callable[[Entry], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.worker = worker
        self._shared = Shared(
            loop=loop,
            ticker=Ticker(loop),
            tokens=Tokens(loop, ask_token),
            upstreams=Upstreams(loop),
            health=health,
            counters=counters,
            metrics=metrics,
            access=access,
            notice=notice,
            remote=remote,
            ledger=ledger,
            tracer=tracer,
        )
        self._used_ratio = UsedRatio(remote.counters if remote is not None else counters, metrics)
        self._generation: Generation | None = None
        self._live: dict[int, Generation] = {}
        self._server: asyncio.Server | None = None
        self._http: DataServer | None = None
        self._started_unix_s = int(time.time())

    # ── generations ──

    async def prepare(self, number: int, graph: Graph) -> Generation:
        """Build a generation; nothing that serves is touched, nobody is connected to. Raises ConfigError (stage build).

        What is left to the first request of a route is its lane: 70 us, and nothing in it that could fail.
        """
        shared = self._shared
        try:
            generation = Generation(number, graph, shared)
        except (ValueError, KeyError) as exc:
            problem = Problem(stage="build", code="build-failed", path="", message=str(exc), file="")
            raise ConfigError([problem]) from exc
        if any(place.origin.tls for place in generation.places):
            await shared.upstreams.prepare_tls()
        return generation

    def swap(self, generation: Generation) -> Generation | None:
        """Serve `generation` from the next request on. Returns the one before, for its owner to drop when it is idle."""
        old, shared = self._generation, self._shared
        generation.serve(shared.health.reconcile(generation.graph, time.monotonic()))
        self._generation = generation
        self._live = {n: g for n, g in self._live.items() if g.inflight}
        self._live[generation.number] = generation
        shared.upstreams.keep_only(generation.places)
        return old

    def shed(self, generation: Generation) -> bool:
        """Free some of what a generation compiled that nobody uses; return whether there was any."""
        return generation.shed()

    def learn(self, news: Any) -> None:
        """Take what control found out for all workers."""
        if isinstance(news, TokenNews):
            self._shared.tokens.take(news)
        elif isinstance(news, ModelNews):
            self._shared.found = {**self._shared.found, news.provider: news.ids}

    def generations(self) -> dict[int, int]:
        """Return the requests in flight of every generation that is still in use."""
        current = self._generation
        self._live = {n: g for n, g in self._live.items() if g.inflight or g is current}
        return {number: generation.inflight for number, generation in self._live.items()}

    def outcomes(self) -> dict[int, tuple[int, int]]:
        """Return, by generation, how many requests ended at a target and how many of them failed."""
        return {number: (generation.ended, generation.failed) for number, generation in self._live.items()}

    def publish_gauges(self) -> None:
        """Bring the worker's own gauges up to date; called before a snapshot, never by a request."""
        metrics = self._shared.metrics
        metrics.gauge("routerd_budget_table_overflows").set(self._shared.counters.overflows)
        self._shared.admission.publish_gauges()
        if self._generation is not None:
            generation = self._generation
            self._used_ratio.publish(generation.charges, generation.graph.budgets, time.monotonic())


    # ── life ──

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self._http = DataServer(self.handle, self._render_unparsed, self._shared.upstreams.outbox)
        self._server = await loop.create_server(self._http, sock=sock, backlog=BACKLOG)

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing more, let what runs finish for up to `timeout_s`, then close."""
        if self._server is not None:
            self._server.close()
        if self._http is not None:
            self._http.pre_shutdown()
        deadline_s = time.monotonic() + timeout_s
        while sum(self.generations().values()) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        for relay in list(self._shared.streams):
            relay.interrupt("routerd is shutting down")
        for call in list(self._shared.calls):
            call.interrupt()
        until_s = time.monotonic() + LAST_WORDS_S
        while self._shared.calls and time.monotonic() < until_s:
            await asyncio.sleep(0.005)
        self._shared.upstreams.outbox.flush()
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._http is not None:
            http, self._http = self._http, None
            self._shared.upstreams.outbox.flush()
            await http.shutdown(0.1)
        self._shared.upstreams.close()

    # ── requests ──

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Dispatch one request by its path."""
        generation = self._generation
        request_id = request_id_of(request) or self._shared.ids.next()
        fields = f"x-request-id: {request_id}\r\n"
        if generation is None:
            return _refuse(NotReady("routerd has no configuration yet.", retry_after_s=1.0), fields)
        cors = generation.graph.cors
        if cors.origins:
            fields += cors_fields(cors, request.headers.get("Origin"))
        path = request.raw_path
        operation = OPERATIONS.get(path)
        if operation is None:
            path = path.partition("?")[0]
            if path[:1] != "/":
                path = _origin_form(path)
            operation = OPERATIONS.get(path)
        if operation is not None and request.method == "POST":
            return await ModelCall(self._shared, generation, request, operation).run(request_id, fields)
        passed = passed_at(path) if request.method != "OPTIONS" else None
        if passed is not None:
            return await self._passed(generation, request, passed).run(request_id, fields)
        try:
            return self._small(generation, request, path, fields)
        except RequestError as exc:
            return _refuse(exc, fields)

    def _passed(self, generation: Generation, request: web.BaseRequest, where: tuple[Operation, str, str]) -> ModelCall:
        """What is below /providers/{provider}/ and a model operation is served as one, at that provider."""
        _, provider, endpoint = where
        operation = operation_at(endpoint) if provider and request.method == "POST" else None
        if operation is not None:
            return ModelCall(self._shared, generation, request, operation, provider)
        return PassCall(self._shared, generation, request, where)

    def _small(self, generation: Generation, request: web.BaseRequest, path: str, fields: str) -> web.StreamResponse:
        """Answer everything that needs no upstream."""
        method = request.method
        if method == "OPTIONS":
            return cast(web.StreamResponse, preflight(generation.graph.cors, request, fields))
        if path in OPERATIONS:
            raise _not_allowed(method, "POST")
        if path in LISTS or path.startswith(ONE):
            if method not in ("GET", "HEAD"):
                raise _not_allowed(method, "GET, HEAD")
            if path in LISTS:
                return list_models(generation, request, fields, self._shared.found, self._started_unix_s)
            name = unquote(path.partition("/models/")[2])
            return one_model(generation, request, fields, name, self._started_unix_s)
        if path == "/health":
            return cast(web.StreamResponse, Reply(200, fields + JSON_FIELD, b'{"status":"ok"}'))
        if path.startswith(ADMIN):
            raise NotFound(f"{path[:200]!r} is not served here but by the admin listener (`--admin`).")
        raise NotFound(f"There is no {method} {path[:200]!r} here; the API is under /v1.")

    def _render_unparsed(self, request: web.BaseRequest, status: int, message: str) -> Reply:
        generation = self._generation
        cors = generation.graph.cors if generation is not None else Cors()
        fields = f"x-request-id: {self._shared.ids.next()}\r\n" + cors_fields(cors, request.headers.get("Origin"))
        error = RequestError(message, code="invalid_http" if status < 500 else "internal_error")
        error.status = status
        if status >= 500:
            error.type = "server_error"
        return error_reply(error, fields)


def _origin_form(target: str) -> str:
    """Return the path of an absolute request target, which a server must accept (RFC 9112 section 3.2.2)."""
    _, found, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if found else target


def _refuse(error: RequestError, fields: str) -> web.StreamResponse:
    return cast(web.StreamResponse, error_reply(error, fields))


def _not_allowed(method: str, allowed_methods: str) -> MethodNotAllowed:
    return MethodNotAllowed(f"{method} is not possible here; use {allowed_methods}.", headers={"allow": allowed_methods})
