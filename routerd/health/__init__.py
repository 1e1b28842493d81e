"""What is known about endpoints from their answers, shared by all workers. Pure: time is passed in; it decides no order.

Model
    One EndpointState for each identity (URL and credential): requests in flight, cooldown, breaker, drain, probe, load, latency.
    Its words lie in memory that all workers share (`Slots`: `state.Board`), so N workers agree and a restarted one knows.
Compilation
    `Health.reconcile(graph, now_s)` at a swap: one dictionary of names; about 3 us an endpoint. Kept identities keep their state
    and get the new thresholds, new ones start clean, removed ones come back within 10 minutes as they were.
Runtime
    `begin`, `end`, `succeeded`, `failed`, `timed`, `cool` by the attempt; `standing`, `inflight`, `load`, `latency` by the plan;
    all under the View of the request's generation. Control notes probes and drains, and reads everything for gauges and events.
Cost and concurrency
    A read is about 0.1 us, a counted outcome 0.4 us and no lock: a worker writes its own column. What changes more than one word
    takes the board's lock: a cooldown, a breaker that opens or closes, a drain.
"""

from routerd.health.endpoint import EndpointState
from routerd.health.endpoints import Health, View, identities
from routerd.health.probe import Streak
from routerd.health.words import breaker_state, reasons

__all__ = ["EndpointState", "Health", "Streak", "View", "breaker_state", "identities", "reasons"]
