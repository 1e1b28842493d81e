"""Measuring: gateways that are kept running, a load put on each of them in turn, and the medians over rounds.

All gateways of a comparison run at once and take turns, round by round, so that what else the machine does falls on all of them;
each counts only its own CPU. Direct to the mock upstream is measured in the same round with the same load, and subtracted.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tests.bench import rig
from tests.bench.gateways import Gateway, Running
from tests.bench.report import Row

__all__ = ["Contender", "Lab", "Plan", "Sample"]

SETTLE_S = 0.15  # access records and ledger entries are handed over each 100 ms: their cost belongs to the load
CALM_S, CALM_WITHIN_S, CALM_SHARE = 0.3, 5.0, 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    seconds: float
    rounds: int
    peers: Mapping[str, str]
    streams: int = 2000
    pace_us: int = 100_000


@dataclass(frozen=True)
class Contender:
    """A gateway and how it is asked. `gateway` None: the mock upstream itself."""

    label: str
    gateway: Gateway | None
    models: tuple[str, ...] = ("mock-model",)
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One load on one gateway."""

    seen: rig.Seen
    cpu_us: float
    mb: float


class Lab:
    """One mock upstream and the gateways in front of it."""

    def __init__(self, directory: pathlib.Path, plan: Plan) -> None:
        self.plan = plan
        self.directory = directory
        self.mock = rig.Mock(directory)
        self._running: dict[str, Running] = {}
        self._files: dict[bytes, pathlib.Path] = {}
        self._warm: set[tuple[str, tuple[str, ...], bool]] = set()

    def close(self) -> None:
        """End everything."""
        self.stop()
        self.mock.stop()

    def stop(self, names: Iterable[str] = ()) -> None:
        """End these gateways, or all: what a section measures does not depend on those before it."""
        for name in list(names) or list(self._running):
            running = self._running.pop(name, None)
            if running is not None:
                running.stop()
            self._warm = {one for one in self._warm if one[0] != name}

    def running(self, gateway: Gateway) -> Running:
        """Return the gateway, started if it is not."""
        found = self._running.get(gateway.name)
        if found is None:
            say(f"starting {gateway.name}")
            found = self._running[gateway.name] = Running(gateway, self.directory, self.mock.port)
            _until_calm(found)
        return found

    def compare(
        self,
        section: str,
        case: str,
        contenders: Sequence[Contender],
        load: rig.Load,
        *,
        prompt_bytes: int = 60,
        rounds: int = 0,
        fresh: bool = False,
    ) -> list[Row]:
        """Measure all contenders and direct, in turn, so many rounds; return a row for each contender, direct first.

        `fresh`: each gateway is started anew for each measurement, and its first seconds under load are what is measured.
        """
        self.mock.become(load.first_us, load.chunks or 32, load.interval_us)
        everyone = [Contender("direct", None), *contenders]
        samples: dict[str, list[Sample]] = {one.label: [] for one in everyone}
        voids: dict[str, str] = {}
        say(f"{section}: {case}: {', '.join(samples)}")
        for _ in range(rounds or self.plan.rounds):
            for one in everyone:
                if one.label not in voids:
                    try:
                        if fresh and one.gateway is not None:
                            self.stop([one.gateway.name])
                        samples[one.label].append(self.sample(one, load, prompt_bytes, warm=not fresh))
                    except rig.Void as void:
                        voids[one.label] = str(void)
                        say(f"void: {one.label}: {void}")
        row = Row(section=section, case=case, gateway="", load=load.text, per="chunk" if load.chunks else "request")
        direct = samples["direct"]
        if "direct" in voids:
            return [replace(row, gateway=label, void=f"direct: {voids['direct']}") for label in samples]
        return [
            replace(row, gateway=label, void=voids[label]) if label in voids else _row(replace(row, gateway=label), some, direct)
            for label, some in samples.items()
        ]

    def sample(self, contender: Contender, load: rig.Load, prompt_bytes: int, *, warm: bool = True) -> Sample:
        """Put the load on one contender. Raises Void."""
        if contender.gateway is None:
            files = self._requests(contender, {}, load, prompt_bytes)
            return Sample(seen=rig.put_load(self.directory, self.mock.port, files, load), cpu_us=0.0, mb=0.0)
        running = self.running(contender.gateway)
        files = self._requests(contender, running.headers, load, prompt_bytes)
        kind = (contender.gateway.name, contender.models, bool(load.chunks))
        if warm and kind not in self._warm:
            self._warm.add(kind)
            few = replace(load, connections=min(32, load.connections), seconds=contender.gateway.warm_s, spread_s=0.0)
            rig.put_load(self.directory, running.port, files, few)
        before_s = running.cpu_s()
        seen = rig.put_load(self.directory, running.port, files, load)
        time.sleep(SETTLE_S)
        units = seen.latency.count * (load.chunks or 1)
        return Sample(seen=seen, cpu_us=(running.cpu_s() - before_s) * 1e6 / units, mb=running.worker_mb())

    def _requests(
        self, contender: Contender, headers: Mapping[str, str], load: rig.Load, prompt_bytes: int
    ) -> list[pathlib.Path]:
        fields = {**headers, "Authorization": f"Bearer {contender.key}"} if contender.key else headers
        files = []
        for model in contender.models:
            data = rig.request(model, prompt_bytes=prompt_bytes, stream=load.chunks > 0, headers=fields)
            if data not in self._files:
                self._files[data] = self.directory / f"request-{len(self._files)}"
                self._files[data].write_bytes(data)
            files.append(self._files[data])
        return files


def _until_calm(running: Running) -> None:
    """Wait until a gateway that was just started has little left to do: what it does at its start is not the load's cost."""
    ends_at_s = time.monotonic() + CALM_WITHIN_S
    spent_s = running.cpu_s()
    while time.monotonic() < ends_at_s:
        time.sleep(CALM_S)
        now_s = running.cpu_s()
        if now_s - spent_s <= CALM_SHARE * CALM_S:
            return
        spent_s = now_s


def say(text: str) -> None:
    """Tell what is being done, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _row(row: Row, samples: Sequence[Sample], direct: Sequence[Sample]) -> Row:
    """Fill in the medians over rounds."""

    def added(pick: Callable[[rig.Seen], float]) -> float:
        pairs = zip(samples, direct, strict=True)
        return statistics.median(pick(one.seen) - pick(base.seen) for one, base in pairs)

    first = samples[0].seen.first.count > 0
    is_direct = samples is direct
    return replace(
        row,
        per_s=statistics.median(one.seen.per_s for one in samples),
        cpu_us=None if is_direct else statistics.median(one.cpu_us for one in samples),
        p50_ms=None if first or is_direct else added(lambda seen: seen.latency.p50),
        p99_ms=None if first or is_direct else added(lambda seen: seen.latency.p99),
        first_p50_ms=added(lambda seen: seen.first.p50) if first and not is_direct else None,
        first_p99_ms=added(lambda seen: seen.first.p99) if first and not is_direct else None,
        gap_p99_ms=added(lambda seen: seen.gap.p99) if first and not is_direct else None,
        mb=None if is_direct else max(one.mb for one in samples),
    )
