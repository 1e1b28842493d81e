"""`routerd probe`: does every model answer, how fast, and from where? Asks a running daemon, or one started for a file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FAILED, FINE, command, complain, count
from routerd.daemon.output.terminal import paint_for
from routerd.daemon.settings import DEFAULTS, Address, duration_s

__all__ = ["add_probe", "probe"]

HEADS = ("MODEL", "TARGET", "UNARY", "FIRST TOKEN", "TOKENS/S", "VERDICT")
BAR_CHARS = 24
GOOD = {"embedding": "ok (an embedding)", "skipped": "not tried: neither chat nor embeddings"}
UNSUPPORTED = "unsupported_operation"  # no target of the model offers it
MISSING = "upstream_model_missing"  # a provider's word for a model that cannot chat, too


def add_probe(commands: Any) -> None:
    """Declare `probe`."""
    example = "routerd probe --model 'gpt-*' --model claude --stream"
    what = "ask every model for a few tokens, whole and streamed (or for an embedding), and say how each did"
    parser = command(commands, "probe", what, example, failed="a model failed", invalid="a flag or the file is wrong")
    names = "a name, or a pattern of listed names; repeatable"
    parser.add_argument("--model", action="append", default=[], metavar="M", help=names)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--url", metavar="URL", help=f"of the daemon; default: ROUTERD_LISTEN or http://{DEFAULTS['listen']}")
    place.add_argument("--config", metavar="FILE", help="serve this file for the time of the probe, and ask that")
    parser.add_argument("--key", metavar="KEY", help="of a client; default: ROUTERD_KEY")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--unary", action="store_const", dest="mode", const="unary", help="whole answers only")
    mode.add_argument("--stream", action="store_const", dest="mode", const="stream", help="streams only")
    mode.add_argument("--both", action="store_const", dest="mode", const="both", help="the default")
    parser.add_argument("--concurrency", type=int, default=4, metavar="N", help="models at a time (default 4)")
    parser.add_argument("--timeout", default="60s", metavar="TIME", help="for each request (default 60s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def probe(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Try the models; return the exit status."""
    from routerd.daemon.commands.probing import Unreachable

    if flags["concurrency"] < 1:
        raise ValueError("--concurrency: at least 1")
    try:
        timeout_s = duration_s(flags["timeout"])
    except ValueError as exc:
        raise ValueError(f"--timeout: {exc}") from exc
    url = (flags["url"] or _default_url(environ)).rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"--url: {url!r} does not begin with http:// or https://")
    try:
        rows = asyncio.run(_probe(flags, environ, url, timeout_s))
    except Unreachable as exc:
        return complain(str(exc), CANNOT_REACH)
    if not rows:
        return complain("there is no model to try; patterns of the file are tried by --model NAME", FAILED)
    good = all(not result.fault for _, results in rows for result in results)
    if flags["json"]:
        print(json.dumps({"ok": good, "models": [_as_json(*row) for row in rows]}, indent=2, ensure_ascii=False))
    else:
        _print_table(rows)
    return FINE if good else FAILED


def _default_url(environ: Mapping[str, str]) -> str:
    listen = Address.parse(environ.get("ROUTERD_LISTEN") or DEFAULTS["listen"])
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # an address to listen on, not to connect to
    return f"http://{Address(anywhere.get(listen.host, listen.host), listen.port)}"


async def _probe(flags: Mapping[str, Any], environ: Mapping[str, str], url: str, timeout_s: float) -> list[Any]:
    import aiohttp

    from routerd.daemon.commands.probing import Prober, own_daemon

    key = flags["key"] or environ.get("ROUTERD_KEY", "")
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, read_bufsize=2**20) as session:
        if not flags["config"]:
            return await _try_all(Prober(session=session, url=url, key=key, timeout_s=timeout_s), flags)
        async with own_daemon(flags["config"], environ) as own:
            return await _try_all(Prober(session=session, url=own, key=key, timeout_s=timeout_s, name=flags["config"]), flags)


