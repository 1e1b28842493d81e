"""The fault grid: each way an upstream can fail before the commit, unary and streamed, with a next target and without.

With a next target the client sees only that target's answer. Without one it sees the status and the code of the table. One daemon
serves the whole grid; every fault has an upstream of its own, so that no cooldown reaches another row. Where each cell is proven:

    fault                                                   here                        elsewhere in tests/e2e
    name, refused, reset, TLS, hangs up                     GRID
    accepts and never answers; headers, then nothing        GRID
    401, 403, 402 and other empty accounts, 404             GRID
    400 and other 4xx of the request                        THE_CLIENTS                 test_endpoints (no breaker counts them)
    400 context length                                      TOO_LONG
    cold                                                    GRID                        test_cold_start
    408, 409, 425, 429, 500, 502, 503, 504, 529             GRID
    Retry-After in all its forms                            WAITS                       test_endpoints (for every worker)
    200 empty, not JSON, wrong type, cut, without content   GRID
    total, deadline                                         the last tests
    after the commit: idle, cut, error event, malformed,    test_faults_committed, in OpenAI's words, in Anthropic's, translated
      stream_total, client gone, slow client
    keep-alive comments, CRLF, split UTF-8, many packets    test_streams, test_upstream_http: no fault
"""

from __future__ import annotations

import asyncio
import pathlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import formatdate
from time import time

import pytest
import pytest_asyncio

from tests.support import answers
from tests.support.answers import DONE, cut, delta, error, event, events, reply
from tests.support.daemon import Daemon
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.upstream import Answer, Call, Upstream, closed_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTML = (("content-type", "text/html"),)
TIMEOUTS = "defaults: {timeouts: {connect: 1s, first_byte: 400ms, first_token: 600ms, idle: 500ms, total: 5s}}"
UNTRUSTED = pathlib.Path(__file__).parents[1] / "support" / "tls" / "untrusted.pem"  # signed by itself; its key is no secret
COLD = "cold_start: {when: [{status: 503}, {status: 400, body: cold}], attempts: 2, backoff: {first: 10ms, factor: 1, jitter: 0}}"
FAULT_EVENT = event({"error": {"message": "overloaded", "code": 503}})


@dataclass(frozen=True)
class Fault:
    """What the upstream does; the status and code the client gets when nobody else is left."""

    answer: Answer | None
    status: int
    code: str
    unary: bool = True
    stream: bool = True
    more: str = ""  # of the provider
    attempts: int = 1  # that are made when nobody else is left


