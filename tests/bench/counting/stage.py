"""A whole gateway over `StepLoop`, as a worker builds it, and the two sides that talk to it: one client, and its upstream.

Everything is on: keys, metrics, an access log that is formatted and written to the null device, failover armed. A ledger and
budgets where a case asks for them. Counted is all that a worker does for a request, with its share of what is handed over in
batches.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from routerd.config import load
from routerd.daemon.output.log import AccessLog, LineWriter
from routerd.graph import Graph
from routerd.health import Health
from routerd.ledger import Outbox
from routerd.observe import Metrics
from routerd.server import Gateway
from routerd.state import Board, LocalCounters
from tests.bench.counting.loop import StepLoop, Wire

__all__ = ["CASES", "Case", "Stage", "staged"]

ROUTES = """
version: 1
providers:
  mock: {dialect: DIALECT, base_url: "http://127.0.0.1:1/v1", api_key: sk-upstream}
  spare: {dialect: simulator}
models:
  m0: {chain: [mock/real-model, spare/echo], BUDGETS_OF_MODEL}
budgets:
  requests: {requests: 1000000000, per: 1m, scope: client}
  slots: {concurrency: 100000}
  tokens: {tokens: 1000000000000, per: 1h}
clients:
  bench: {key: sk-bench, BUDGETS_OF_CLIENT}
"""
TEXT = "x" * 8
CONTENT = '{"index":0,"delta":{"content":"' + TEXT + '"},"finish_reason":null}'
EVENT = 'data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"real-model","choices":[%s]}\n\n'
ENDED = EVENT % '{"index":0,"delta":{},"finish_reason":"stop"}'
USAGE = EVENT.replace("[%s]", '[],"usage":{"prompt_tokens":12,"completion_tokens":8,"total_tokens":20}')
WHOLE = (
    '{"id":"c","object":"chat.completion","created":1700000000,"model":"real-model","choices":[{"index":0,"message":{"role":"assistant",'
    '"content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":8,"total_tokens":20}}' % (TEXT * 32)
)


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A stream of one dialect: what precedes the text, one event of text, what follows it."""

    kind: str
    begins: str
    text: str
    ends: str


def _anthropic(name: str, rest: str) -> str:
    return f'event: {name}\ndata: {{"type":"{name}"{rest}}}\n\n'


def _gemini(text: str, finish: str, usage: str) -> str:
    candidate = f'{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},{finish}"index":0}}'
    rest = '"modelVersion":"real-model","responseId":"r"'
    return f'data: {{"candidates":[{candidate}],"usageMetadata":{{{usage}}},{rest}}}\r\n\r\n'


def _ollama(text: str, rest: str) -> str:
    at = '"created_at":"2024-05-24T20:26:46.294874Z"'
    return f'{{"model":"real-model",{at},"message":{{"role":"assistant","content":"{text}"}},{rest}}}\n'


