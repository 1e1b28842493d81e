"""What is used survives every edit: the rows of budgets in the matrix of state over reloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
LIMITS = {"requests": 10, "tokens": 140, "usd": 0.0000014}  # six answers of 14 tokens at 0.01 USD a million use 60 %


def routes(url: str, factor: float = 1, *, budgets: bool = True, per: str = "1h", more: str = "") -> str:
    """One model and one budget for each kind."""
    models = "".join(
        f"  {kind}: {{{f'budgets: [{kind}], ' if budgets else ''}chain: [up/x], "
        "price: {input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01}}\n"
        for kind in (*LIMITS, "concurrency")
    )
    kinds = "".join(f"  {kind}: {{{kind}: {_number(kind, limit * factor)}, per: {per}}}\n" for kind, limit in LIMITS.items())
    kinds += f"  concurrency: {{concurrency: {int(5 * factor)}}}\n"
    text = f'version: 1\nproviders:\n  up: {{base_url: "{url}", auth: {{type: none}}}}\nmodels:\n{models}'
    return text + (f"budgets:\n{kinds}" if budgets else "") + more


def _number(kind: str, limit: float) -> str:
    return f"{limit:.10f}" if kind == "usd" else str(int(limit))


def usage_of(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}


async def used_ratios(running: Daemon) -> dict[str, float]:
    samples = await running.metrics()
    name = 'routerd_budget_used_ratio{{budget="{}",mode="enforce",scope="global"}}'
    return {kind: round(samples[name.format(kind)], 3) for kind in LIMITS}


async def use_sixty_percent(running: Daemon) -> None:
    for kind in LIMITS:
        for _ in range(6):
            assert (await fetch(running, CHAT, ask(kind, max_tokens=1))).status == 200
    assert set((await used_ratios(running)).values()) == {0.6}


EDITS = {
    "comment": ([1], "\n# a comment\n"),
    "unrelated": ([1], "\naliases: {another: requests}\n"),
    "double": ([2], ""),
    "half": ([0.5], ""),
    "removed-and-added": ([None, 1], ""),
}


async def edited(running: Daemon, url: str, edit: str) -> float:
    """Make the edit; return the factor of the limits that now hold."""
    factors, more = EDITS[edit]
    for factor in factors:
        before = (await running.status())["generation"]
        running.write(routes(url, factor or 1, budgets=factor is not None, more=more))
        code, _ = await asyncio.to_thread(running.post_admin, "/-/reload")
        assert code == 200
        assert (await running.status())["generation"] == before + (edit != "comment")
    return factors[-1] or 1


@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_used_of_requests_tokens_and_dollars_is_kept(daemon: Start, upstream: Upstream, edit: str) -> None:
    upstream.always(answers.reply(answers.completion(usage=usage_of(14))))
    running = daemon(routes(upstream.url))
    await use_sixty_percent(running)
    factor = await edited(running, upstream.url, edit)
    assert set((await used_ratios(running)).values()) == {round(0.6 / factor, 3)}
    passed = [(await fetch(running, CHAT, ask("requests"))).status for _ in range(16)].count(200)
    assert passed == max(0, 10 * factor - 6)


@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_held_of_concurrency_is_kept(daemon: Start, upstream: Upstream, edit: str) -> None:
    gate = asyncio.Event()
    upstream.always(answers.stream(["a"], gates=[gate]))
    running = daemon(routes(upstream.url))
    held = [asyncio.create_task(fetch(running, CHAT, ask("concurrency", stream=True))) for _ in range(3)]
    await upstream.received(3)
    factor = await edited(running, upstream.url, edit)
    more = [asyncio.create_task(fetch(running, CHAT, ask("concurrency", stream=True))) for _ in range(10)]
    room = max(0, int(5 * factor) - 3)
    await upstream.received(3 + room)
    refused = 0
    async with asyncio.timeout(10):
        while refused < 10 - room:
            refused = sum(task.done() and task.result().status == 429 for task in more)
            await asyncio.sleep(0.01)
    gate.set()
    got = await asyncio.gather(*held, *more)
    assert sorted(answer.status for answer in got) == [200] * (3 + room) + [429] * (10 - room)
    assert len(upstream.requests) == 3 + room
    assert (await fetch(running, CHAT, ask("concurrency", stream=True))).status == 200


@pytest.mark.parametrize("per", ["1d", "1m", "month", "day"])
async def test_another_window_goes_on_with_what_the_old_one_held(daemon: Start, upstream: Upstream, per: str) -> None:
    upstream.always(answers.reply(answers.completion(usage=usage_of(14))))
    running = daemon(routes(upstream.url))
    await use_sixty_percent(running)
    running.write(routes(upstream.url, per=per))
    await running.generation(2)
    assert set((await used_ratios(running)).values()) == {0.6}
    assert [(await fetch(running, CHAT, ask("requests"))).status for _ in range(5)] == [200] * 4 + [429]
