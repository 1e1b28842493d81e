"""Takes what a request is charged: at once where there is room, in line where a budget has a queue, with a refusal otherwise.

Who waits is served first come, first served, in each worker and for each budget and subject; a newcomer never overtakes. The head
of a line tries again when a request of this worker gave something back, and after TICK_S, because one of another worker may have;
behind it nobody looks at the counters. A line is bounded, a wait too; a client that leaves is out of the line at once.
Requests without a budget, and those for whom there is room, touch nothing of this: no task, no timer.
With counters that hosts share every bill is awaited, that of the target that is tried first in the same round trip. When they are
away, those of this host let its share pass, or the request is refused: the operator's choice. A lease goes back to the counters
it came from.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, cast

from routerd.errors import BudgetExceeded, StateUnavailable
from routerd.messages import Taken
from routerd.observe import Metrics
from routerd.policy import Bill, Charge, Counters, Lease, Need, admit, reserve, turned_away
from routerd.server.budget.limits import limit_fields
from routerd.state import RemoteCounters, StateLost

__all__ = ["Admission", "Notify", "Remote", "Wanted"]

TICK_S = 0.025  # a slot that another worker freed is found within so long; forty looks a second and line cost nothing
LONGEST_TICK_S = 1.0  # a window may free sooner than it said: what was reserved is settled
RETRY_ALONE_S = 1.0
NOTICE_EVERY_S = 1.0  # one notice a second and budget

Notify = Callable[[str, dict[str, Any]], None]
Wanted = tuple[Bill, Need]


class Remote(NamedTuple):
    """The counters that hosts share, and whether to refuse while they are away."""

    counters: RemoteCounters
    refuse: bool


class _Line:
    """Those who wait for one charge, the first one at the left."""

    __slots__ = ("budget", "waiting")

    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.waiting: deque[_Place] = deque()

    def nudge(self) -> None:
        """Let the head try again."""
        if self.waiting:
            self.waiting[0].wake()


class _Place:
    """A place in a line."""

    __slots__ = ("_loop", "_turn")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def turn(self, until_s: float) -> None:
        """Wait to be woken, until this moment of the loop at most."""
        self._turn = self._loop.create_future()
        timer = self._loop.call_at(until_s, self.wake)
        try:
            await self._turn
        finally:
            timer.cancel()
            self._turn = None


class Admission:
    """One a worker; survives reloads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, counters: Counters, metrics: Metrics, remote: Remote | None = None
    ) -> None:
        self.notify: Notify | None = None
        self._loop = loop
        self._counters = counters
        self._metrics = metrics
        self._remote = remote
        self._lines: dict[bytes, _Line] = {}
        self._noticed_s: dict[str, float] = {}
        self._depths: set[str] = set()

    def reserve(self, bill: Bill, need: Need, deadline_at_s: float = float("inf")) -> Lease | Awaitable[Lease]:
        """Return the lease, or a wait for it until `deadline_at_s` (monotonic) at most. Raise BudgetExceeded when refused."""
        if bill.queues and self._lines:
            for charge in bill.charges:
                if charge.key in self._lines:
                    return self._wait(bill, need, charge, deadline_at_s)
        if self._remote is not None:
            return self._reserve_remotely(bill, need, deadline_at_s)
        try:
            lease = reserve(self._counters, bill, need, time.monotonic())
        except BudgetExceeded as exc:
            return self._wait_after(bill, need, deadline_at_s, exc)
        return self._noted(bill, lease) if bill.queues or lease.taken.over else lease

    @property
    def asks_a_server(self) -> bool:
        """Whether a take is a round trip."""
        return self._remote is not None

    async def reserve_both(
        self, request: Wanted, target: Wanted, joint: Bill, deadline_at_s: float
    ) -> tuple[Lease, Lease | None]:
        """Take for a request and for the target that it tries first in one round trip, where nobody has to wait.

        `joint` has the charges of both. No second lease: the target has no room, or there is a line; it is asked when tried.
        """
        bill, need = request
        if not any(charge.key in self._lines for charge in joint.charges):
            try:
                amounts = (*bill.amounts(need), *target[0].amounts(target[1]))
                first, second = (await self._asked(joint, amounts)).split(bill, target[0])
                return self._noted(bill, first), self._noted(target[0], second)
            except BudgetExceeded as exc:
                if exc.taken is not None and exc.taken.refused < len(bill.charges):
                    return await self._wait_after(bill, need, deadline_at_s, exc), None
        lease = self.reserve(bill, need, deadline_at_s)
        return lease if isinstance(lease, Lease) else await lease, None

    async def _reserve_remotely(self, bill: Bill, need: Need, deadline_at_s: float) -> Lease:
        try:
            return self._noted(bill, await self._asked(bill, bill.amounts(need)))
        except BudgetExceeded as exc:
            return await self._wait_after(bill, need, deadline_at_s, exc)

    def _wait_after(self, bill: Bill, need: Need, deadline_at_s: float, exc: BudgetExceeded) -> Awaitable[Lease]:
        """Return the wait that a refusal leads to; raise it where there is none."""
        charge = _refuser(bill, exc)
        if charge.budget.queue_max and exc.retry_after_s is not None:
            return self._wait(bill, need, charge, deadline_at_s)
        self._refused(bill, exc)
        raise exc

    def publish_gauges(self) -> None:
        """Bring the gauges of lines up to date."""
        if not self._lines and not self._depths:
            return
        depths = Counter(dict.fromkeys(self._depths, 0))
        for line in self._lines.values():
            depths[line.budget] += len(line.waiting)
        for name, depth in depths.items():
            self._metrics.gauge("routerd_budget_queue_depth", name).set(depth)
        self._depths = set(depths)

    async def _asked(self, bill: Bill, amounts: Sequence[int]) -> Lease:
        """Take from the counters that hosts share, or do what is to be done without them."""
        assert self._remote is not None
        try:
            taken = await self._remote.counters.take(bill.charges, amounts)
        except StateLost:
            if self._remote.refuse:
                raise StateUnavailable("The counters of budgets cannot be reached.", retry_after_s=1.0) from None
            return admit(self._counters, bill, amounts, self._alone(bill, amounts))
        return admit(self._remote.counters, bill, amounts, taken)

    def _alone(self, bill: Bill, amounts: Sequence[int]) -> Taken:
        """Take from what this host may let pass by itself. Who is refused may come back soon: the server may be there."""
        assert self._remote is not None
        now_s = time.monotonic()
        shares = self._remote.counters.shares(bill.charges, now_s)
        taken = self._counters.take(cast(Sequence[Charge], shares), amounts, now_s)  # counted as a charge with another limit
        at = taken.refused
        if at >= 0 and amounts[at] <= bill.charges[at].limit:
            taken = taken._replace(retry_after_s=min(taken.retry_after_s, RETRY_ALONE_S))
        return taken

    def _noted(self, bill: Bill, lease: Lease) -> Lease:
        if lease.taken.over:
            for i in lease.taken.over:
                budget = bill.charges[i].budget
                self._metrics.counter("routerd_budget_rejections_total", budget.name, budget.scope, "shadow").inc()
        if bill.queues:
            lease.freed = self._freed
        return lease

    async def _wait(self, bill: Bill, need: Need, charge: Charge, deadline_at_s: float) -> Lease:
        budget = charge.budget
        line = self._lines.get(charge.key)
        if line is None:
            line = self._lines[charge.key] = _Line(budget.name)
        if len(line.waiting) >= budget.queue_max:
            refusal = turned_away(charge, f"{budget.queue_max} wait already")
            self._refused(bill, refusal)
            raise refusal
        place = _Place(self._loop)
        line.waiting.append(place)
        until_s = min(self._loop.time() + budget.queue_wait_s, deadline_at_s)
        try:
            return await self._served(bill, need, charge, (line, place, until_s))
        except BudgetExceeded as exc:
            self._refused(bill, exc)
            raise
        finally:
            line.waiting.remove(place)
            if line.waiting:
                line.nudge()
            elif self._lines.get(charge.key) is line:
                del self._lines[charge.key]

    async def _served(self, bill: Bill, need: Need, charge: Charge, waits: tuple[_Line, _Place, float]) -> Lease:
        """Try at the head of the line until it is served, refused by a budget without a queue, or has waited long enough."""
        line, place, until_s = waits
        tick_s = TICK_S
        while True:
            head = line.waiting[0] is place
            await place.turn(min(until_s, self._loop.time() + tick_s) if head else until_s)
            if line.waiting[0] is not place:
                if self._loop.time() >= until_s:
                    raise turned_away(charge, "it waited its time in line")
                continue
            try:
                if self._remote is None:
                    return self._noted(bill, reserve(self._counters, bill, need, time.monotonic()))
                return self._noted(bill, await self._asked(bill, bill.amounts(need)))
            except BudgetExceeded as exc:
                refuser = _refuser(bill, exc)
                if not refuser.budget.queue_max or exc.retry_after_s is None or self._loop.time() >= until_s:
                    raise
                windowed = refuser.budget.kind != "concurrency"
                tick_s = min(max(exc.retry_after_s, TICK_S), LONGEST_TICK_S) if windowed else TICK_S

    def _freed(self) -> None:
        for line in self._lines.values():
            line.nudge()

    def _refused(self, bill: Bill, exc: BudgetExceeded) -> None:
        if bill.told and exc.taken is not None:
            exc.headers.update(limit_fields(bill, exc.taken))
        self._metrics.counter("routerd_budget_rejections_total", exc.budget, exc.scope, "enforce").inc()
        if self.notify is None:
            return
        now_s = self._loop.time()
        if now_s - self._noticed_s.get(exc.budget, -NOTICE_EVERY_S) >= NOTICE_EVERY_S:
            self._noticed_s[exc.budget] = now_s
            self.notify("budget_exhausted", {"budget": exc.budget, "scope": exc.scope, "message": exc.message})


def _refuser(bill: Bill, exc: BudgetExceeded) -> Charge:
    """Return the charge that refused."""
    assert exc.taken is not None
    return bill.charges[exc.taken.refused]
