"""Requests that are passed on as they came: uploads, sound, files, and everything below `/providers/{provider}/`.

They take the way of every model request, with keys, budgets, chains, cooldowns, metrics and the access record; only the bytes are
not looked at, and nothing large is held. Three kinds, by how they find their target:
1. a form with a `model` field (transcriptions, translations, image edits and variations): the route of that model, whose name for
   the upstream is put into the form;
2. speech: JSON with a `model`, an answer of sound;
3. files, and all of `/providers/{provider}/...`: that one `direct` provider, whatever it offers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import cast
from urllib.parse import unquote

from aiohttp import web

from routerd.attempt import Answer, Attempts, Ended, Passing
from routerd.errors import BadRequest, NotFound
from routerd.messages import ModelRequest
from routerd.plan import offers
from routerd.server.chat import ModelCall, open_provider
from routerd.server.generation import Generation, Permit
from routerd.server.http.intake import client_of, expect_continue, json_body
from routerd.server.http.protocol import ClientProtocol, ClientStream
from routerd.server.http.render import safe
from routerd.server.http.upload import BytesUpload, ClientUpload, SpooledForm, read_form
from routerd.server.operations import Operation
from routerd.server.shared import Shared
from routerd.wire.openai.body import encode_body, parse_request, prepare_body

__all__ = ["PASSED", "PassCall", "passed_at"]

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})

PASSED: Mapping[str, Operation] = {
    "audio/transcriptions": Operation("transcription", "audio/transcriptions"),
    "audio/translations": Operation("translation", "audio/translations"),
    "images/edits": Operation("image_edit", "images/edits"),
    "images/variations": Operation("image_variation", "images/variations"),
    "audio/speech": Operation("speech", "audio/speech"),
}
_FILES = Operation("file", "files")
_PASSAGE = Operation("passage", "")

# RFC 9110 section 7.6.1, and what is between the client and routerd only: credentials, sessions, where it came from.
_KEPT_BACK = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te", "trailer", "upgrade",
        "transfer-encoding", "content-length", "host", "expect", "authorization", "x-api-key", "api-key", "x-goog-api-key",
        "cookie", "accept-encoding", "user-agent", "x-request-id", "origin", "referer", "forwarded", "via", "x-real-ip",
    }
)  # fmt: skip
_KEPT_BACK_STARTS = ("x-forwarded-", "x-routerd-", "sec-", "access-control-")
_ANSWER_KEPT_BACK = frozenset(
    {
        "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "trailer", "date", "server", "set-cookie",
        "x-request-id", "alt-svc", "strict-transport-security", "content-encoding", "vary",
    }
)  # fmt: skip
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


def passed_at(path: str) -> tuple[Operation, str, str] | None:
    """Return the operation of a path that is passed on, its provider (or an empty string) and the endpoint there."""
    below = path.removeprefix("/api")
    if below.startswith("/providers/"):
        provider, _, rest = below[len("/providers/") :].partition("/")
        return _PASSAGE, unquote(provider), rest
    if not below.startswith("/v1/"):
        return None
    endpoint = below[len("/v1/") :]
    found = PASSED.get(endpoint)
    if found is not None:
        return found, "", endpoint
    if endpoint == "files" or endpoint.startswith("files/"):
        return _FILES, "", endpoint
    return None


class PassCall(ModelCall):
    """One such request."""

    __slots__ = ("_endpoint", "_form", "_provider")

    def __init__(
        self, shared: Shared, generation: Generation, request: web.BaseRequest, where: tuple[Operation, str, str]
    ) -> None:
        super().__init__(shared, generation, request, where[0])
        self._provider = where[1]
        self._endpoint = where[2]
        self._form: SpooledForm | None = None
        self._path = f"{where[0].path or 'providers/' + safe(where[1])[:64]}"

    async def _serve(self) -> web.StreamResponse:
        generation = self._generation
        self._client = client_of(self._request, generation.clients)
        try:
            permit, passing = await self._passing()
            assert self._wire is not None
            self._permit = permit
            attempts = await self._admitted(permit, self._wire, {}, passing)
            return await self._pass(attempts, await attempts.run())
        finally:
            if self._form is not None:
                self._form.close()

    # ── the target ──

    async def _passing(self) -> tuple[Permit, Passing]:
        if self._operation in ("file", "passage"):
            return self._of_provider()
        return await (self._of_speech() if self._operation == "speech" else self._of_form())

    async def _of_form(self) -> tuple[Permit, Passing]:
        limit_bytes = self._generation.graph.limits.upload_bytes
        form = self._form = await read_form(self._request, limit_bytes)
        self._wire = self._asked(form.model)
        return self._permitted(form.model), self._to(self._endpoint, ClientUpload(self._request, limit_bytes, form))

    async def _of_speech(self) -> tuple[Permit, Passing]:
        raw = json_body(self._request, self._generation.graph.limits.request_body_bytes)
        asked = parse_request(raw if isinstance(raw, bytes) else await raw, "speech", self._path)
        self._wire = self._asked(asked.model)
        permit = self._permitted(asked.model)
        body = prepare_body(asked, system_prompt=None, params=permit.route.params)
        upload = BytesUpload(lambda model: encode_body(body, model=model, extra={}, include_usage=False))
        return permit, self._to(self._endpoint, upload)

    def _of_provider(self) -> tuple[Permit, Passing]:
        """Find the one provider that is meant; its direct route carries the attempt."""
        name = self._provider or self._chosen_provider()
        provider = open_provider(self._generation.graph, name)
        endpoint = self._endpoint
        if self._request.method not in METHODS or not endpoint or _DOTS.search(endpoint):
            raise NotFound(f"There is no {self._request.method} {endpoint[:200]!r} at provider {name!r}.")
        self._wire = self._asked(f"{name}/{endpoint}"[:256])
        query = self._request.raw_path.partition("?")[2]
        expect_continue(self._request)
        upload = ClientUpload(self._request, self._generation.graph.limits.upload_bytes)
        resolved = self._generation.resolver.direct(provider, endpoint)
        permit = self._generation.permit_of(self._client, resolved, self._wire.model, self._wire.model)
        return permit, self._to(endpoint + (f"?{query}" if query else ""), upload)

    def _chosen_provider(self) -> str:
        """Return who keeps the files: as the client says, else the only one that may be addressed."""
        said = self._request.headers.get("X-Routerd-Provider") or self._request.query.get("provider")
        if said:
            return said
        open_ones = [p for p in self._generation.graph.providers.values() if p.direct and not p.disabled]
        names = [p.name for p in open_ones if offers(p, "file")]
        if len(names) == 1:
            return names[0]
        raise BadRequest("Say which provider keeps the files: header `x-routerd-provider`, or use /providers/{provider}/files.")

    def _asked(self, model: str) -> ModelRequest:
        request = ModelRequest(operation=self._operation, path=self._path, model=model, body={})
        request.request_id = self._request_id
        request.arrived_at_s = self._started_s
        request.trace = self._trace
        request.client = self._client.name if self._client is not None else ""
        return request

    def _to(self, path: str, upload: BytesUpload | ClientUpload) -> Passing:
        fields = {
            name.lower(): safe(value)
            for name, value in self._request.headers.items()
            if name.lower() not in _KEPT_BACK and not name.lower().startswith(_KEPT_BACK_STARTS)
        }
        operation = "" if self._operation in ("file", "passage") else self._operation
        return Passing(method=self._request.method, path=path, operation=operation, fields=fields, upload=upload)

    # ── the answer ──

    async def _pass(self, attempts: Attempts, answer: Answer) -> web.StreamResponse:
        passage = answer.passage
        assert passage is not None
        self._answered_at_s = time.monotonic()
        self._planned = answer.planned
        self._tally = self._tally_of(answer.planned)
        self._status = passage.status
        protocol = cast(ClientProtocol, self._request.protocol)
        try:
            fields, length = self._answer_fields(passage.headers)
            stream = ClientStream(self._request, fields, status=passage.status, length=0 if passage.status == 204 else length)
            protocol.feed(passage)
            self._shared.streams.add(passage)
            await protocol.taken(answer.planned.target.timeouts.idle_s)
            passage.commit(stream)
            ended = await passage.finished
        except BaseException:
            passage.stop()
            raise
        finally:
            protocol.feeder = None
            self._shared.streams.discard(passage)
            usage = self._usage = self._used = passage.usage
            self._sent_bytes = passage.sent_bytes
            attempts.upstream_s = time.monotonic() - self._started_s
            attempts.finish(answer, usage)
        if ended is not Ended.OK:
            self._interrupted(answer.planned, ended)
        return stream.finished()

    def _answer_fields(self, headers: list[tuple[bytes, bytes]]) -> tuple[str, int | None]:
        """Return the header lines of the answer, and its length where the upstream said it."""
        lines: list[str] = []
        length: int | None = None
        encoded = False
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name == "content-length" and value.isdigit():
                length = int(value)
            encoded = encoded or name == "content-encoding"
            if name not in _ANSWER_KEPT_BACK and not name.startswith(_KEPT_BACK_STARTS):
                lines.append(f"{name}: {safe(value)}\r\n")
        return self._all_fields() + "".join(lines), None if encoded else length
