"""A collector of traces: takes OTLP/HTTP, decodes it with OpenTelemetry's own messages, refuses when told to."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector", "plain"]


def plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    found: dict[str, Any] = {}
    for pair in attributes:
        assert isinstance(pair, KeyValue)
        found[pair.key] = getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
    return found


class Collector:
    """An async context manager. `spans` are all that came; `statuses` are answered first, then 200."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Collector:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def wait(self, count: int, timeout_s: float = 15.0) -> list[Span]:
        """Return all spans once there are so many."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.spans) >= count)
        return self.spans

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        message = ExportTraceServiceRequest.FromString(body)
        async with self._news:
            for resource in message.resource_spans:
                self.resources.append(plain(resource.resource.attributes))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._news.notify_all()
        return web.Response(body=b"", content_type="application/x-protobuf")
