"""Everything in the file is reloadable: each key of the schema, changed in front of one daemon that is never restarted.

That a key does what it says is tested where its behaviour is. Here the graph that both workers serve is the one that the file
says, key after key, by its digest, which covers all of it; and edits that a client can see are seen on an open connection.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import aiohttp

from routerd.daemon.load.configuration import load_checked
from routerd.errors import ConfigError
from tests.config.test_schema import BASE, CHANGES, changed
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask

Start = Callable[..., Daemon]
Says = Callable[[int, dict[str, str], Any], bool]
ENVIRON = {"KEY": "from the environment"}


def local(doc: dict[str, Any]) -> str:
    """Return it as a file whose hosts are all addresses of this machine where nobody listens, another one for each name."""
    text = json.dumps(doc)
    hosts = sorted(set(re.findall(r"(?<=://)[\w.-]+", text)))
    return re.sub(r"(?<=://)[\w.-]+", lambda found: f"127.0.1.{1 + hosts.index(found[0])}", text)


async def post(session: aiohttp.ClientSession, running: Daemon) -> dict[str, Any]:
    async with session.post(running.admin + "/-/reload?allow_removal=1") as answer:
        return dict(await answer.json())


async def test_a_reload_brings_every_key_of_the_schema_to_all_workers(daemon: Start) -> None:
    running = daemon(local(BASE), args=["--workers", "2"], env=ENVIRON)
    directory = running.config.parent
    (directory / "more.yaml").write_text("models: {more: {chain: [a/x]}}")
    (directory / "key").write_text("from the file")
    (directory / "prompt.md").write_text("a prompt")
    pids = [worker["pid"] for worker in (await running.status())["workers"]]
    async with aiohttp.ClientSession() as session:
        for key, change in CHANGES.items():
            running.write(local(changed(change)))
            digest, refused = verdict(running.config)
            told = await post(session, running)  # the watcher may have been faster
            assert told["result"] in ((refused,) if refused else ("applied", "unchanged")), (key, told)
            if refused:
                continue
            status = await running.status()
            assert {worker["digest"] for worker in status["workers"]} == {digest}, key
            assert {worker["generation"] for worker in status["workers"]} == {status["generation"]}, key
            assert [worker["pid"] for worker in status["workers"]] == pids, key
    assert status["generation"] > len(CHANGES) * 0.8


def verdict(path: pathlib.Path) -> tuple[str, str]:
    """Return the digest of the file, or the stage that refuses it: some keys are of `tests:`, which must fail to be seen."""
    try:
        return load_checked(path, ENVIRON).graph.digest, ""
    except ConfigError as exc:
        return "", exc.stage


SEEN = (
    "version: 1\n"
    "providers:\n  demo: {dialect: simulator, simulator: {first_token: 50ms, reply: first of all words}}\n"
    "models:\n  m: {chain: [demo/echo]}\n"
)


def one_token(_status: int, _headers: dict[str, str], body: Any) -> bool:
    return bool(body["usage"]["completion_tokens"] == 1)


def says(status: int = 200, route: str = "") -> Says:
    return lambda got, headers, _: got == status and route in ("", headers.get("x-routerd-route", ""))


def has(header: str, there: bool = True) -> Says:
    return lambda _status, headers, _body: (header in headers) is there


def put(old: str, new: str, more: str = "") -> Callable[[str], str]:
    return lambda text: (text.replace(old, new) if old else text) + more


EDITS: dict[str, tuple[Callable[[str], str], Says]] = {  # what is edited, and what an answer says then
    "providers": (put("first of", "second of"), lambda _status, _headers, body: "second" in json.dumps(body)),
    "models": (put("  m:", "  n:"), says(404)),
    "aliases": (put("  m:", "  n:", "aliases: {m: n}\n"), says(200, "n")),
    "clients": (put("", "", "clients: {c: {key: sk-some-key-of-a-client}}\n"), says(401)),
    "budgets": (put("[demo/echo]", "[demo/echo], budgets: [b]", "budgets: {b: {tokens: 1, per: 1h}}\n"), says(429)),
    "params": (put("[demo/echo]", "[demo/echo], params: {defaults: {max_tokens: 1}}"), one_token),
    "defaults": (put("", "", "defaults: {timeouts: {total: 10ms}}\n"), says(504)),
    "limits": (put("", "", "limits: {request_body: 10B}\n"), says(413)),
    "cors": (put("", "", 'cors: {origins: ["https://a.example"]}\n'), has("access-control-allow-origin")),
    "response_headers": (put("", "", "response_headers: false\n"), has("x-routerd-route", there=False)),
    "include": (put("  m:", "  n:", "include: [m.yaml]\n"), one_token),
}


async def test_a_client_sees_each_edit_on_the_connection_it_has(daemon: Start) -> None:
    running = daemon(SEEN, args=["--workers", "1"])
    (running.config.parent / "m.yaml").write_text("models: {m: {chain: [demo/echo], params: {defaults: {max_tokens: 1}}}}\n")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session, aiohttp.ClientSession() as operator:
        for what, (edit, seen) in EDITS.items():
            for text, expected in ((SEEN, False), (edit(SEEN), True), (SEEN, False)):
                running.write(text)
                assert (await post(operator, running))["result"] in ("applied", "unchanged"), what
                async with session.post(running.url + CHAT, json=ask(), headers={"origin": "https://a.example"}) as got:
                    fields = {name.lower(): value for name, value in got.headers.items()}
                    assert seen(got.status, fields, await got.json()) is expected, (what, got.status, fields, await got.text())
