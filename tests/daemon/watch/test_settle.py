"""When a change is complete: the decision with made-up looks."""

from __future__ import annotations

from pathlib import Path

from routerd.daemon.watch.look import MISSING, Sign
from routerd.daemon.watch.settle import Settle

F = Path("/etc/routerd/routes.yaml")


def sign(inode: int = 1, mtime: int = 1, sha256: str = "a", links: tuple[tuple[str, str], ...] = ()) -> Sign:
    return Sign(links=links, identity=(1, inode), state=(mtime, mtime, 10), sha256=sha256)


def taken_up_at(looks: list[tuple[float, Sign]], *, written: bool = False) -> list[float]:
    """Return the moments at which the inputs would be loaded, each load taking up what was seen."""
    settle = Settle()
    settle.take({F: sign()})
    out = []
    for now_s, seen in looks:
        if settle.see({F: seen}, now_s, written=written):
            out.append(now_s)
            settle.take({F: seen})
    return out


def every_50_ms(*signs: Sign) -> list[tuple[float, Sign]]:
    return [(i / 20, seen) for i, seen in enumerate(signs)]


def test_nothing_happens_while_nothing_changes() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(), sign())) == []


def test_a_replaced_file_is_taken_up_when_two_looks_agree() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(2), sign(2), sign(2))) == [0.1]


def test_a_file_written_in_place_needs_twice_the_time_because_chunks_may_follow() -> None:
    assert taken_up_at(every_50_ms(sign(mtime=2), sign(mtime=2), sign(mtime=2), sign(mtime=2))) == [0.1]


def test_a_writer_that_goes_on_is_waited_for_but_at_most_one_second() -> None:
    assert taken_up_at(every_50_ms(*(sign(mtime=i) for i in range(2, 30)))) == [1.0]


def test_a_file_that_somebody_has_open_for_writing_is_waited_for_but_at_most_one_second() -> None:
    assert taken_up_at(every_50_ms(*(sign(mtime=2) for _ in range(30))), written=True) == [1.0]


def test_a_missing_file_may_come_back_within_one_second() -> None:
    assert taken_up_at(every_50_ms(MISSING, *[MISSING] * 10, sign(2), sign(2), sign(2))) == [0.6]
    assert taken_up_at(every_50_ms(*[MISSING] * 30)) == [1.0]


def test_a_change_that_is_taken_back_is_none() -> None:
    assert taken_up_at(every_50_ms(sign(2), sign(), sign(), sign(2), sign())) == []


def test_other_content_behind_the_same_stat_is_a_change() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(sha256="b"), sign(sha256="b"), sign(sha256="b"))) == [0.15]


def test_another_link_text_is_a_change() -> None:
    moved = sign(links=(("/etc/routerd/..data", "..2"),), inode=2)
    assert taken_up_at(every_50_ms(sign(), moved, moved)) == [0.1]


def test_the_first_the_second_and_the_tenth_change_are_all_seen() -> None:
    looks = every_50_ms(*(sign(2 + i // 4) for i in range(40)))
    assert len(taken_up_at(looks)) == 10


def test_what_changes_during_the_load_is_seen_after_it() -> None:
    settle = Settle()
    before = {F: sign(2)}  # looked at, then read; meanwhile the writer replaced it again
    settle.take(before)
    assert not settle.see({F: sign(3)}, 0.0)
    assert settle.see({F: sign(3)}, 0.05)


def test_a_path_that_was_not_looked_at_before_the_load_is_loaded_once_more() -> None:
    settle = Settle()
    settle.take({F: sign()})
    both = {F: sign(), Path("/prompt.md"): sign(9)}
    assert not settle.see(both, 0.0)
    assert settle.see(both, 0.05)
    settle.take(both)
    assert not settle.see(both, 0.1)
