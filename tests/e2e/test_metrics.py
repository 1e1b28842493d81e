"""A scrape: clean to promtool, bounded whatever clients ask for, of all workers, and never going back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable

import aiohttp
import pytest

from routerd.observe import FAMILIES
from tests.metrics_table import CLOSED, TABLE
from tests.support import answers
from tests.support.daemon import Daemon, parse_metrics, until
from tests.support.http import CHAT, ask, fetch
from tests.support.prometheus import promtool
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]

KEYS = {"alice": "sk-aaaaaaaaaaaaaaaaaaaa", "bob": "sk-bbbbbbbbbbbbbbbbbbbb"}
TEXT = """
version: 1
providers:
  demo: {dialect: simulator, direct: true}
  up: {dialect: openai, base_url: "URL", auth: {type: none}}
budgets:
  per-client: {requests: 100000, per: 1h, scope: client}
clients:
  alice: {key: sk-aaaaaaaaaaaaaaaaaaaa, budgets: [per-client]}
  bob: {key: sk-bbbbbbbbbbbbbbbbbbbb, models: [m]}
models:
  m: {chain: [up/real, demo/echo], price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  "any-*": {chain: ["demo/{1}"]}
"""
HOSTILE = ('a"b', "new\nline", "back\\slash", "x" * 300, "é{}", "any-", "any-thing", "demo/what\tever", "", "{1}", "m ", "_other")


async def either(call: Call) -> None:
    """Answer whole or streamed, as asked."""
    await (answers.stream() if call.request.json().get("stream") else answers.reply())(call)


async def chat(daemon: Daemon, model: str, key: str, **more: object) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return (await fetch(daemon, CHAT, ask(model, **more), headers=headers)).status


def label_sets(samples: dict[str, float]) -> dict[str, set[str]]:
    """Return the label sets of each family; a histogram's are those of its count."""
    found: dict[str, set[str]] = {}
    for series in samples:
        name, _, labels = series.partition("{")
        if name.endswith(("_bucket", "_sum")) and name.rpartition("_")[0] in FAMILIES:
            continue
        family = name.removesuffix("_count") if name.removesuffix("_count") in FAMILIES else name
        found.setdefault(family, set()).add(labels.rstrip("}"))
    return found


async def scrape(daemon: Daemon) -> str:
    code, text = await asyncio.to_thread(daemon.get_admin, "/metrics")
    assert code == 200
    return text


async def test_promtool_has_nothing_to_say_about_a_scrape(daemon: Start, upstream: Upstream) -> None:
    running = daemon(TEXT.replace("URL", upstream.url), args=["--workers", "2"])
    upstream.always(either)
    for stream in (False, True):
        assert await chat(running, "any-x", KEYS["alice"], stream=stream) == 200
    assert await chat(running, "m", KEYS["bob"]) == 200
    assert await chat(running, "none", "sk-wrong") == 401
    text = await scrape(running)
    assert set(label_sets(parse_metrics(text))) >= set(TABLE) - {"routerd_failovers_total"}
    assert promtool("check", "metrics", text=text) == ""


async def test_no_name_that_a_client_makes_up_is_a_series(daemon: Start, upstream: Upstream) -> None:
    """All requests of one kind are one series, however their model is spelled; the numbers are those of the configuration."""
    running = daemon(TEXT.replace("URL", upstream.url))
    upstream.always(either)

    async def everything(names: list[str]) -> dict[str, set[str]]:
        for name in names:
            for key in (*KEYS.values(), "sk-" + name.encode().hex()[:40]):
                await chat(running, name, key)
                await chat(running, name, key, stream=True)
        return label_sets(await running.metrics())

    first = await everything(["m", "any-x", "demo/x", "no-such"])
    again = await everything(list(HOSTILE) + [f"{start}{i}" for start in ("any-", "demo/", "no-") for i in range(6)])
    assert again == first
    routes = [("m", "alice"), ("m", "bob"), ("any-*", "alice"), ("demo/*", "alice")]  # bob may use m only
    targets = ("up/real", "demo/echo", "demo/{1}")
    numbers = {name: len(sets) for name, sets in again.items()}
    # At _other: no key (client_error, rejected), no such model (alice, bob), no permission (bob).
    assert numbers["routerd_requests_total"] == len(routes) * 6 + 2 + 2 + 1
    assert numbers["routerd_attempts_total"] == len(targets) * 14
    assert numbers["routerd_stream_interruptions_total"] == len(targets) * 5
    assert numbers["routerd_tokens_total"] == (2 * 2 + 1 + 1) * 2  # m by two clients at two providers, the others by one at one
    assert numbers["routerd_cost_usd_total"] == 2 * 2 * 2
    assert numbers["routerd_budget_used_ratio"] == numbers["routerd_budget_rejections_total"] == 1
    assert numbers["gen_ai_server_time_to_first_token_seconds"] == 3
    assert numbers["routerd_inflight_requests"] == 2
    assert numbers["process_resident_memory_bytes"] == numbers["process_open_fds"] == 2  # control and its worker
    assert numbers["routerd_build_info"] == 1
    values = {pair for sets in again.values() for labels in sets for pair in re.findall(r'\w+="(?:[^"\\]|\\.)*"', labels)}
    assert not [pair for pair in values if any(name and json.dumps(name)[1:-1] in pair for name in HOSTILE[:5])]


async def test_closed_sets_are_closed_and_start_at_zero(daemon: Start, upstream: Upstream) -> None:
    samples = await daemon(TEXT.replace("URL", upstream.url)).metrics()
    for (name, label), allowed in CLOSED.items():
        suffix = "_count" if TABLE[name][0] == "histogram" else ""
        shown = [series for series in samples if series.startswith(f"{name}{suffix}{{")]
        assert shown, name
        values = {found[1] for series in shown if (found := re.search(rf'[{{,]{label}="([^"]*)"', series))}
        assert values <= allowed
    assert samples['routerd_requests_total{client="bob",outcome="upstream_error",route="m"}'] == 0
    assert samples['routerd_attempts_total{result="upstream_5xx",target="up/real"}'] == 0
    assert samples['routerd_config_reloads_total{result="yaml",trigger="file"}'] == 0


async def test_a_scrape_covers_all_workers_and_never_goes_back(daemon: Start, upstream: Upstream) -> None:
    """Over reloads and killed workers: no counter, bucket or sum falls, and no such series goes away."""
    upstream.always(either)
    text = TEXT.replace("URL", upstream.url)
    running = daemon(text, args=["--workers", "2"])
    highest: dict[str, float] = {}
    stopped = asyncio.Event()

    async def traffic() -> None:
        while not stopped.is_set():
            try:
                await chat(running, "m", KEYS["alice"], stream=True)
            except (OSError, aiohttp.ClientError):  # its worker was killed
                continue

    async def look() -> None:
        samples = await running.metrics()
        kinds = {series: kind_of(series) for series in samples}
        for series, before in highest.items():
            assert samples.get(series, -1.0) >= before - 1e-9, series
        highest.update((series, value) for series, value in samples.items() if kinds[series] != "gauge")

    tasks = [asyncio.create_task(traffic()) for _ in range(4)]
    ok = 'routerd_requests_total{client="alice",outcome="ok",route="m"}'
    for step in range(4):
        for _ in range(5):
            await look()
        if step == 1:
            running.write(text.replace("  m: {", "  other: {chain: [demo/echo]}\n  m: {"))
            await running.generation(2)
            running.write(text)  # `other` is gone again; what it counted is not
            await running.generation(3)
        else:
            workers = (await running.status())["workers"]
            os.kill(workers[step % 2]["pid"], signal.SIGKILL)

            async def replaced(index: int = step % 2, pid: int = workers[step % 2]["pid"]) -> bool:
                worker = (await running.status())["workers"][index]
                return bool(worker["up"] and worker["pid"] != pid)

            await until(replaced, 20)
    stopped.set()
    await asyncio.gather(*tasks)
    await look()
    served = Counter(request.header("x-request-id") for request in upstream.requests)
    assert 0.8 * len(served) <= highest[ok] <= len(served)  # what a killed worker had not told yet is lost, at most
    assert highest['routerd_worker_restarts_total{worker="0"}'] == 2
    assert {series for series in highest if series.startswith("process_cpu")} == {
        f'process_cpu_seconds_total{{process="{name}"}}' for name in ("control", "worker-0", "worker-1")
    }


def kind_of(series: str) -> str:
    name = series.partition("{")[0]
    return FAMILIES[name].kind if name in FAMILIES else "histogram"


@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_access_log_tells_the_way_of_a_request_and_no_word_of_it(daemon: Start, upstream: Upstream, form: str) -> None:
    secret, prompt, said = "sk-aaaaaaaaaaaaaaaaaaaa", "my-prompt-words", "answered-words"
    text = TEXT.replace("URL", upstream.url).replace("auth: {type: none}", "api_key: sk-upstream-secret")
    text = text.replace("per-client: {requests: 100000, per: 1h, scope: client}", QUEUED)
    running = daemon(text, args=["--log-format", form])
    gate = asyncio.Event()
    upstream.script(answers.gated(answers.reply(answers.completion(said)), gate))
    first = asyncio.create_task(chat(running, "m", secret, text=prompt))
    await upstream.received(1)
    second = asyncio.create_task(chat(running, "any-x", secret, text=prompt, stream=True))

    async def waits() -> bool:
        return (await running.metrics()).get('routerd_budget_queue_depth{budget="per-client"}') == 1

    await until(waits)
    gate.set()
    assert await asyncio.gather(first, second) == [200, 200]
    wanted = "route=any-*" if form == "text" else '"route":"any-*"'
    line = await asyncio.to_thread(running.process.wait_line, wanted)
    fields = json.loads(line) if form == "json" else dict(word.split("=", 1) for word in line.split() if "=" in word)
    assert (fields["route"], fields["target"], fields["client"]) == ("any-*", "demo/x", "alice")
    assert {"attempts", "generation", "status", "outcome", "input_tokens", "output_tokens"} <= fields.keys()
    assert {"duration_s", "queue_s", "upstream_s", "ttft_s"} <= fields.keys()
    for word in (secret, "sk-upstream-secret", prompt, said, upstream.url):
        assert word not in running.process.output


QUEUED = "per-client: {concurrency: 1, scope: client, queue: {max: 5, wait: 10s}}"