async def _try_all(prober: Any, flags: Mapping[str, Any]) -> list[Any]:
    """Try each model, several at a time; both ways of one after each other."""
    from routerd.daemon.commands.probing import chosen

    patterns: Sequence[str] = flags["model"]
    exact = patterns and all("*" not in pattern for pattern in patterns)
    models = chosen([] if exact else await prober.listed(), patterns)
    modes = ("unary", "stream") if flags["mode"] in (None, "both") else (flags["mode"],)
    bar = _Bar(sys.stderr, len(models))
    gate = asyncio.Semaphore(flags["concurrency"])

    async def one(model: str) -> tuple[str, list[Any]]:
        async with gate:
            results = await _asked(prober, model, modes)
        bar.step(model)
        return model, results

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(model)) for model in models]
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None
    finally:
        bar.end()
    return [task.result() for task in tasks]


async def _asked(prober: Any, model: str, modes: Sequence[str]) -> list[Any]:
    """Ask a model to chat in each mode; one that refuses, for an embedding, which is told where it comes."""
    results: list[Any] = []
    for mode in modes:
        results.append(await prober.ask(model, mode))
        if not results[:-1] and (results[0].status == 400 or results[0].code == MISSING):
            embedding = await prober.embed(model)
            if not embedding.fault:
                return [embedding]
            if results[0].code == UNSUPPORTED == embedding.code:  # it is for images, speech or the like
                return [replace(results[0], mode="skipped", fault="")]
    return results


class _Bar:
    """A progress bar, on a terminal only."""

    def __init__(self, stream: IO[str], total: int) -> None:
        self._stream = stream if stream.isatty() and total else None
        self._total = total
        self._done = 0
        self._draw("")

    def step(self, what: str) -> None:
        """One more is done."""
        self._done += 1
        self._draw(what)

    def _draw(self, what: str) -> None:
        if self._stream is not None:
            full = BAR_CHARS * self._done // self._total
            bar = "#" * full + "." * (BAR_CHARS - full)
            self._stream.write(f"\r\x1b[K[{bar}] {self._done}/{self._total} {what[:40]}")
            self._stream.flush()

    def end(self) -> None:
        """Take it away."""
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _print_table(rows: Sequence[Any]) -> None:
    cells = [HEADS, *(_cells(*row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS) - 1)]
    paint = paint_for(sys.stdout)
    for number, row in enumerate(cells):
        fixed = [row[i].ljust(width) if i < 2 else row[i].rjust(width) for i, width in enumerate(widths)]
        role = "strong" if number == 0 else "good" if row[-1].startswith("ok") else "bad"
        print("  ".join((*fixed, paint(role, row[-1]))).rstrip())
    failed = sum(any(result.fault for result in results) for _, results in rows)
    print(f"{count(len(rows), 'model')}, {failed} failed" if failed else f"{count(len(rows), 'model')}, all answer")


def _cells(model: str, results: Sequence[Any]) -> tuple[str, ...]:
    by_mode = {result.mode: result for result in results}
    unary, stream = by_mode.get("unary") or by_mode.get("embedding"), by_mode.get("stream")
    good = GOOD.get(results[0].mode, "ok")
    targets = ", ".join(dict.fromkeys(result.target for result in results if result.target))
    faults = dict.fromkeys(result.fault for result in results if result.fault)
    same = len(faults) == 1 and all(result.fault for result in results)
    verdict = next(iter(faults)) if same else "; ".join(f"{r.mode}: {r.fault}" for r in results if r.fault)
    return (
        model,
        targets or "-",
        f"{unary.latency_s:.2f} s" if unary and not unary.fault else "-",
        f"{stream.first_token_s:.2f} s" if stream and stream.first_token_s is not None else "-",
        f"{stream.tokens_per_s:.1f}" if stream and stream.tokens_per_s is not None else "-",
        verdict or good,
    )


def _as_json(model: str, results: Sequence[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {result.mode: result.as_json() for result in results}
    return {"model": model, "ok": all(not result.fault for result in results), **told}
