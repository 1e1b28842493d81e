"""The admin listener: health, status, metrics and reload of the whole daemon, on an address of its own.

It serves the control process and sees it through `Operator`; it decides nothing and knows no worker. No answer holds a secret.
Changing anything takes a POST that a web page of another site cannot send: a browser says where a request comes from, and
such a request is refused.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web
from aiohttp_sse import sse_response

from routerd import VERSION_HEADER, __version__
from routerd.plan import Suggester
from routerd.server.ui import page

__all__ = ["Happening", "Operator", "Reading", "admin_app"]

PAGES = {
    "GET /metrics": "Prometheus metrics of all workers",
    "GET /-/live": "200 while the control process answers",
    "GET /-/ready": "200 while requests are served, else 503 and why not",
    "GET /-/status": "versions, configuration and workers, as JSON",
    "POST /-/reload": "read the configuration again; answers when all workers serve it, or with every problem (?allow_removal=1)",
    "POST /-/rollback": "serve an earlier generation again (?to=N)",
    "POST /-/diff": "what the files change against what serves, or every problem they have; changes nothing",
    "GET /-/history": "the last generations that served, as JSON",
    "GET /-/usage": "requests, tokens and cost from the ledger (?by=client|route|provider|model|day&since=7d&until=2026-11-01)",
    "GET /-/graph": "models, chains, providers, endpoints and budgets, as JSON",
    "GET /-/rates": "requests and tokens a second, budgets in use, as JSON; the second look has rates",
    "GET /-/explain": "where a request would go and why, as JSON (?model=M&client=C&down=ENDPOINT)",
    "GET /ui": "all of this as a page",
    "GET /events": "what happens, as it happens (Server-Sent Events)",
    "POST /-/endpoints/{name}/drain": "send the endpoint nothing new; what runs there finishes",
    "POST /-/endpoints/{name}/undrain": "let it come back",
}
PING_S = 15.0  # a comment, so that proxies and readers know that the line is up
NAMES_TOLD = 20  # GET /-/status has them all
INVALID = 422  # the configuration is wrong; what served before still serves
FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})


class Happening(Protocol):
    """One event."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


class Reading(Protocol):
    """The events for one reader."""

    def __aiter__(self) -> AsyncIterator[Happening]: ...

    def close(self) -> None:
        """It has gone."""


class Operator(Protocol):
    """What the admin listener asks of the control process."""

    def not_ready(self) -> str:
        """Return why requests are not served, or an empty string."""

    def status(self) -> Mapping[str, Any]:
        """Return the status as plain values."""

    async def metrics(self) -> bytes:
        """Return the text exposition of all processes."""

    def drain_endpoint(self, name: str, drained: bool) -> Mapping[str, Any] | None:
        """Drain an endpoint or let it come back; return how it stands, None when there is none of that name."""

    async def reload(self, *, allow_removal: bool = False) -> tuple[bool, Mapping[str, Any]]:
        """Reload; return whether the files serve now, and the outcome as plain values."""

    async def rollback(self, to: int | None) -> tuple[bool, Mapping[str, Any]]:
        """Serve generation `to` again, or what served before; LookupError when it is not known."""

    async def diff(self) -> tuple[bool, Mapping[str, Any]]:
        """Compare the files with what serves; return whether they are valid, and the changes or the problems."""

    def history(self) -> Mapping[str, Any]:
        """Return the last generations as plain values."""

    async def usage(self, by: str, since: str, until: str) -> Mapping[str, Any]:
        """Return what was used; ValueError for words without a meaning, LookupError without a ledger, OSError: it is away."""

    def graph(self) -> Mapping[str, Any]:
        """Return what serves as plain values, without a secret; LookupError when nothing serves yet."""

    async def rates(self) -> Mapping[str, Any]:
        """Return what happens a second."""

    async def explain(self, model: str, client: str | None, down: Sequence[str]) -> Mapping[str, Any]:
        """Return the decision for a request; LookupError when a name in the question is not known."""

    def events(self, last_id: str) -> Reading | None:
        """Return the events after `last_id`, and those to come; None when too many listen."""


def admin_app(operator: Operator) -> web.Application:
    """Return the application; every path stands here."""
    pages = _Pages(operator)
    app = web.Application(client_max_size=64 * 1024, middlewares=[_plain_errors])
    app.on_response_prepare.append(_signed)
    app.router.add_get("/", pages.index)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/-/live", pages.live)
    app.router.add_get("/-/ready", pages.ready)
    app.router.add_get("/-/status", pages.status)
    app.router.add_post("/-/reload", pages.reload)
    app.router.add_post("/-/rollback", pages.rollback)
    app.router.add_post("/-/diff", pages.diff)
    app.router.add_get("/-/history", pages.history)
    app.router.add_get("/-/usage", pages.usage)
    app.router.add_get("/-/graph", pages.graph)
    app.router.add_get("/-/rates", pages.rates)
    app.router.add_get("/-/explain", pages.explain)
    app.router.add_get("/ui", pages.ui)
    app.router.add_get("/events", pages.events)
    app.router.add_post("/-/endpoints/{name}/drain", pages.drain)
    app.router.add_post("/-/endpoints/{name}/undrain", pages.undrain)
    return app


