"""Access tokens in control: one question for all, renewed ahead, failures that do not become storms. Time moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routerd.attempt import TokenNews
from routerd.daemon.outside import OutsideFault, Reply, TokenKeeper
from routerd.errors import ErrorKind
from routerd.graph import ClientCredentials, Secret
from tests.daemon.fakes import until

SOURCE = ClientCredentials(token_url="http://l/t", client_id="me", client_secret=Secret("s3cret-s3cret"))


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Server:
    """A token endpoint; `answers` are given in turn, the last one for ever."""

    def __init__(self, *answers: Reply | OutsideFault) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, **more: Any) -> Reply:
        self.asked += 1
        await asyncio.sleep(0)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, OutsideFault):
            raise found
        return found


class Desk:
    def __init__(self, *answers: Reply | OutsideFault) -> None:
        self.server = Server(*answers)
        self.told: list[TokenNews] = []
        self.subjects: set[Any] = set()
        self.now_s = 1000.0
        self.timers: list[tuple[float, int, Handle, Callable[..., None], tuple[Any, ...]]] = []
        self.keeper = TokenKeeper(self.server, self._tell, self.subjects.discard)  # type: ignore[arg-type]
        self.keeper._loop = self  # type: ignore[assignment]

    def _tell(self, news: TokenNews, subject: Any) -> None:
        self.told.append(news)
        if subject is not None:
            self.subjects.add(subject)

    def time(self) -> float:
        return self.now_s

    def call_later(self, wait_s: float, call: Callable[..., None], *args: Any) -> Handle:
        handle = Handle()
        heapq.heappush(self.timers, (self.now_s + wait_s, len(self.timers), handle, call, args))
        return handle

    def pass_s(self, length_s: float) -> None:
        self.now_s += length_s
        while self.timers and self.timers[0][0] <= self.now_s:
            _, _, handle, call, args = heapq.heappop(self.timers)
            if not handle.cancelled:
                call(*args)

    async def news(self, count: int) -> TokenNews:
        await until(lambda: len(self.told) >= count and all(k.fetch is None for k in self.keeper._kept.values()))
        assert len(self.told) == count
        return self.told[-1]


def granted(value: str, expires_in: int = 1000) -> Reply:
    return Reply(200, json.dumps({"access_token": value, "expires_in": expires_in}).encode())


async def test_one_question_serves_everybody_who_asks_meanwhile() -> None:
    desk = Desk(granted("one"))
    for _ in range(50):
        desk.keeper.want(SOURCE, "")
    assert (await desk.news(1)).value == "one"
    assert desk.server.asked == 1


@pytest.mark.parametrize(("lifetime_s", "early_s"), [(3600, 60.0), (100, 10.0), (600, 60.0)])
async def test_a_token_is_renewed_ahead(lifetime_s: int, early_s: float) -> None:
    desk = Desk(granted("one", lifetime_s), granted("two", lifetime_s))
    desk.keeper.follow([SOURCE])
    assert (await desk.news(1)).until_s == 1000.0 + lifetime_s
    desk.pass_s(lifetime_s - early_s - 0.1)
    assert desk.server.asked == 1
    desk.pass_s(0.1)
    assert (await desk.news(2)).value == "two"


async def test_a_reload_that_still_uses_a_source_costs_no_token() -> None:
    desk = Desk(granted("one"), granted("two"))
    desk.keeper.follow([SOURCE])
    await desk.news(1)
    desk.keeper.follow([SOURCE])
    desk.keeper.want(SOURCE, "")  # a worker that was started again
    assert (await desk.news(2)).value == "one"
    assert desk.server.asked == 1
    assert desk.subjects == {SOURCE}


async def test_what_no_configuration_uses_is_forgotten_and_not_renewed() -> None:
    desk = Desk(granted("one"))
    desk.keeper.follow([SOURCE])
    await desk.news(1)
    desk.keeper.follow([])
    desk.pass_s(5000)
    assert desk.server.asked == 1
    assert not desk.subjects


async def test_a_refused_token_is_replaced_and_another_one_is_given_at_once() -> None:
    desk = Desk(granted("one"), granted("two"))
    desk.keeper.follow([SOURCE])
    await desk.news(1)
    desk.keeper.want(SOURCE, "one")
    assert (await desk.news(2)).value == "two"
    desk.keeper.want(SOURCE, "one")  # a second worker, later
    assert (await desk.news(3)).value == "two"
    assert desk.server.asked == 2


async def test_a_failure_answers_for_a_second() -> None:
    desk = Desk(OutsideFault("no connection"), granted("one"))
    desk.keeper.want(SOURCE, "")
    failed = await desk.news(1)
    assert (failed.value, failed.kind) == ("", ErrorKind.CONNECT)
    desk.keeper.want(SOURCE, "")
    assert await desk.news(2) == failed
    assert desk.server.asked == 1
    desk.pass_s(1.0)
    desk.keeper.want(SOURCE, "")
    assert (await desk.news(3)).value == "one"


async def test_a_refused_client_is_a_fault_of_the_credential() -> None:
    desk = Desk(Reply(401, b'{"error": "invalid_client", "error_description": "s3cret-s3cret is wrong"}'))
    desk.keeper.want(SOURCE, "")
    failed = await desk.news(1)
    assert failed.kind is ErrorKind.AUTH
    assert "s3cret" not in repr(failed)


async def test_a_renewal_that_fails_is_tried_again_while_the_old_token_holds() -> None:
    desk = Desk(granted("one", 100), Reply(503, b""), granted("two", 100))
    desk.keeper.follow([SOURCE])
    await desk.news(1)
    desk.pass_s(90)
    assert (await desk.news(2)).value == ""
    assert await desk.keeper.get(SOURCE) == "one"
    desk.pass_s(5)
    assert (await desk.news(3)).value == "two"


async def test_control_itself_gets_a_token_or_hears_why_not() -> None:
    desk = Desk(Reply(503, b""), granted("one"))
    with pytest.raises(OutsideFault, match="answered 503"):
        await desk.keeper.get(SOURCE)
    assert await desk.keeper.get(SOURCE) == "one"
