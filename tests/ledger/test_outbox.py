"""The worker's side: batches with numbers that never repeat, and a bound on what waits."""

from __future__ import annotations

from routerd.ledger import Batch, Outbox
from routerd.ledger import outbox as module
from routerd.ledger.entry import decode
from routerd.observe import Cell
from tests.ledger.build import entry


def filled(count: int, takes: list[bool]) -> tuple[Outbox, list[Batch], Cell]:
    """Return an outbox after so many entries; it sends while `takes[0]`."""
    sent: list[Batch] = []

    def send(batch: Batch) -> bool:
        if takes[0]:
            sent.append(batch)
        return takes[0]

    dropped = Cell()
    box = Outbox(send, dropped)
    for i in range(count):
        box.add(entry(status=i))
    return box, sent, dropped


def test_nothing_is_sent_before_the_flush_or_a_full_batch() -> None:
    box, sent, _ = filled(module.BATCH - 1, [True])
    assert sent == []
    box.flush()
    assert (sent[0].first, sent[0].count, sent[0].run) == (0, module.BATCH - 1, box.run)
    box.flush()
    assert len(sent) == 1


def test_numbers_go_on_from_batch_to_batch() -> None:
    box, sent, _ = filled(3 * module.BATCH + 1, [True])
    box.flush()
    assert [(b.first, b.count) for b in sent] == [(0, 512), (512, 512), (1024, 512), (1536, 1)]
    assert [values[8] for batch in sent for values in decode(batch.data)] == list(range(3 * module.BATCH + 1))


def test_what_control_does_not_take_waits_up_to_a_number_and_the_newest_is_dropped() -> None:
    takes = [False]
    box, sent, dropped = filled(module.WAITING_MOST + 700, takes)
    assert (box.waiting, dropped.value) == (module.WAITING_MOST, 700.0)
    takes[0] = True
    box.flush()
    statuses = [values[8] for batch in sent for values in decode(batch.data)]
    assert statuses == list(range(module.WAITING_MOST))
    assert box.waiting == 0


def test_two_workers_are_two_runs() -> None:
    assert filled(0, [True])[0].run != filled(0, [True])[0].run
