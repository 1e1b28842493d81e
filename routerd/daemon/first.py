"""The first generation: from the files, or, if they cannot serve and the operator wants that, from what was kept on disk.

A bad file plus a restart is an outage otherwise. What is served then, and that it is not the files, stands in the log, in the
status, in `routerd_config_info{source="last_good"}` and in `routerd_config_drift`; the files are watched and taken up when they
are right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from routerd.daemon.workers.crew import StartFailed

if TYPE_CHECKING:
    from routerd.daemon.control import Control
    from routerd.daemon.reload import Outcome

__all__ = ["CANNOT_REACH", "FAILED", "FINE", "INVALID", "first_generation"]

log = logging.getLogger("routerd.control")

FINE, FAILED, INVALID, CANNOT_REACH = 0, 1, 2, 3


async def first_generation(control: Control) -> int | None:
    """Load and publish for the first time; return the exit status if the daemon cannot go on."""
    outcome = await _outcome(control, control.reloader.request("start"))
    if isinstance(outcome, int):
        return outcome
    if not outcome.ok and control.settings.on_invalid == "last-good":
        kept = await _from_last_good(control)
        if kept is None or isinstance(kept, int):
            return kept
    if outcome.ok:
        return None
    await _offer_last_good(control)
    return CANNOT_REACH if outcome.unreadable else INVALID


async def _offer_last_good(control: Control) -> None:
    """Say how to serve what was kept, if there is anything: an operator in an outage should not have to know."""
    from routerd.daemon.reload import keep

    directory = control.settings.state_dir
    if directory is None or control.settings.on_invalid == "last-good":
        return
    try:
        await asyncio.to_thread(keep.read, directory, control.settings.config)
    except keep.Unusable:
        return
    log.error("what served last is kept in %s: `--on-invalid last-good` serves it until the files are right", directory)


async def _from_last_good(control: Control) -> Outcome | int | None:
    """Serve what was kept; None if that serves, else why the daemon cannot go on."""
    from routerd.daemon.reload import keep

    assert control.settings.state_dir is not None
    try:
        good = await asyncio.to_thread(keep.read, control.settings.state_dir, control.settings.config)
    except keep.Unusable as exc:
        log.error("there is no last good configuration to start from: %s", exc)
        return INVALID
    control.keeper.found(good)
    outcome = await _outcome(control, control.reloader.start_from(good.kept))
    if isinstance(outcome, int) or not outcome.ok:
        return outcome
    log.warning("the last good configuration serves, digest %s; the files do not until they are right", outcome.digest[:16])
    return None


async def _outcome(control: Control, reload: asyncio.Future[Outcome]) -> Outcome | int:
    """Return how the reload ended, or the exit status if something else came first."""
    asked = asyncio.ensure_future(control.ending.asked.wait())
    await asyncio.wait((reload, control.crew.failed, asked), return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        return FINE
    asked.cancel()
    if not reload.done():
        with contextlib.suppress(StartFailed):
            control.crew.failed.result()
        log.error("the daemon does not start: %s", control.crew.failed.exception())
        return FAILED
    return reload.result()