GRID = {
    "refused": Fault(None, 502, "upstream_connect"),
    "name-does-not-resolve": Fault(None, 502, "upstream_connect"),
    "reset": Fault(answers.reset, 502, "upstream_connect"),
    "hangs-up": Fault(answers.hang_up, 502, "upstream_connect"),
    "certificate-of-nobody": Fault(answers.hang, 502, "upstream_tls"),
    "no-tls-at-all": Fault(None, 502, "upstream_tls"),
    "never-answers": Fault(answers.hang, 504, "upstream_timeout"),
    "head-then-nothing": Fault(answers.hang_after_head, 504, "upstream_timeout"),
    "401": Fault(error(401, "bad key"), 502, "upstream_auth"),
    "403": Fault(error(403, "no"), 502, "upstream_auth"),
    "402": Fault(error(402, "pay"), 502, "upstream_credits"),
    "no-credit-by-429": Fault(error(429, "You exceeded your quota", code="insufficient_quota"), 502, "upstream_credits"),
    "no-key-by-400": Fault(error(400, "Incorrect API key provided: sk-x"), 502, "upstream_auth"),
    "404": Fault(error(404, "The model `x` does not exist", code="model_not_found"), 502, "upstream_model_missing"),
    "no-such-path": Fault(reply(b"<html>404</html>", status=404, headers=HTML), 502, "upstream_model_missing"),
    "405": Fault(error(405), 502, "upstream_protocol"),
    "307": Fault(error(307, headers=[("location", "http://127.0.0.1:1/")]), 502, "upstream_protocol"),
    "cold-503": Fault(error(503, "Loading model"), 503, "upstream_cold", more=COLD, attempts=2),
    "cold-400": Fault(error(400, "it is cold"), 503, "upstream_cold", more=COLD, attempts=2),
    "408": Fault(error(408), 408, ""),
    "409": Fault(error(409), 409, ""),
    "425": Fault(error(425), 425, ""),
    "429": Fault(error(429, headers=[("retry-after", "3")]), 429, ""),
    "500": Fault(error(500), 500, ""),
    "502": Fault(reply(b"<html>Bad gateway</html>", status=502, headers=HTML), 502, ""),
    "503": Fault(error(503), 503, ""),
    "504": Fault(error(504), 504, ""),
    "529": Fault(error(529, "Overloaded"), 529, ""),
    "empty-200": Fault(reply(b""), 502, "upstream_protocol"),
    "text-200": Fault(reply(b"all is well", headers=(("content-type", "text/plain"),)), 502, "upstream_protocol"),
    "events-for-json": Fault(answers.stream(["x"]), 502, "upstream_protocol", stream=False),
    "json-for-events": Fault(reply(), 502, "upstream_protocol", unary=False),
    "html-200": Fault(reply(b"<html></html>", headers=HTML), 502, "upstream_protocol"),
    "json-without-answer": Fault(reply({"hello": 1}), 502, "upstream_protocol", stream=False),
    "error-in-200": Fault(reply({"error": {"message": "no provider", "code": 502}}), 502, "", stream=False),
    "cut-body": Fault(answers.cut_unary(), 502, "", stream=False),
    "error-event-first": Fault(events(FAULT_EVENT, DONE), 502, "", unary=False),
    "ends-without-content": Fault(events(event(delta("", role="assistant")), DONE), 502, "", unary=False),
    "empty-events": Fault(events(b": hello\n\n"), 502, "upstream_protocol", unary=False),
    "malformed-before-content": Fault(events(*[event("{no")] * 3), 502, "upstream_stream_error", unary=False),
    "comments-for-ever": Fault(answers.drip(b": wait\n\n"), 504, "upstream_timeout", unary=False),
    "cut-before-content": Fault(cut(event(delta("", role="assistant"))), 502, "", unary=False),
}
ROWS = [
    pytest.param(name, stream, id=f"{name}-{'stream' if stream else 'unary'}")
    for name, fault in GRID.items()
    for stream in (False, True)
    if (fault.stream if stream else fault.unary)
]


@dataclass(frozen=True)
class Rig:
    """The daemon, the upstream that works, and those that do not."""

    daemon: Daemon
    good: Upstream


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Upstream())
        good.always(_answer_either)
        providers, models = [], []
        for name, fault in GRID.items():
            for kind in ("unary", "stream"):
                for left in ("next", "last"):
                    at = f"{name}-{kind}-{left}"
                    url = await _url(stack, name, fault)
                    own = f", {fault.more}" if fault.more else ""
                    providers.append(f'  {at}: {{dialect: openai, base_url: "{url}", auth: {{type: none}}{own}}}')
                    chain = f"[{at}/x, good/y]" if left == "next" else f"[{at}/x]"
                    models.append(f"  {at}: {{chain: {chain}}}")
        providers.append(f'  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}')
        text = "\n".join(["version: 1", "providers:", *providers, "models:", *models, TIMEOUTS])
        running = Daemon(pathlib.Path(tmp_path_factory.mktemp("faults")), text)
        try:
            yield Rig(running, good)
        finally:
            running.stop()


async def _answer_either(call: Call) -> None:
    streamed = call.request.json().get("stream")
    await (answers.stream(["good"]) if streamed else reply(answers.completion("good")))(call)


