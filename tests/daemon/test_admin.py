"""The admin listener over a made-up daemon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from routerd.server.admin import admin_app


class Daemon:
    """An operator's view that the test writes."""

    why_not = ""
    ok = True
    reloads = 0

    def not_ready(self) -> str:
        return self.why_not

    def status(self) -> Mapping[str, Any]:
        return {"generation": 3}

    async def metrics(self) -> bytes:
        return b"routerd_worker_up 1.0\n"

    async def reload(self) -> tuple[bool, Mapping[str, Any]]:
        self.reloads += 1
        return self.ok, {"result": "applied" if self.ok else "schema", "generation": 3, "digest": "d", "problems": []}


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
async def test_a_page_of_another_site_cannot_reload(admin, headers: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    daemon, client = admin
    answer = await client.post("/-/reload", headers=headers, data=b"x")
    assert answer.status == 403
    assert daemon.reloads == 0


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
