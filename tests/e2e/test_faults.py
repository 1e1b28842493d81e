"""The fault grid: each way an upstream can fail, unary and streamed, with a next target and without.

With a next target the client sees only that target's answer. Without one it sees the status and the code of the table. One daemon
serves the whole grid; every fault has an upstream of its own, so that no cooldown reaches another row.
"""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support import answers
from tests.support.answers import DONE, cut, delta, error, event, events, reply
from tests.support.daemon import Daemon
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.upstream import Answer, Upstream, closed_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTML = (("content-type", "text/html"),)
TIMEOUTS = "defaults: {timeouts: {connect: 1s, first_byte: 400ms, first_token: 600ms, total: 5s}}"
FAULT_EVENT = event({"error": {"message": "overloaded", "code": 503}})


@dataclass(frozen=True)
class Fault:
    """What the upstream does; the status and code the client gets when nobody else is left."""

    answer: Answer | None
    status: int
    code: str
    unary: bool = True
    stream: bool = True


GRID = {
    "refused": Fault(None, 502, "upstream_connect"),
    "name-does-not-resolve": Fault(None, 502, "upstream_connect"),
    "reset": Fault(answers.reset, 502, "upstream_connect"),
    "hangs-up": Fault(answers.hang_up, 502, "upstream_connect"),
    "never-answers": Fault(answers.hang, 504, "upstream_timeout"),
    "head-then-nothing": Fault(answers.hang_after_head, 504, "upstream_timeout", unary=False),
    "401": Fault(error(401, "bad key"), 502, "upstream_auth"),
    "403": Fault(error(403, "no"), 502, "upstream_auth"),
    "402": Fault(error(402, "pay"), 502, "upstream_credits"),
    "404": Fault(error(404, "The model `x` does not exist", code="model_not_found"), 502, "upstream_model_missing"),
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
    "html-200": Fault(reply(b"<html></html>", headers=HTML), 502, "upstream_protocol"),
    "json-without-answer": Fault(reply({"hello": 1}), 502, "upstream_protocol", stream=False),
    "error-in-200": Fault(reply({"error": {"message": "no provider", "code": 502}}), 502, "", stream=False),
    "cut-body": Fault(answers.cut_unary(), 502, "", stream=False),
    "error-event-first": Fault(events(FAULT_EVENT, DONE), 502, "", unary=False),
    "ends-without-content": Fault(events(event(delta("", role="assistant")), DONE), 502, "", unary=False),
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
                    providers.append(f'  {at}: {{dialect: openai, base_url: "{url}", auth: {{type: none}}}}')
                    chain = f"[{at}/x, good/y]" if left == "next" else f"[{at}/x]"
                    models.append(f"  {at}: {{chain: {chain}}}")
        providers.append(f'  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}')
        text = "\n".join(["version: 1", "providers:", *providers, "models:", *models, TIMEOUTS])
        running = Daemon(pathlib.Path(tmp_path_factory.mktemp("faults")), text)
        try:
            yield Rig(running, good)
        finally:
            running.stop()


async def _answer_either(call: object) -> None:
    body = call.request.json()  # type: ignore[attr-defined]
    await (answers.stream(["good"]) if body.get("stream") else reply(answers.completion("good")))(call)  # type: ignore[arg-type]


async def _url(stack: AsyncExitStack, name: str, fault: Fault) -> str:
    if name == "refused":
        return f"http://127.0.0.1:{closed_port()}/v1"
    if name == "name-does-not-resolve":
        return "http://no-such-host.invalid/v1"
    assert fault.answer is not None
    upstream = await stack.enter_async_context(Upstream())
    upstream.always(fault.answer)
    return upstream.url


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
    assert len(answer.error["attempts"]) == 1
    assert answer.headers["content-type"].startswith("application/json")
    assert b"127.0.0.1" not in answer.body
    assert b"invalid/v1" not in answer.body
