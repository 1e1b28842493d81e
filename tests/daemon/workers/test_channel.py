"""The wire between control and a worker, over a real socket pair."""

from __future__ import annotations

import socket

import pytest

from routerd.daemon.workers.channel import Ask, Channel, Commit, Tick, Undecodable, encode
from routerd.observe import Snapshot


async def pair() -> tuple[Channel, Channel]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    return await Channel.open(a), await Channel.open(b)


async def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = await pair()
    big = Tick(Snapshot({("routerd_attempts_total", (str(i), "ok")): i for i in range(20_000)}), {1: 2})
    for message in (Commit(1), big, Ask(2)):
        ours.send(message)
    assert [await theirs.receive() for _ in range(3)] == [Commit(1), big, Ask(2)]
    ours.close()
    theirs.close()


async def test_the_end_of_the_other_process_is_an_end_of_file() -> None:
    ours, theirs = await pair()
    ours.send(Commit(1))
    ours.close()
    assert await theirs.receive() == Commit(1)
    with pytest.raises(EOFError):
        await theirs.receive()
    theirs.send(Commit(2))  # says nothing; receiving does
    theirs.close()


async def test_what_cannot_be_decoded_is_said_and_the_next_message_comes_as_usual() -> None:
    ours, theirs = await pair()
    broken = encode(Commit(1))
    ours.send_frames((broken[:4] + b"?" * (len(broken) - 4),))
    ours.send(Commit(2))
    with pytest.raises(Undecodable):
        await theirs.receive()
    assert await theirs.receive() == Commit(2)
    ours.close()
    theirs.close()


async def test_a_frame_that_is_cut_is_an_end_of_file() -> None:
    a, b = socket.socketpair()
    b.setblocking(False)
    channel = await Channel.open(b)
    a.sendall(encode(Commit(1))[:-2])
    a.close()
    with pytest.raises(EOFError):
        await channel.receive()
    channel.close()