async def _url(stack: AsyncExitStack, name: str, fault: Fault) -> str:
    if name == "refused":
        return f"http://127.0.0.1:{closed_port()}/v1"
    if name == "name-does-not-resolve":
        return "http://no-such-host.invalid/v1"
    if name == "no-tls-at-all":
        server = await asyncio.start_server(_not_tls, "127.0.0.1", 0)
        stack.callback(server.close)
        return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    assert fault.answer is not None
    tls = None
    if name == "certificate-of-nobody":
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(UNTRUSTED)
    upstream = await stack.enter_async_context(Upstream(tls=tls))
    upstream.always(fault.answer)
    return upstream.url


async def _not_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    writer.close()


async def _ask(rig: Rig, name: str, stream: bool, left: str) -> Fetched:
    body = ask(f"{name}-{'stream' if stream else 'unary'}-{left}", **({"stream": True} if stream else {}))
    return await fetch(rig.daemon, CHAT, body)


@pytest.mark.parametrize(("name", "stream"), ROWS)
async def test_with_a_next_target_the_client_sees_only_its_answer(rig: Rig, name: str, stream: bool) -> None:
    answer = await _ask(rig, name, stream, "next")
    assert answer.status == 200, answer.body
    assert answer.headers["x-routerd-target"] == "good/y"
    if stream:
        assert answer.events()[-1] == "[DONE]"
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in answer.events()[:-1] if e["choices"]) == "good"
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "good"


@pytest.mark.parametrize(("name", "stream"), ROWS)
async def test_with_none_left_the_client_is_told_what_happened(rig: Rig, name: str, stream: bool) -> None:
    answer = await _ask(rig, name, stream, "last")
    assert answer.status == GRID[name].status, answer.body
    assert not GRID[name].code or answer.error["code"] == GRID[name].code
    assert len(answer.error["attempts"]) == GRID[name].attempts
    assert ("retry-after" in answer.headers) == (name in ("429", "cold-503", "cold-400"))
    assert answer.headers["content-type"].startswith("application/json")
    assert b"127.0.0.1" not in answer.body
    assert b"invalid/v1" not in answer.body


# ── what is the client's own fault: the same everywhere, nobody else is asked ──

Start = Callable[..., Daemon]
CHAINS = {"next": "up/x, good/y", "last": "up/x"}
THE_CLIENTS = {
    "400": (error(400, "temperature must be at most 2", code="bad_value"), 400, "bad_value"),
    "413": (error(413, "too large"), 413, None),
    "422": (error(422, "messages: field required"), 422, None),
    "403-moderation": (error(403, "Your input was flagged by moderation"), 403, None),
}


def routes(bad: Upstream, good: Upstream, chain: str, more: str = "", defaults: str = "") -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{bad.url}", auth: {{type: none}}}}
  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}
models:
  m: {{chain: [{chain}]{more}}}
