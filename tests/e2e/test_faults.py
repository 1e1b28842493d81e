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
from collections.abc import AsyncIterator, Mapping
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
from tests.support.ports import closed_port
from tests.support.upstream import Answer, Call, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTML = (("content-type", "text/html"),)
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
CELLS = [(name, s) for name, fault in GRID.items() for s in (False, True) if (fault.stream if s else fault.unary)]
ROWS = [pytest.param(name, stream, id=f"{name}-{'stream' if stream else 'unary'}") for name, stream in CELLS]
CHAINS = {"next": "up/x, good/y", "last": "up/x"}

# What single tests ask: an upstream each, and models of it.
TOO_LONG = {
    "code": error(400, "no", code="context_length_exceeded"),
    "words": error(400, "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"),
    "413": error(413, "Prompt is too long"),
}
WAITS: dict[str, tuple[str, str]] = {
    "seconds": ("retry-after", "40"),
    "date": ("retry-after", ""),  # in 40 s
    "milliseconds": ("retry-after-ms", "40000"),
    "words": ("x-ratelimit-reset-requests", "40s"),
    "reset": ("x-ratelimit-reset", "40"),
}
_EACH = {left: f"chain: [{chain}]" for left, chain in CHAINS.items()}
_OVERFLOWS = {
    "longer": "chain: [up/x, up/z], failover: {context_overflow: [up/longer, good/y]}",
    "over": "chain: [up/x, up/z], failover: {context_overflow: [good/y]}",
}
_RETRIES = "retry: {attempts: 5, backoff: {first: 10ms}}, timeouts: {first_token: 300ms}"
_DEADLINE = f"failover: {{deadline: 700ms, max_attempts: 9}}, {_RETRIES}"
OTHERS: dict[str, dict[str, str]] = {
    "mistake": _EACH,
    **{f"long-{said}": {**_EACH, **_OVERFLOWS} for said in TOO_LONG},
    **{f"waits-{form}-{kind}": _EACH for form in WAITS for kind in ("unary", "stream")},
    "several": {"m": "chain: [up/x, up/y]"},
    "drips": {left: f"{chain}, timeouts: {{total: 600ms}}" for left, chain in _EACH.items()},
    "silent": dict.fromkeys(("unary", "stream"), f"chain: [up/x, up/y], {_DEADLINE}"),
}
KINDS = {False: "unary", True: "stream"}
SHORT = "timeouts: {first_byte: 300ms, first_token: 450ms, idle: 400ms}"  # of who says nothing; the others have their time


@dataclass(frozen=True)
class Rig:
    """The daemon, the upstream that works, those of single tests by name, and what came of every cell of the grid."""

    daemon: Daemon
    good: Upstream
    others: Mapping[str, Upstream]
    cells: Mapping[tuple[str, bool, str], Fetched]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """All cells are asked at once, each of an upstream of its own: together they take as long as the slowest."""
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Upstream())
        good.always(_answer_either)
        providers = [f'  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}']
        models = []
        asked = [(name, stream, left) for name, stream in CELLS for left in CHAINS]
        for name, stream, left in asked:
            at, fault = f"{name}-{KINDS[stream]}-{left}", GRID[name]
            own = "".join(f", {more}" for more in (fault.more, SHORT if fault.status == 504 else "") if more)
            url = await _url(stack, name, fault)
            providers.append(f'  {at}: {{dialect: openai, base_url: "{url}", auth: {{type: none}}{own}}}')
            models.append(f"  {at}: {{chain: [{CHAINS[left].replace('up', at)}]}}")
        others = {}
        for at, lines in OTHERS.items():
            up = others[at] = await stack.enter_async_context(Upstream())
            providers.append(f'  {at}: {{dialect: openai, base_url: "{up.url}", auth: {{type: none}}}}')
            models += [f"  {at}-{model}: {{{line.replace('up', at)}}}" for model, line in lines.items()]
        text = "\n".join(["version: 1", "providers:", *providers, "models:", *models])
        running = Daemon(tmp_path_factory.mktemp("faults"), text)
        try:
            found = await asyncio.gather(*(_ask(running, f"{n}-{KINDS[s]}-{left}", s) for n, s, left in asked))
            yield Rig(running, good, others, dict(zip(asked, found, strict=True)))
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


async def _ask(daemon: Daemon, model: str, stream: bool) -> Fetched:
    return await fetch(daemon, CHAT, ask(model, **({"stream": True} if stream else {})))


@pytest.mark.parametrize(("name", "stream"), ROWS)
async def test_with_a_next_target_the_client_sees_only_its_answer(rig: Rig, name: str, stream: bool) -> None:
    answer = rig.cells[name, stream, "next"]
    assert answer.status == 200, answer.body
    assert answer.headers["x-routerd-target"] == "good/y"
    if stream:
        assert answer.events()[-1] == "[DONE]"
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in answer.events()[:-1] if e["choices"]) == "good"
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "good"


