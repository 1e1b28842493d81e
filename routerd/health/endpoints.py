"""The endpoints of the generations by name: who is who over reloads, and one door for everybody who asks or tells.

State belongs to an identity (URL and credential), so that a rename, a move or an unrelated edit keeps it. Callers speak in names.
A name means what it meant in the generation that a request began with: `reconcile` returns a View for the new generation, and a
request that ends under an older View still gives back what it took, even when the file has swapped two names meanwhile.
Several endpoints with one identity (a gateway that tells its upstreams apart by a header) are kept apart by their names.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from routerd.graph import Graph, Provider
from routerd.health.endpoint import EndpointState
from routerd.health.words import reasons
from routerd.messages import Standing

__all__ = ["Health", "Slots", "View", "identities"]


class Slots(Protocol):
    """Where the words of endpoints are; `state.Board` is one. A slot is a head and one column a worker."""

    worker: int
    workers: int

    def slot(self, key: bytes, now_s: float, /) -> memoryview:
        """Return the words of the endpoint with this 16-byte identity."""

    def retire(self, words: memoryview, now_s: float, /) -> None:
        """Note that the endpoint is no longer configured."""

    def lock(self) -> AbstractContextManager[None]:
        """Exclude the other processes."""


class View:
    """The endpoints of one generation by name. An unknown name is idle and nothing stands against it."""

    __slots__ = ("_states",)

    def __init__(self, states: Mapping[str, EndpointState]) -> None:
        self._states = states

    def begin(self, name: str) -> None:
        """Count one request more; every begin is followed by one end under the same View."""
        state = self._states.get(name)
        if state is not None:
            state.begin()

    def end(self, name: str) -> None:
        """Count one request less."""
        state = self._states.get(name)
        if state is not None:
            state.end()

    def succeeded(self, name: str, started_s: float, now_s: float) -> None:
        """Count a good outcome."""
        state = self._states.get(name)
        if state is not None:
            state.succeeded(started_s, now_s)

    def failed(self, name: str, started_s: float, now_s: float) -> None:
        """Count a failure of the endpoint."""
        state = self._states.get(name)
        if state is not None:
            state.failed(started_s, now_s)

    def timed(self, name: str, took_s: float, now_s: float) -> None:
        """Note a time to the first byte or token."""
        state = self._states.get(name)
        if state is not None:
            state.timed(took_s, now_s)

    def cool(self, name: str, until_s: float, why: str = "") -> None:
        """Let the endpoint cool down until then; a cooldown that runs is never shortened."""
        state = self._states.get(name)
        if state is not None:
            state.cool(until_s, why)

    def standing(self, name: str, now_s: float) -> Standing | None:
        """Return what stands against the endpoint, or None."""
        state = self._states.get(name)
        return None if state is None else state.standing(now_s)

    def drained(self, name: str) -> bool:
        """Tell whether the endpoint was taken out by hand."""
        state = self._states.get(name)
        return state is not None and state.is_drained

    def reasons(self, name: str, now_s: float) -> list[str]:
        """Say in words what stands against the endpoint."""
        state = self._states.get(name)
        return [] if state is None else reasons(state, now_s)

    def cooling(self, name: str, now_s: float) -> float:
        """Return the end of the cooldown, or 0.0."""
        state = self._states.get(name)
        return 0.0 if state is None else state.cooling(now_s)

    def inflight(self, name: str) -> int:
        """Return the requests in flight over all workers."""
        state = self._states.get(name)
        return 0 if state is None else state.inflight

    def load(self, name: str, now_s: float) -> int | None:
        """Return the requests that the engine itself counts, or None."""
        state = self._states.get(name)
        return None if state is None else state.load(now_s)

    def latency(self, name: str, now_s: float) -> float:
        """Return the time to the first byte or token in seconds, or 0.0."""
        state = self._states.get(name)
        return 0.0 if state is None else state.latency(now_s)

    def get(self, name: str) -> EndpointState | None:
        """Return the state of one endpoint."""
        return self._states.get(name)

    def items(self) -> Iterator[tuple[str, EndpointState]]:
        """Iterate over (name, state)."""
        return iter(self._states.items())


class Health(View):
    """The states of all endpoints; as a View it is that of the newest generation."""

    __slots__ = ("_by_identity", "_slots")

    def __init__(self, slots: Slots) -> None:
        super().__init__({})
        self._slots = slots
        self._by_identity: dict[bytes, EndpointState] = {}

    def reconcile(self, graph: Graph, now_s: float) -> View:
        """Take up the endpoints of a new generation and return its View. Kept and returning identities keep their state."""
        return self.take_up(graph.providers, now_s)

    def drain_ahead(self, providers: Mapping[str, Provider], drained: Iterable[str], now_s: float) -> None:
        """Drain those of a coming generation that are not known yet, so that its first request finds them so."""
        wanted = identities(providers)
        for name in drained:
            identity = wanted.get(name)
            if identity is not None and identity not in self._by_identity:
                words = self._slots.slot(_key(identity), now_s)
                EndpointState(words, self._slots.worker, self._slots.workers, self._slots.lock).drain(True, now_s)
                self._slots.retire(words, now_s)  # until somebody takes it up

    def take_up(self, providers: Mapping[str, Provider], now_s: float) -> View:
        """As `reconcile`: the providers are all that matters."""
        wanted = identities(providers)
        fresh = not self._by_identity  # at the start all are new, and none is newer than the others
        kept: dict[bytes, EndpointState] = {}
        states: dict[str, EndpointState] = {}
        for provider in providers.values():
            for endpoint in provider.endpoints:
                identity = wanted[endpoint.name]
                state = self._by_identity.pop(identity, None)
                if state is None:
                    words = self._slots.slot(_key(identity), now_s)
                    state = EndpointState(words, self._slots.worker, self._slots.workers, self._slots.lock)
                    state.configure(provider.breaker, provider.slow_start_s)
                    state.adopt(now_s, slowly=not fresh)
                state.configure(provider.breaker, provider.slow_start_s)
                kept[identity] = states[endpoint.name] = state
        for state in self._by_identity.values():
            self._slots.retire(state.words, now_s)
        self._by_identity = kept
        self._states = states
        return View(states)


def identities(providers: Mapping[str, Provider]) -> dict[str, bytes]:
    """Return name -> identity for every endpoint; identities are distinct, and hold no secret."""
    plain: dict[str, bytes] = {}
    for provider in providers.values():
        secret = provider.auth.secret.reveal() if provider.auth.secret else ""
        if (oauth := provider.auth.oauth) is not None:
            secret = f"{oauth.token_url}\0{oauth.client_id}\0{oauth.client_secret.reveal()}"
        for endpoint in provider.endpoints:
            plain[endpoint.name] = _digest(f"{endpoint.url}\0{secret}".encode("utf-8", "surrogatepass"))
    shared = Counter(plain.values())
    return {name: key if shared[key] == 1 else key + b"\0" + name.encode() for name, key in plain.items()}


def _key(identity: bytes) -> bytes:
    return identity if len(identity) == 16 else _digest(identity)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