SPEECHES = {
    "openai": Speech(kind="text/event-stream", begins="", text=EVENT % CONTENT, ends=ENDED + USAGE + "data: [DONE]\n\n"),
    "anthropic": Speech(
        kind="text/event-stream",
        begins=_anthropic(
            "message_start",
            ',"message":{"id":"m","type":"message","role":"assistant","model":"real-model","content":[],"stop_reason":null,'
            '"usage":{"input_tokens":12,"output_tokens":1}}',
        )
        + _anthropic("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}'),
        text=_anthropic("content_block_delta", ',"index":0,"delta":{"type":"text_delta","text":"' + TEXT + '"}'),
        ends=_anthropic("content_block_stop", ',"index":0')
        + _anthropic("message_delta", ',"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":8}')
        + _anthropic("message_stop", ""),
    ),
    "gemini": Speech(
        kind="text/event-stream",
        begins="",
        text=_gemini(TEXT, "", '"promptTokenCount":12,"totalTokenCount":12'),
        ends=_gemini("", '"finishReason":"STOP",', '"promptTokenCount":12,"candidatesTokenCount":8,"totalTokenCount":20'),
    ),
    "ollama": Speech(
        kind="application/x-ndjson",
        begins="",
        text=_ollama(TEXT, '"done":false'),
        ends=_ollama("", '"done_reason":"stop","done":true,"prompt_eval_count":12,"eval_count":8'),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is counted: one whole answer, one chunk of a stream, or one stream of a single chunk from its request to its end."""

    what: str = "unary"  # unary | chunk | stream
    dialect: str = "openai"
    ledger: bool = False
    budgets: bool = False
    models: int = 1
    prompt_bytes: int = 60


CASES = {
    "unary": Case(),
    "unary, ledger": Case(ledger=True),
    "unary, 3 budgets": Case(budgets=True),
    "unary, 3 budgets and ledger": Case(budgets=True, ledger=True),
    "unary, 10,000 models": Case(models=10_000),
    "unary, 100 KB": Case(prompt_bytes=100_000),
    "stream of one chunk": Case(what="stream"),
    "stream of one chunk, ledger": Case(what="stream", ledger=True),
    "chunk": Case(what="chunk"),
    "chunk, ledger": Case(what="chunk", ledger=True),
    "chunk from anthropic": Case(what="chunk", dialect="anthropic"),
    "chunk from gemini": Case(what="chunk", dialect="gemini"),
    "chunk from ollama": Case(what="chunk", dialect="ollama"),
}


class Stage:
    """A gateway that serves one case; each `step` is one unit of what the case counts."""

    def __init__(self, case: Case, loop: StepLoop, graph: Graph, directory: pathlib.Path) -> None:
        self._case, self.loop, self._speech = case, loop, SPEECHES[case.dialect]
        metrics = Metrics()
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._access = AccessLog("text", metrics.counter("routerd_access_records_dropped_total", "0"), LineWriter(self._null))
        self._outbox = Outbox(lambda batch: True, metrics.counter("routerd_ledger_dropped_total"))
        self._gateway = Gateway(
            counters=LocalCounters.create(workers=1),
            health=Health(Board.create(workers=1, worker=0)),
            metrics=metrics,
            access=self._access.add,
            ledger=self._outbox.add if case.ledger else None,
        )
        self._gateway.swap(loop.run(self._gateway.prepare(1, graph)))
        loop.run(self._gateway.start(None))  # type: ignore[arg-type]  # this loop listens without a socket
        self.client = loop.connect()
        self._ask = _request(f"m{case.models - 1}", case.prompt_bytes, stream=case.what != "unary")
        self._answer = _whole(WHOLE)
        self._chunk = _framed(self._speech.text)
        begins, ends = self._speech.begins + self._speech.text, self._speech.ends
        self._opening = _head(self._speech.kind) + _framed(begins)
        self._ending = _framed(ends) + b"0\r\n\r\n"
        self._open = False
        self.step: Callable[[], None] = {"unary": self._unary, "chunk": self._one_chunk, "stream": self._stream}[case.what]

    def begin(self) -> None:
        """Get ready for `step`: a chunk needs a stream that is open."""
        if self._case.what == "chunk" and not self._open:
            self._open_stream()
            self._open = True

    def end(self) -> None:
        """Come to rest: the stream is ended, what waits is handed over."""
        if self._open:
            self._close_stream()
            self._open = False
        self.hand_over()

    def hand_over(self) -> None:
        """Do what a worker does each 100 ms."""
        self._outbox.flush()
        while self._access.flush():
            pass

    def close(self) -> None:
        """Part: the client and the upstreams close their connections."""
        for wire in (self.client, *self.loop.upstreams):
            wire.close()
        self.loop.turn()
        os.close(self._null)

    def _unary(self) -> None:
        self.client.feed(self._ask)
        self.loop.turn()
        self._upstream().feed(self._answer)
        self.loop.turn()
        _expect(self.client, b'"finish_reason":"stop"')

    def _one_chunk(self) -> None:
        self.loop.upstreams[-1].feed(self._chunk)
        self.loop.turn()
        _expect(self.client, TEXT.encode())

    def _stream(self) -> None:
        self._open_stream()
        self._close_stream()

    def _open_stream(self) -> None:
        self.client.feed(self._ask)
        self.loop.turn()
        self._upstream().feed(self._opening)
        self.loop.turn()
        _expect(self.client, TEXT.encode())

    def _close_stream(self) -> None:
        self.loop.upstreams[-1].feed(self._ending)
        self.loop.turn()
        _expect(self.client, b"data: [DONE]\n\n")

    def _upstream(self) -> Wire:
        if not self.loop.upstreams:
            raise AssertionError(f"no upstream was asked; the client got {self.client.taken()!r}")
        upstream = self.loop.upstreams[-1]
        _expect(upstream, b"real-model" if self._case.dialect != "gemini" else b"POST ")
        return upstream


@contextmanager
def staged(case: Case) -> Iterator[Stage]:
    """Give a stage in a running loop."""
    loop = StepLoop()  # type: ignore[abstract]  # what nobody asks for is not there
    with tempfile.TemporaryDirectory(prefix="routerd-count-") as scratch:
        graph = _graph(case, pathlib.Path(scratch))
        with loop.running():
            stage = Stage(case, loop, graph, pathlib.Path(scratch))
            try:
                yield stage
            finally:
                stage.close()


def _graph(case: Case, directory: pathlib.Path) -> Graph:
    text = ROUTES.replace("DIALECT", case.dialect)
    text = text.replace("BUDGETS_OF_MODEL", "budgets: [tokens]" if case.budgets else "")
    path = directory / "routes.yaml"
    path.write_text(text.replace("BUDGETS_OF_CLIENT", "budgets: [requests, slots]" if case.budgets else ""))
    graph = load(path, {}).graph
    first = graph.routes["m0"]
    routes = {f"m{i}": replace(first, name=f"m{i}") for i in range(case.models)}
    return replace(graph, routes=routes)


def _request(model: str, prompt_bytes: int, *, stream: bool) -> bytes:
    prompt = "Hello there, how are you today? Answer in one line, please. "
    prompt = (prompt * (prompt_bytes // len(prompt) + 1))[:prompt_bytes]
    messages = f'[{{"role":"system","content":"You are terse."}},{{"role":"user","content":"{prompt}"}}]'
    rest = ',"stream":true' if stream else ""
    data = f'{{"model":"{model}","messages":{messages},"max_tokens":64{rest}}}'.encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    return (head + f"Authorization: Bearer sk-bench\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data


def _whole(body: str) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _head(kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def _framed(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text.encode())


def _expect(wire: Wire, part: bytes) -> None:
    said: Any = wire.taken()
    if part not in said or (said.startswith(b"HTTP/1.1 ") and said[9:10] != b"2"):
        raise AssertionError(f"no {part!r} in {said[-1000:]!r}")