defaults: {{timeouts: {{connect: 1s, first_byte: 5s{defaults}}}}}
"""


@pytest.fixture
async def bad() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
async def good() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        server.always(_answer_either)
        yield server


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("left", CHAINS)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_mistake_in_the_request_is_told_as_it_is_and_nobody_else_is_asked(
    daemon: Start, bad: Upstream, good: Upstream, stream: bool, left: str
) -> None:
    running = daemon(routes(bad, good, CHAINS[left]))
    for answer, status, code in THE_CLIENTS.values():
        bad.script(answer)
        told = await fetch(running, CHAT, ask(stream=stream))
        assert (told.status, told.error["code"]) == (status, code)
        assert told.headers["x-routerd-error-source"] == "upstream"
    assert good.requests == []
    standing = next(one for one in (await running.status())["endpoints"] if one["endpoint"] == "up")
    assert standing["rank"] == "free"


TOO_LONG = {
    "code": error(400, "no", code="context_length_exceeded"),
    "words": error(400, "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"),
    "413": error(413, "Prompt is too long"),
}


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_prompt_that_is_too_long_goes_to_its_own_chain_else_the_400_as_it_is(
    daemon: Start, bad: Upstream, good: Upstream, stream: bool, said: str
) -> None:
    bad.always(TOO_LONG[said])
    for chain in CHAINS.values():
        told = await fetch(daemon(routes(bad, good, chain)), CHAT, ask(stream=stream))
        assert (told.status, told.error["code"]) == (400, "context_length_exceeded")
        assert good.requests == []
    running = daemon(routes(bad, good, "up/x, up/z", ", failover: {context_overflow: [up/longer, good/y]}"))
    told = await fetch(running, CHAT, ask(stream=stream))
    assert told.status == 400  # the first of that chain says the same: it is not asked again and again
    assert [request.json()["model"] for request in bad.requests[2:]] == ["x", "longer"]
    running = daemon(routes(bad, good, "up/x, up/z", ", failover: {context_overflow: [good/y]}"))
    told = await fetch(running, CHAT, ask(stream=stream))
    assert (told.status, told.headers["x-routerd-target"]) == (200, "good/y")
    assert told.headers["x-routerd-attempts"].startswith("up:context_length/")


# ── Retry-After ──

WAITS: dict[str, tuple[str, str]] = {
    "seconds": ("retry-after", "40"),
    "date": ("retry-after", ""),  # in 40 s
    "milliseconds": ("retry-after-ms", "40000"),
    "reset in words": ("x-ratelimit-reset-requests", "40s"),
    "reset in seconds": ("x-ratelimit-reset", "40"),
}


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("form", WAITS)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_endpoint_that_asks_for_time_gets_it_from_every_request(
    daemon: Start, bad: Upstream, good: Upstream, form: str, stream: bool
) -> None:
    name, value = WAITS[form]
    used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-remaining-requests", "0")]
    asked_for = (name, value or formatdate(time() + 40, usegmt=True))
    bad.always(error(429, "slow down", headers=[asked_for, *used_up]))
    text = routes(bad, good, CHAINS["next"], "}\n  alone: {chain: [up/x]")
    running = daemon(text)
    found = [await fetch(running, CHAT, ask(stream=stream)) for _ in range(3)]
    assert [one.headers["x-routerd-target"] for one in found] == ["good/y"] * 3
    assert len(bad.requests) == 1
    told = await fetch(running, CHAT, ask("alone", stream=stream))  # when there is nobody else it is asked all the same
    assert told.status == 429
    assert 30 <= int(told.headers["retry-after"]) <= 41
    assert len(bad.requests) == 2


@pytest.mark.asyncio(loop_scope="function")
async def test_of_several_that_ask_for_time_the_client_is_told_the_shortest(daemon: Start, bad: Upstream) -> None:
    bad.script(error(429, headers=[("retry-after", "7")]), error(429, headers=[("retry-after", "90")]))
    told = await fetch(daemon(routes(bad, bad, "up/x, up/y")), CHAT, ask())
    assert (told.status, told.headers["retry-after"]) == (429, "7")


# ── the time for everything ──


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("left", CHAINS)
async def test_an_answer_that_drips_past_total_is_504_whoever_is_left(
    daemon: Start, bad: Upstream, good: Upstream, left: str
) -> None:
    bad.always(answers.drip(b" "))
    told = await fetch(daemon(routes(bad, good, CHAINS[left], defaults=", total: 600ms")), CHAT, ask())
    assert (told.status, told.error["code"]) == (504, "upstream_timeout")
    assert good.requests == []


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_deadline_is_of_all_attempts_together(daemon: Start, bad: Upstream, good: Upstream, stream: bool) -> None:
    bad.always(answers.hang)
    more = ", failover: {deadline: 700ms, max_attempts: 9}, retry: {attempts: 5, backoff: {first: 10ms}}"
    began_s = asyncio.get_running_loop().time()
    told = await fetch(daemon(routes(bad, good, "up/x, up/y", more, ", first_token: 300ms")), CHAT, ask(stream=stream))
    assert (told.status, told.error["code"]) == (504, "upstream_timeout")
    assert len(bad.requests) == 1
    assert asyncio.get_running_loop().time() - began_s < 4
