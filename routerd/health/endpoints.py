"""What this worker has learnt about each endpoint: the requests in flight and the end of its cooldown.

State belongs to an identity (URL and credential), so that a rename, a move or an unrelated edit keeps it. Callers speak in names.
A name means what it meant in the generation that a request began with: `reconcile` returns a View for the new generation, and a
request that ends under an older View still gives back what it took, even when the file has swapped two names meanwhile.
Several endpoints with one identity (a gateway that tells its upstreams apart by a header) are kept apart by their names.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

from routerd.graph import Endpoint, Graph

KEEP_REMOVED_S = 600.0  # removed and added again within 10 minutes: the last state
KEEP_REMOVED_MOST = 4096  # reloads in a loop, each with other endpoints, hold no more than this


class EndpointState:
    """The numbers of one endpoint. `cool_until_s` is monotonic; in the past means not cooling."""

    __slots__ = ("cool_until_s", "inflight")

    def __init__(self) -> None:
        self.inflight = 0
        self.cool_until_s = 0.0


class View:
    """The endpoints of one generation by name. An unknown name is idle and never cools."""

    __slots__ = ("_states",)

    def __init__(self, states: Mapping[str, EndpointState]) -> None:
        self._states = states

    def begin(self, name: str) -> None:
        """Count one request more; every begin is followed by one end under the same View."""
        state = self._states.get(name)
        if state is not None:
            state.inflight += 1

    def end(self, name: str) -> None:
        """Count one request less."""
        state = self._states.get(name)
        if state is not None and state.inflight > 0:
            state.inflight -= 1

    def cool(self, name: str, until_s: float) -> None:
        """Let the endpoint cool down until then; a cooldown that runs is never shortened."""
        state = self._states.get(name)
        if state is not None and until_s > state.cool_until_s:
            state.cool_until_s = until_s

    def cooling(self, name: str, now_s: float) -> float:
        """Return the end of the cooldown, or 0.0."""
        state = self._states.get(name)
        if state is None or state.cool_until_s <= now_s:
            return 0.0
        return state.cool_until_s

    def inflight(self, name: str) -> int:
        """Return the requests in flight."""
        state = self._states.get(name)
        return 0 if state is None else state.inflight

    def items(self) -> Iterator[tuple[str, EndpointState]]:
        """Iterate over (name, state), for gauges."""
        return iter(self._states.items())


class Health(View):
    """The states of all endpoints; as a View it is that of the newest generation."""

    __slots__ = ("_by_identity", "_removed")

    def __init__(self) -> None:
        super().__init__({})
        self._by_identity: dict[bytes, EndpointState] = {}
        self._removed: dict[bytes, tuple[float, EndpointState]] = {}  # oldest first

    def reconcile(self, graph: Graph, now_s: float) -> View:
        """Take up the endpoints of a new generation and return its View. Kept and returning identities keep their state."""
        wanted = identities(graph)
        kept: dict[bytes, EndpointState] = {}
        for identity in wanted.values():
            known = self._by_identity.pop(identity, None)
            kept[identity] = known or self._returning(identity, now_s) or EndpointState()
        self._removed.update((identity, (now_s, state)) for identity, state in self._by_identity.items())
        self._by_identity = kept
        self._forget(now_s)
        self._states = {name: kept[identity] for name, identity in wanted.items()}
        return View(self._states)

    def _returning(self, identity: bytes, now_s: float) -> EndpointState | None:
        found = self._removed.pop(identity, None)
        return found[1] if found and now_s - found[0] <= KEEP_REMOVED_S else None

    def _forget(self, now_s: float) -> None:
        """Drop what was removed long ago, and the oldest of what is too much."""
        old = [identity for identity, (at_s, _) in self._removed.items() if now_s - at_s > KEEP_REMOVED_S]
        for identity in old:
            del self._removed[identity]
        while len(self._removed) > KEEP_REMOVED_MOST:
            del self._removed[next(iter(self._removed))]


def identities(graph: Graph) -> dict[str, bytes]:
    """Return name -> identity for every endpoint of the graph; identities are distinct."""
    plain = {name: _identity(graph, endpoint) for name, endpoint in graph.endpoints.items()}
    shared = Counter(plain.values())
    return {name: key if shared[key] == 1 else key + b"\0" + name.encode() for name, key in plain.items()}


def _identity(graph: Graph, endpoint: Endpoint) -> bytes:
    """Digest the URL and the credential; the credential itself is not kept."""
    provider = graph.providers.get(endpoint.provider)
    secret = provider.auth.secret.reveal() if provider and provider.auth.secret else ""
    return hashlib.blake2b(f"{endpoint.url}\0{secret}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
