"""What a change of the configuration goes through on its way to the workers, and what is remembered of it.

    queue      one reload at a time: load, guard, compare, pack, publish; roll back
    guard      a file that lost most of its models is probably half a file
    history    the last generations that served, to go back to
    probation  is the new generation worse than the one before?
    keep       the inputs of the last good load, on disk
    outcome    how one reload ended, in the words that metrics, log, events and API share
    tell       ... to the metrics and the log

guard, history, probation and outcome are pure: time comes in, nothing is waited for.
"""

from __future__ import annotations

from routerd.daemon.reload.outcome import RESULTS, TRIGGERS, Outcome
from routerd.daemon.reload.queue import Inputs, Loaded, Reloader, Steps
from routerd.daemon.reload.tell import Teller

__all__ = ["RESULTS", "TRIGGERS", "Inputs", "Loaded", "Outcome", "Reloader", "Steps", "Teller"]
