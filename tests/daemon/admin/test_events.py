"""The bus: bounded, replayed, and honest about what a reader missed."""

from __future__ import annotations

from routerd.daemon.admin.events import KINDS, PENDING_MAX, READERS_MAX, RING, Event, Events, Subscription


def bus() -> Events:
    return Events(wall=lambda: 1000.0)


async def read(reader: Subscription | None) -> list[Event]:
    assert reader is not None
    reader.end()
    return [event async for event in reader]


async def test_a_reader_gets_what_happens_after_it_came() -> None:
    events = bus()
    events.emit("reload_applied", {"n": 0})
    reader = events.subscribe()
    events.emit("reload_applied", {"n": 1})
    assert [(e.kind, e.fields) for e in await read(reader)] == [("reload_applied", {"at_unix_s": 1000.0, "n": 1})]


async def test_a_reader_that_comes_back_gets_what_it_missed() -> None:
    events = bus()
    for n in range(5):
        events.emit("breaker", {"n": n})
    seen = events._ring[2].id
    assert [e.fields["n"] for e in await read(events.subscribe(seen))] == [3, 4]
    assert await read(events.subscribe(events._ring[-1].id)) == []


async def test_a_reader_of_an_earlier_life_gets_all_that_is_remembered() -> None:
    events = bus()
    events.emit("breaker", {"n": 0})
    for foreign in ("dead-7", "nonsense", f"{events._start}-x", "-", f"{events._start}--1"):
        assert [e.fields["n"] for e in await read(events.subscribe(foreign)) if e.kind != "lost"] == [0], foreign


async def test_what_fell_out_of_the_ring_is_counted() -> None:
    events = bus()
    for n in range(RING + 50):
        events.emit("breaker", {"n": n})
    first = f"{events._start}-10"
    got = await read(events.subscribe(first))
    assert (got[0].kind, got[0].fields, got[0].id) == ("lost", {"events": 40}, "")
    assert [e.fields["n"] for e in got[1:]] == list(range(50, RING + 50))


async def test_a_slow_reader_loses_its_oldest_and_is_told_how_many() -> None:
    events = bus()
    reader = events.subscribe()
    for n in range(PENDING_MAX + 5):
        events.emit("breaker", {"n": n})
    got = await read(reader)
    assert (got[0].kind, got[0].fields) == ("lost", {"events": 5})
    assert [e.fields["n"] for e in got[1:]] == list(range(5, PENDING_MAX + 5))


async def test_a_kind_that_is_none_is_dropped_and_those_of_workers_are_known() -> None:
    from routerd.daemon.workers.channel import NOTICES

    events = bus()
    events.emit("anything", {})
    assert len(events._ring) == 0
    assert NOTICES <= KINDS


async def test_readers_are_bounded_and_leave_no_trace() -> None:
    events = bus()
    readers = [events.subscribe() for _ in range(READERS_MAX)]
    assert events.subscribe() is None
    readers[0].close()  # type: ignore[union-attr]
    assert events.subscribe() is not None


async def test_the_end_lets_every_reader_finish() -> None:
    events = bus()
    reader = events.subscribe()
    events.emit("breaker", {"n": 1})
    events.end()
    assert reader is not None
    assert [e.fields["n"] async for e in reader] == [1]
    late = events.subscribe()
    assert late is not None
    assert [e async for e in late] == []
