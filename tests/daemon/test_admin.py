"""The admin listener over a made-up daemon."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from routerd import __version__
from routerd.daemon.admin.events import READERS_MAX, Events, Subscription
from routerd.server.admin import admin_app


class Daemon:
    """An operator's view that the test writes."""

    why_not = ""
    ok = True
    reloads = 0
    allowed = False
    rolled_back_to: int | None = -1

    def __init__(self) -> None:
        self.bus = Events()

    def not_ready(self) -> str:
        return self.why_not

    def status(self) -> Mapping[str, Any]:
        rows = (("gpu/a", "gpu"), ("gpu/b", "gpu"), ("cloud", "cloud"))
        return {"generation": 3, "endpoints": [{"endpoint": name, "provider": of} for name, of in rows]}

    async def metrics(self) -> bytes:
        return b"routerd_worker_up 1.0\n"

    def drain_endpoint(self, name: str, drained: bool) -> Mapping[str, Any] | None:
        return {"endpoint": name, "drained": drained} if name == "gpu/a" else None

    async def reload(self, *, allow_removal: bool = False) -> tuple[bool, Mapping[str, Any]]:
        self.reloads += 1
        self.allowed = allow_removal
        return self.ok, {"result": "applied" if self.ok else "schema", "generation": 3, "digest": "d", "problems": []}

    async def rollback(self, to: int | None) -> tuple[bool, Mapping[str, Any]]:
        if to == 99:
            raise LookupError("generation 99 is not in the history")
        self.rolled_back_to = to
        return self.ok, {"result": "applied" if self.ok else "build"}

    async def diff(self) -> tuple[bool, Mapping[str, Any]]:
        if self.why_not:
            raise LookupError("no generation serves yet")
        return self.ok, {"changes": [{"text": "drops m"}]} if self.ok else {"problems": []}

    def history(self) -> Mapping[str, Any]:
        return {"generations": []}

    def graph(self) -> Mapping[str, Any]:
        if self.why_not:
            raise LookupError("no generation serves yet")
        return {"models": []}

    async def rates(self) -> Mapping[str, Any]:
        return {"over_s": 0.0}

    async def explain(self, model: str, client: str | None, down: Sequence[str]) -> Mapping[str, Any]:
        if client == "nobody":
            raise LookupError("no client is called 'nobody'")
        return {"model": model, "client": client, "down": list(down)}

    def events(self, last_id: str) -> Subscription | None:
        return self.bus.subscribe(last_id)


@pytest.fixture
async def admin():  # type: ignore[no-untyped-def]
    daemon = Daemon()
    async with TestClient(TestServer(admin_app(daemon))) as client:
        yield daemon, client


async def test_the_front_page_lists_every_page(admin) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    text = await (await client.get("/")).text()
    for resource in client.server.app.router.resources():
        assert resource.canonical in text


@pytest.mark.parametrize("path", ["/-/live", "/metrics", "/events", "/nothing"])
async def test_every_answer_says_whose_it_is(admin, path: str) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    async with client.get(path) as answer:
        assert (answer.headers["x-routerd-version"], answer.headers["server"]) == (__version__, "routerd")


