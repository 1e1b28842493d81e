"""Models of providers in control: asked for in the background, kept over failures, reloads and restarts. No time passes."""

from __future__ import annotations

import asyncio
import json
import pathlib
import random
from collections.abc import Mapping
from typing import Any

from routerd.daemon.outside import Discovery, OutsideFault, Reply
from routerd.graph import Auth, Discover, Endpoint, Provider, Secret
from routerd.observe import Metrics
from routerd.plan import ModelNews


def provider(name: str = "p", *, urls: tuple[str, ...] = ("http://h/v1",), **more: Any) -> Provider:
    endpoints = tuple(Endpoint(name=f"{name}{i}", provider=name, url=url) for i, url in enumerate(urls))
    return Provider(**{"name": name, "dialect": "openai", "endpoints": endpoints, "discover": Discover(), **more})


def listed(*ids: str, **more: Any) -> Reply:
    return Reply(200, json.dumps({"data": [{"id": one} for one in ids], **more}).encode())


class Desk:
    """A discovery whose pauses end when the test says so; `answers` are given in turn."""

    def __init__(self, *answers: Reply | OutsideFault, directory: pathlib.Path | None = None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.told: list[ModelNews] = []
        self.subjects: set[Any] = set()
        self.pauses: list[float] = []
        self.go_on = asyncio.Event()
        self.metrics = Metrics()
        self.discovery = Discovery(
            self, self, self._tell, self.subjects.discard, self.metrics, directory,  # type: ignore[arg-type]
            rng=random.Random(1), wall=lambda: 1234.5, sleep=self._sleep,
        )  # fmt: skip

    async def request(self, method: str, url: str, headers: Mapping[str, str], **more: Any) -> Reply:
        self.asked.append((url, headers))
        found = self.answers.pop(0)
        if isinstance(found, OutsideFault):
            raise found
        return found

    def _tell(self, news: ModelNews, subject: Any) -> None:
        self.told.append(news)
        if subject is not None:
            self.subjects.add(subject)

    async def _sleep(self, wait_s: float) -> None:
        self.pauses.append(wait_s)
        await self.go_on.wait()
        self.go_on.clear()

    async def round(self, number: int, *, go_on: bool = True) -> None:
        """End the pause, and wait for the end of round `number`, from 1."""
        if number > 1 and go_on:
            self.go_on.set()
        for _ in range(500):
            if len(self.pauses) >= number:
                return
            await asyncio.sleep(0.001)  # a page is decoded in a thread
        raise AssertionError("no round ended")

    @property
    def ids(self) -> str | None:
        return self.told[-1].ids

    def value(self, name: str) -> float | None:
        return self.metrics.snapshot().values.get((name, ("p",)))


async def test_a_list_is_told_to_all_and_again_only_when_it_changes() -> None:
    desk = Desk(listed("a", "b"), listed("a", "b"), listed("a"))
    desk.discovery.follow([provider()])
    await desk.round(1)
    assert (desk.ids, desk.subjects) == ("a\nb", {("models", "p")})
    assert desk.value("routerd_discovery_models") == 2
    assert desk.value("routerd_discovery_last_success_timestamp_seconds") == 1234.5
    told = len(desk.told)
    await desk.round(2)
    assert len(desk.told) == told
    await desk.round(3)
    assert desk.ids == "a"
    assert all(270.0 <= pause <= 330.0 for pause in desk.pauses)


async def test_a_failure_leaves_the_last_list_and_is_tried_again_sooner() -> None:
    desk = Desk(listed("a"), Reply(503, b""), OutsideFault("no connection"), Reply(200, b"<html>"), listed("b"))
    desk.discovery.follow([provider()])
    for number in range(1, 5):
        await desk.round(number)
    assert desk.ids == "a"
    assert [round(pause / 2.2) for pause in desk.pauses[1:]] in ([1, 2, 4], [1, 2, 3])
    assert desk.value("routerd_discovery_failures_total") == 3
    assert desk.discovery.status()["p"] == {"models": 1, "at_unix_s": 1234.5, "error": "the answer is not JSON"}
    await desk.round(5)
    assert desk.ids == "b"


async def test_a_reload_asks_anew_only_where_the_way_changed() -> None:
    desk = Desk(listed("a", "text-embedding-3"), listed("c"))
    desk.discovery.follow([provider()])
    await desk.round(1)
    desk.discovery.follow([provider(direct=True)])
    desk.discovery.follow([provider(discover=Discover(chat_only=True))])
    assert (desk.ids, len(desk.asked)) == ("a", 1)
    desk.discovery.follow([provider(discover=Discover(include=("*embed*",)))])
    assert (desk.ids, len(desk.asked)) == ("text-embedding-3", 1)
    desk.discovery.follow([provider(auth=Auth(secret=Secret("other")))])
    assert desk.ids is None
    await desk.round(2, go_on=False)
    assert (desk.ids, len(desk.asked)) == ("c", 2)


async def test_what_is_no_longer_wanted_is_forgotten() -> None:
    desk = Desk(listed("a"))
    desk.discovery.follow([provider()])
    await desk.round(1)
    desk.discovery.follow([provider(discover=None)])
    assert (desk.ids, desk.subjects, desk.discovery.status()) == (None, set(), {})
    assert desk.value("routerd_discovery_models") is None


async def test_the_last_list_outlives_a_restart_but_not_a_move(tmp_path: pathlib.Path) -> None:
    before = Desk(listed("a", "whisper-1"), directory=tmp_path)
    before.discovery.follow([provider()])
    await before.round(1)
    await before.discovery.close()
    after = Desk(OutsideFault("no connection"), directory=tmp_path)
    after.discovery.follow([provider(discover=Discover(chat_only=True))])
    assert after.ids == "a"
    await after.round(1)
    assert after.ids == "a"
    moved = Desk(OutsideFault("no connection"), directory=tmp_path)
    moved.discovery.follow([provider(urls=("http://elsewhere/v1",))])
    assert moved.ids is None
    await moved.round(1)
    (tmp_path / "discovery" / "p.json").write_text('{"from": 5')
    broken = Desk(OutsideFault("no connection"), directory=tmp_path)
    broken.discovery.follow([provider()])
    assert broken.ids is None
    await broken.round(1)


async def test_endpoints_are_asked_in_turn_and_credentials_go_where_they_belong() -> None:
    desk = Desk(Reply(500, b""), listed("a"))
    desk.discovery.follow([provider(urls=("http://h/v1", "http://i/v1"), auth=Auth(secret=Secret("k")), headers={"X-Org": "o"})])
    await desk.round(1)
    assert [url for url, _ in desk.asked] == ["http://h/v1/models", "http://i/v1/models"]
    assert {"authorization": "Bearer k", "x-org": "o"}.items() <= desk.asked[0][1].items()
    keyed = Desk(listed("a"))
    keyed.discovery.follow([provider(auth=Auth(type="query", name="key", prefix="", secret=Secret("a b")))])
    await keyed.round(1)
    assert keyed.asked[0][0] == "http://h/v1/models?key=a%20b"
    assert "authorization" not in keyed.asked[0][1]


async def test_pages_are_followed_until_they_bring_nothing_new() -> None:
    last = listed("b", has_more=True, last_id="b")
    desk = Desk(listed("a", has_more=True, last_id="a"), last, last)
    desk.discovery.follow([provider(dialect="anthropic")])
    await desk.round(1)
    assert desk.ids == "a\nb"
    assert [url for url, _ in desk.asked] == [
        "http://h/v1/models?limit=1000", "http://h/v1/models?limit=1000&after_id=a", "http://h/v1/models?limit=1000&after_id=b",
    ]  # fmt: skip
    assert desk.asked[0][1]["anthropic-version"] == "2023-06-01"
