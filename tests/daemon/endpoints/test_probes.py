"""Rules of asking endpoints: what is asked, what a reload keeps, what the answers change."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping

import pytest

from routerd.daemon.endpoints.probes import HttpFetch, Probes, Question, load_question, probe_question
from routerd.graph import Auth, ClientCredentials, Endpoint, LoadSource, Probe, Provider, Secret
from routerd.health import Health
from routerd.state import Board
from tests.plan.build import endpoint, provider
from tests.support import answers
from tests.support.ports import closed_port
from tests.support.upstream import Upstream

HEALTH = Probe(kind="path", path="/health", every_s=10.0, timeout_s=2.0, fall=2, rise=1)
LOAD = LoadSource(every_s=2.0)


class Fleet:
    """Endpoints whose answers the test sets, and a clock that moves one period at each `turn`."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.health = Health(Board.private())
        self.answers: dict[str, tuple[int, bytes] | Exception] = {}
        self.asked: list[str] = []
        self.sleeping: list[asyncio.Future[None]] = []
        self.probes = Probes(
            self.fetch, state_of=self.health.get, clock=lambda: self.now_s, rng=random.Random(1), sleep=self.sleep
        )

    async def fetch(self, question: Question) -> tuple[int, bytes]:
        self.asked.append(question.url)
        answer = self.answers.get(question.url, (200, b""))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, length_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeping.append(future)
        await future

    def serve(self, *names: str, probe: Probe | None = HEALTH, load: LoadSource | None = None) -> None:
        providers: Mapping[str, Provider] = {
            "gpu": provider("gpu", *(endpoint(name, "gpu") for name in names), probe=probe, load=load)
        }
        self.health.take_up(providers, self.now_s)
        self.probes.take_up(providers)

    async def turn(self, count: int = 1) -> list[str]:
        for _ in range(count):
            await asyncio.sleep(0)
            asleep, self.sleeping = self.sleeping, []
            for future in asleep:
                if not future.done():
                    future.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)
        asked, self.asked = self.asked, []
        return asked

    def is_down(self, name: str) -> bool:
        state = self.health.get(name)
        assert state is not None
        return state.is_down


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.probes.close()


@pytest.mark.parametrize("bad", [(503, b""), (404, b""), (302, b""), OSError("refused"), TimeoutError()])
async def test_bad_answers_in_a_row_take_an_endpoint_down_and_a_good_one_brings_it_back(
    fleet: Fleet, bad: tuple[int, bytes] | Exception
) -> None:
    fleet.serve("a", "b")
    fleet.answers["http://a.test/health"] = bad
    await fleet.turn()
    assert not fleet.is_down("a")
    await fleet.turn()
    assert (fleet.is_down("a"), fleet.is_down("b")) == (True, False)
    del fleet.answers["http://a.test/health"]
    await fleet.turn()
    assert not fleet.is_down("a")


async def test_too_many_requests_say_nothing(fleet: Fleet) -> None:
    fleet.serve("a")
    fleet.answers["http://a.test/health"] = (429, b"")
    await fleet.turn(5)
    assert not fleet.is_down("a")


async def test_a_reload_keeps_what_it_did_not_change(fleet: Fleet) -> None:
    fleet.serve("a", "b")
    fleet.answers["http://a.test/health"] = (500, b"")
    await fleet.turn()
    fleet.serve("c", "a")
    assert sorted(await fleet.turn()) == ["http://a.test/health", "http://c.test/health"]
    assert fleet.is_down("a"), "the streak of the old generation went on"


async def test_nobody_is_asked_and_nobody_is_down_without_a_probe(fleet: Fleet) -> None:
    fleet.serve("a")
    fleet.answers["http://a.test/health"] = (500, b"")
    await fleet.turn(2)
    assert fleet.is_down("a")
    fleet.serve("a", probe=None)
    assert await fleet.turn(2) == []
    assert not fleet.is_down("a")