@pytest.mark.parametrize(("name", "stream"), ROWS)
async def test_with_none_left_the_client_is_told_what_happened(rig: Rig, name: str, stream: bool) -> None:
    answer = rig.cells[name, stream, "last"]
    assert answer.status == GRID[name].status, answer.body
    assert not GRID[name].code or answer.error["code"] == GRID[name].code
    assert len(answer.error["attempts"]) == GRID[name].attempts
    assert ("retry-after" in answer.headers) == (name in ("429", "cold-503", "cold-400"))
    assert answer.headers["content-type"].startswith("application/json")
    assert b"127.0.0.1" not in answer.body
    assert b"invalid/v1" not in answer.body


# ── what is the client's own fault: the same everywhere, nobody else is asked ──

THE_CLIENTS = {
    "400": (error(400, "temperature must be at most 2", code="bad_value"), 400, "bad_value"),
    "413": (error(413, "too large"), 413, None),
    "422": (error(422, "messages: field required"), 422, None),
    "403-moderation": (error(403, "Your input was flagged by moderation"), 403, None),
}


@pytest.mark.parametrize("left", CHAINS)
@pytest.mark.parametrize("stream", KINDS, ids=KINDS.values())
async def test_a_mistake_in_the_request_is_told_as_it_is_and_nobody_else_is_asked(rig: Rig, stream: bool, left: str) -> None:
    good = len(rig.good.requests)
    for answer, status, code in THE_CLIENTS.values():
        rig.others["mistake"].script(answer)
        told = await _ask(rig.daemon, f"mistake-{left}", stream)
        assert (told.status, told.error["code"]) == (status, code)
        assert told.headers["x-routerd-error-source"] == "upstream"
    assert len(rig.good.requests) == good
    standing = next(one for one in (await rig.daemon.status())["endpoints"] if one["endpoint"] == "mistake")
    assert (standing["rank"], standing["failures"]) == ("free", 0)


@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("stream", KINDS, ids=KINDS.values())
async def test_a_prompt_that_is_too_long_goes_to_its_own_chain_else_the_400_as_it_is(rig: Rig, stream: bool, said: str) -> None:
    name, good = f"long-{said}", len(rig.good.requests)
    bad = rig.others[name]
    bad.always(TOO_LONG[said])
    for left in CHAINS:
        told = await _ask(rig.daemon, f"{name}-{left}", stream)
        assert (told.status, told.error["code"]) == (400, "context_length_exceeded")
    asked = len(bad.requests)
    told = await _ask(rig.daemon, f"{name}-longer", stream)
    assert told.status == 400  # the first of that chain says the same: it is not asked again and again
    assert [request.json()["model"] for request in bad.requests[asked:]] == ["x", "longer"]
    assert len(rig.good.requests) == good
    told = await _ask(rig.daemon, f"{name}-over", stream)
    assert (told.status, told.headers["x-routerd-target"]) == (200, "good/y")
    assert told.headers["x-routerd-attempts"].startswith(f"{name}:context_length/")


# ── Retry-After ──


@pytest.mark.parametrize("form", WAITS)
@pytest.mark.parametrize("stream", KINDS, ids=KINDS.values())
async def test_an_endpoint_that_asks_for_time_gets_it_from_every_request(rig: Rig, form: str, stream: bool) -> None:
    model, (field, value) = f"waits-{form}-{KINDS[stream]}", WAITS[form]
    bad = rig.others[model]
    used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-remaining-requests", "0")]
    asked_for = (field, value or formatdate(time() + 40, usegmt=True))
    bad.always(error(429, "slow down", headers=[asked_for, *used_up]))
    found = [await _ask(rig.daemon, f"{model}-next", stream) for _ in range(3)]
    assert [one.headers["x-routerd-target"] for one in found] == ["good/y"] * 3
    assert len(bad.requests) == 1
    told = await _ask(rig.daemon, f"{model}-last", stream)  # when there is nobody else it is asked all the same
    assert told.status == 429
    assert 20 <= int(told.headers["retry-after"]) <= 41
    assert len(bad.requests) == 2


async def test_of_several_that_ask_for_time_the_client_is_told_the_shortest(rig: Rig) -> None:
    asks = (error(429, headers=[("retry-after", "7")]), error(429, headers=[("retry-after", "90")]))
    rig.others["several"].script(*asks)
    told = await _ask(rig.daemon, "several-m", False)
    assert (told.status, told.headers["retry-after"]) == (429, "7")


# ── the time for everything ──


@pytest.mark.parametrize("left", CHAINS)
async def test_an_answer_that_drips_past_total_is_504_whoever_is_left(rig: Rig, left: str) -> None:
    good = len(rig.good.requests)
    rig.others["drips"].always(answers.drip(b" "))
    told = await _ask(rig.daemon, f"drips-{left}", False)
    assert (told.status, told.error["code"]) == (504, "upstream_timeout")
    assert len(rig.good.requests) == good


@pytest.mark.parametrize("stream", KINDS, ids=KINDS.values())
async def test_the_deadline_is_of_all_attempts_together(rig: Rig, stream: bool) -> None:
    silent = rig.others["silent"]
    silent.always(answers.hang)
    asked, began_s = len(silent.requests), asyncio.get_running_loop().time()
    told = await _ask(rig.daemon, f"silent-{KINDS[stream]}", stream)
    assert (told.status, told.error["code"]) == (504, "upstream_timeout")
    assert len(silent.requests) == asked + 1
    assert asyncio.get_running_loop().time() - began_s < 4