async def test_live_says_so_even_when_not_ready(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    daemon.why_not = "draining"
    assert (await client.get("/-/live")).status == 200
    answer = await client.get("/-/ready")
    assert (answer.status, await answer.text()) == (503, "not ready: draining\n")
    daemon.why_not = ""
    assert (await client.get("/-/ready")).status == 200


async def test_metrics_have_the_content_type_that_prometheus_asks_for(admin) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert await answer.read() == b"routerd_worker_up 1.0\n"


async def test_reload_answers_with_the_outcome(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    answer = await client.post("/-/reload")
    assert answer.status == 200
    assert json.loads(await answer.text())["result"] == "applied"
    daemon.ok = False
    answer = await client.post("/-/reload", json={})
    assert answer.status == 422
    assert json.loads(await answer.text())["result"] == "schema"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; charset=utf-8"},
    ],
    ids=lambda h: next(iter(h.values())),
)
async def test_a_page_of_another_site_can_change_nothing(admin, headers: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    for path in ("/-/reload", "/-/rollback"):
        answer = await client.post(path, headers=headers, data=b"x")
        assert answer.status == 403
    assert daemon.reloads == 0
    assert daemon.rolled_back_to == -1


async def test_a_page_of_this_listener_may_reload(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    own = f"http://{client.host}:{client.port}"
    answer = await client.post("/-/reload", headers={"Sec-Fetch-Site": "same-origin", "Origin": own})
    assert answer.status == 200
    assert daemon.reloads == 1


async def test_a_wrong_method_or_path_says_what_is_right(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    answer = await client.get("/-/reload")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert (await client.get("/nothing")).status == 404
    assert daemon.reloads == 0


async def test_a_reload_says_whether_removal_is_meant(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    for text, allowed in (("", False), ("?allow_removal=0", False), ("?allow_removal=1", True)):
        assert (await client.post(f"/-/reload{text}")).status == 200
        assert daemon.allowed is allowed
    assert (await client.post("/-/reload?allow_removal=please")).status == 400
    assert daemon.reloads == 3


async def test_a_rollback_names_a_generation_or_none(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    assert (await client.post("/-/rollback")).status == 200
    assert daemon.rolled_back_to is None
    assert (await client.post("/-/rollback?to=7")).status == 200
    assert daemon.rolled_back_to == 7
    answer = await client.post("/-/rollback?to=99")
    assert (answer.status, (await answer.json())["error"]) == (404, "generation 99 is not in the history")
    for nonsense in ("-1", "x", "1.5", "", "99999999999999"):
        assert (await client.post(f"/-/rollback?to={nonsense}")).status == 400
    daemon.ok = False
    assert (await client.post("/-/rollback?to=7")).status == 422


async def test_events_are_a_stream_that_goes_on_where_a_reader_left_it(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    daemon.bus.emit("reload_applied", {"generation": 1})
    daemon.bus.emit("reload_rejected", {"result": "schema", "problems": [{"line": 3}]})
    first = daemon.bus._ring[0].id
    answer = await client.get("/events", headers={"Last-Event-ID": first})
    assert answer.headers["content-type"].startswith("text/event-stream")
    daemon.bus.emit("worker_restarted", {"worker": 0})
    daemon.bus.end()
    blocks = (await answer.text()).strip().split("\n\n")
    told = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    assert [one["event"] for one in told] == ["reload_rejected", "worker_restarted"]
    assert json.loads(told[0]["data"])["problems"] == [{"line": 3}]
    assert told[1]["id"].endswith("-3")
    assert daemon.bus._readers == set()


async def test_too_many_readers_are_refused(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    for _ in range(READERS_MAX):
        daemon.bus.subscribe()
    assert (await client.get("/events")).status == 503


async def test_a_diff_is_the_changes_or_the_problems_and_no_page_asks_for_it(admin: Any) -> None:
    daemon, client = admin
    assert (await (await client.post("/-/diff")).json())["changes"] == [{"text": "drops m"}]
    assert (await client.post("/-/diff", headers={"Sec-Fetch-Site": "cross-site"})).status == 403
    assert (await client.get("/-/diff")).status == 405
    daemon.ok = False
    assert (await client.post("/-/diff")).status == 422
    daemon.why_not = "no generation serves yet"
    assert (await client.post("/-/diff")).status == 503


async def test_an_endpoint_is_drained_and_comes_back_by_its_name(admin) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    for what, drained in (("drain", True), ("undrain", False)):
        answer = await client.post(f"/-/endpoints/gpu%2Fa/{what}")
        assert (answer.status, await answer.json()) == (200, {"endpoint": "gpu/a", "drained": drained})
    assert (await client.post("/-/endpoints/gpu%2Fa/drain", headers={"Sec-Fetch-Site": "cross-site"})).status == 403


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu%2Fc", "there is no endpoint 'gpu/c'; did you mean 'gpu/b'?"),
        ("gpu", "'gpu' is a provider with the endpoints gpu/a, gpu/b; name one of them"),
        ("zzz", "there is no endpoint 'zzz'; there are: gpu/a, gpu/b, cloud"),
    ],
)
async def test_who_misspells_an_endpoint_is_told_which_there_are(admin, name: str, said: str) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    answer = await client.post(f"/-/endpoints/{name}/drain")
    assert (answer.status, await answer.json()) == (404, {"error": said})


async def test_the_page_runs_only_what_stands_in_it(admin) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    answer = await client.get("/ui")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    text = await answer.text()
    for element in ("script", "style"):
        inside = text.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


async def test_the_graph_is_503_until_something_serves(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    assert (await client.get("/-/graph")).status == 200
    assert await (await client.get("/-/rates")).json() == {"over_s": 0.0}
    daemon.why_not = "nothing serves"
    assert (await client.get("/-/graph")).status == 503


async def test_explain_takes_model_client_and_what_is_down(admin) -> None:  # type: ignore[no-untyped-def]
    _, client = admin
    told = await (await client.get("/-/explain?model=gpt%2F4&client=team&down=a&down=b")).json()
    assert told == {"model": "gpt/4", "client": "team", "down": ["a", "b"]}
    assert (await client.get("/-/explain")).status == 400
    assert (await client.get("/-/explain?model=m&client=nobody")).status == 400


async def test_a_browser_asks_for_past_events_in_the_query(admin) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    daemon.bus.emit("reload_applied", {"generation": 1})
    async with client.get("/events?last_event_id=all") as answer:
        line = await answer.content.readuntil(b"\n")
        assert line.startswith(b"id: ")