async def test_a_disabled_provider_is_not_asked(fleet: Fleet) -> None:
    providers = {"gpu": provider("gpu", endpoint("a", "gpu"), probe=HEALTH, disabled="no key")}
    fleet.health.take_up(providers, fleet.now_s)
    fleet.probes.take_up(providers)
    assert await fleet.turn(2) == []


async def test_gauges_become_the_load_and_are_forgotten_after_three_periods(fleet: Fleet) -> None:
    fleet.serve("a", probe=None, load=LOAD)
    fleet.answers["http://a.test/metrics"] = (200, b"vllm:num_requests_running 4\nvllm:num_requests_waiting 2\n")
    await fleet.turn()
    assert fleet.health.load("a", fleet.now_s + 5.9) == 6
    fleet.answers["http://a.test/metrics"] = (500, b"vllm:num_requests_running 1\n")
    await fleet.turn()
    assert fleet.health.load("a", fleet.now_s) == 6
    assert fleet.health.load("a", fleet.now_s + 6.1) is None


def test_a_path_is_asked_at_the_root_and_without_our_credential() -> None:
    one = endpoint("a", "p")
    p = provider("p", one, auth=Auth(secret=Secret("sk-1")))
    question = probe_question(p, one, HEALTH)
    assert (question.url, question.headers, question.body) == ("http://a.test/health", (), b"")


@pytest.mark.parametrize(
    ("auth", "url", "headers"),
    [
        (Auth(secret=Secret("sk-1")), "http://a.test/v1/models", {"authorization": "Bearer sk-1", "x-title": "t"}),
        (Auth(type="query", name="key", prefix="", secret=Secret("k 1")), "http://a.test/v1/models?key=k%201", {"x-title": "t"}),
        (Auth(type="none"), "http://a.test/v1/models", {"x-title": "t"}),
    ],
)
def test_models_are_asked_for_as_a_request_would_be(auth: Auth, url: str, headers: dict[str, str]) -> None:
    one = endpoint("a", "p")
    question = probe_question(provider("p", one, auth=auth, headers={"X-Title": "t"}), one, Probe(kind="models"))
    assert (question.url, dict(question.headers)) == (url, headers)
    assert "sk-1" not in repr(question)


def test_a_chat_probe_asks_for_one_token() -> None:
    one = endpoint("a", "p")
    question = probe_question(provider("p", one, body={"extra": 1}), one, Probe(kind="chat", model="m"))
    body = json.loads(question.body)
    assert (question.url, body["model"], body["max_tokens"], body["extra"]) == ("http://a.test/v1/chat/completions", "m", 1, 1)
    assert load_question(provider("p", one), one, LOAD).url == "http://a.test/metrics"


async def test_a_question_over_http_returns_the_answer_or_is_no_answer() -> None:
    fetch = HttpFetch()
    async with Upstream() as upstream:
        upstream.script(answers.reply(b"x" * 100_000, status=503), answers.hang)
        status, body = await fetch(Question(url=f"{upstream.url}/models", timeout_s=5.0, headers=(("x-a", "b"),)))
        assert (status, len(body), upstream.requests[0].header("x-a")) == (503, 100_000, "b")
        with pytest.raises(TimeoutError):
            await fetch(Question(url=f"{upstream.url}/models", timeout_s=0.05))
    with pytest.raises(OSError, match=r"refused|onnect"):
        await fetch(Question(url=f"http://127.0.0.1:{closed_port()}/", timeout_s=5.0))
    await fetch.close()


async def test_a_provider_that_wants_an_access_token_is_asked_with_one() -> None:
    oauth = ClientCredentials(token_url="http://l/t", client_id="i", client_secret=Secret("s"))

    async def token(source: ClientCredentials) -> str:
        assert source is oauth
        return "a-token"

    fetch = HttpFetch(token)
    async with Upstream() as upstream:
        upstream.script(answers.reply())
        one = Endpoint(name="a", provider="p", url=upstream.url)
        asked = Provider(name="p", dialect="openai", endpoints=(one,), auth=Auth(oauth=oauth))
        assert (await fetch(probe_question(asked, one, Probe(kind="models"))))[0] == 200
        assert upstream.requests[0].header("authorization") == "Bearer a-token"
    await fetch.close()