class _Pages:
    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._page = page()

    async def index(self, _: web.Request) -> web.Response:
        width = max(len(page) for page in PAGES)
        return web.Response(text="".join(f"{page:<{width}}  {what}\n" for page, what in PAGES.items()))

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=await self._operator.metrics(),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def live(self, _: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def ready(self, _: web.Request) -> web.Response:
        why_not = self._operator.not_ready()
        return web.Response(status=503, text=f"not ready: {why_not}\n") if why_not else web.Response(text="ready\n")

    async def status(self, _: web.Request) -> web.Response:
        return _json(self._operator.status())

    async def reload(self, request: web.Request) -> web.Response:
        if why := _foreign(request.headers):
            return _json({"error": why}, status=403)
        allowed = request.query.get("allow_removal", "0")
        if allowed not in ("0", "1"):
            return _json({"error": "allow_removal is 1 or 0"}, status=400)
        ok, outcome = await self._operator.reload(allow_removal=allowed == "1")
        return _json(outcome, status=200 if ok else INVALID)

    async def rollback(self, request: web.Request) -> web.Response:
        if why := _foreign(request.headers):
            return _json({"error": why}, status=403)
        to = request.query.get("to")
        if to is not None and not (to.isdecimal() and to.isascii() and len(to) < 10):
            return _json({"error": f"to={to[:20]!r} is not the number of a generation"}, status=400)
        try:
            ok, outcome = await self._operator.rollback(None if to is None else int(to))
        except LookupError as exc:
            return _json({"error": str(exc.args[0])}, status=404)
        return _json(outcome, status=200 if ok else INVALID)

    async def diff(self, request: web.Request) -> web.Response:
        if why := _foreign(request.headers):  # it reads and checks every file: nothing for a page to start at will
            return _json({"error": why}, status=403)
        try:
            valid, told = await self._operator.diff()
        except LookupError as exc:
            return _json({"error": str(exc.args[0])}, status=503)
        return _json(told, status=200 if valid else INVALID)

    async def history(self, _: web.Request) -> web.Response:
        return _json(self._operator.history())

    async def usage(self, request: web.Request) -> web.Response:
        asked = request.query
        try:
            told = await self._operator.usage(asked.get("by", "client"), asked.get("since", ""), asked.get("until", ""))
        except ValueError as exc:
            return _json({"error": str(exc)}, status=400)
        except LookupError as exc:
            return _json({"error": str(exc.args[0])}, status=404)
        except OSError as exc:
            return _json({"error": str(exc)}, status=503)
        return _json(told)

    async def graph(self, _: web.Request) -> web.Response:
        try:
            return _json(self._operator.graph())
        except LookupError as exc:
            return _json({"error": str(exc.args[0])}, status=503)

    async def rates(self, _: web.Request) -> web.Response:
        return _json(await self._operator.rates())

    async def explain(self, request: web.Request) -> web.Response:
        model = request.query.get("model")
        if not model:
            return _json({"error": "say which model: ?model=M"}, status=400)
        try:
            told = await self._operator.explain(model, request.query.get("client") or None, request.query.getall("down", []))
        except LookupError as exc:
            return _json({"error": str(exc.args[0])}, status=400)
        return _json(told)

    async def ui(self, _: web.Request) -> web.Response:
        text, headers = self._page
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        last_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id", "")  # a browser cannot set the field
        reading = self._operator.events(last_id)
        if reading is None:
            return _json({"error": "too many readers of events"}, status=503)
        try:
            async with sse_response(request, ping_interval=PING_S, sep="\n") as answer:
                async for event in reading:
                    await answer.send(json.dumps(event.fields, ensure_ascii=False), id=event.id or None, event=event.kind)
            return answer
        except ConnectionError:
            return answer
        finally:
            reading.close()

    async def drain(self, request: web.Request) -> web.Response:
        return self._drain(request, True)

    async def undrain(self, request: web.Request) -> web.Response:
        return self._drain(request, False)

    def _drain(self, request: web.Request, drained: bool) -> web.Response:
        if why := _foreign(request.headers):
            return _json({"error": why}, status=403)
        name = request.match_info["name"]
        found = self._operator.drain_endpoint(name, drained)
        if found is None:
            return _json({"error": _no_endpoint(name, self._operator.status()["endpoints"])}, status=404)
        return _json(found)


def _no_endpoint(name: str, endpoints: Sequence[Mapping[str, Any]]) -> str:
    """Say that there is no such endpoint, and which was meant."""
    names = [str(one["endpoint"]) for one in endpoints]
    own = [str(one["endpoint"]) for one in endpoints if one["provider"] == name]
    if own:
        return f"{name!r} is a provider with the endpoints {', '.join(own)}; name one of them"
    closest = Suggester(names).closest(name)
    meant = f"did you mean {closest!r}?" if closest else "there are: " + (", ".join(names[:NAMES_TOLD]) or "none")
    return f"there is no endpoint {name!r}; {meant}"


def _json(value: Mapping[str, Any], status: int = 200) -> web.Response:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", headers={"cache-control": "no-store"})


def _foreign(headers: Mapping[str, str]) -> str:
    """Return why a request looks like one of another site's page, or an empty string.

    1. The browser says so (Fetch Metadata).
    2. It names an origin that is not this listener.
    3. It has the content type of a form, which a page may send anywhere without asking first.
    """
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "a request of another site is refused"
    origin = headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != headers.get("Host"):
        return "a request of another origin is refused"
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type in FORM_TYPES:
        return f"content type {content_type} is refused; send none, or application/json"
    return ""


async def _signed(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[VERSION_HEADER] = __version__
    response.headers["server"] = "routerd"


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a wrong path or method with what there is."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as exc:
        allowed = ", ".join(sorted(exc.allowed_methods))
        return web.Response(status=405, text=f"{request.path} takes {allowed}\n", headers={"allow": allowed})
    except web.HTTPNotFound:
        return web.Response(status=404, text="no such page; GET / lists them\n")
