"""What is known about endpoints from their answers. Pure: time is passed in; it decides no order, `plan` asks it.

Model
    One EndpointState for each identity (URL and credential): requests in flight, end of the cooldown.
Compilation
    `Health.reconcile(graph, now_s)` at a swap: one dictionary of names; about 3 us an endpoint. Kept identities keep their state,
    new ones start clean, removed ones come back within 10 minutes as they were.
Runtime
    `begin`, `end`, `cool` by the attempt; `cooling`, `inflight` by the plan; all under the View of the request's generation.
Cost and concurrency
    A look-up is about 0.1 us. One worker, one thread: each worker learns for itself.
"""

from routerd.health.endpoints import EndpointState, Health, View, identities

__all__ = ["EndpointState", "Health", "View", "identities"]
