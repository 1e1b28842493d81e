"""What systemd is told, over a real datagram socket; what it hands over, over real descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from routerd.daemon.notify import Notifier, notifier_of
from tests.support.process import clean_environ


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@routerd-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0"))
        sock.settimeout(5)
        yield address, sock


def heard(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))


def test_it_tells_ready_reloading_and_stopping(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    environ = {"NOTIFY_SOCKET": address, "HOME": "/"}
    notifier = notifier_of(environ, 7)
    assert environ == {"HOME": "/"}  # no worker may think that it was meant
    notifier.ready("generation 1\nserves")
    assert heard(sock) == {"READY": "1", "STATUS": "generation 1 serves"}
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    told = heard(sock)
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert heard(sock)["STOPPING"] == "1"
    notifier.alive()
    assert heard(sock) == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time_if_it_watches_this_process(
    environ: dict[str, str], watchdog_s: float | None
) -> None:
    assert notifier_of(environ, 7).watchdog_s == watchdog_s
    assert environ == {}


def test_nobody_listening_is_no_fault(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).ready("x")
    Notifier().reloading()
    assert notifier_of({"NOTIFY_SOCKET": "vsock:2:1234"}, 7)._socket is None


PROBE = """
import json, os, sys
from routerd.daemon.notify import inherited_sockets
environ = dict(os.environ, LISTEN_PID=os.environ.get("SAY_PID") or str(os.getpid()))
try:
    found = inherited_sockets(environ, os.getpid())
    ports = {name: sock.getsockname()[1] for name, sock in found.items()}
    print(json.dumps([ports, [sock.get_inheritable() for sock in found.values()], [k for k in environ if "LISTEN" in k]]))
except ValueError as exc:
    print(exc)
"""


def hand_over(count: int, family: int = socket.AF_INET, **environ: str) -> tuple[str, list[int]]:
    """Start a process with `count` listening sockets from descriptor 3 on, as systemd does; return what it found."""
    sockets = [socket.socket(family) for _ in range(count)]
    try:
        for sock in sockets:
            if family == socket.AF_INET:
                sock.bind(("127.0.0.1", 0))
        sources = [os.dup(sock.fileno()) for sock in sockets]
        moved = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(sources))
        done = subprocess.run(
            ["bash", "-c", f'exec "$0" -c "$1" {moved}', sys.executable, PROBE],
            pass_fds=sources,
            env=clean_environ({"LISTEN_FDS": str(count), **environ}),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        for fd in sources:
            os.close(fd)
        ports = [sock.getsockname()[1] for sock in sockets] if family == socket.AF_INET else []
        return done.stdout.strip(), ports
    finally:
        for sock in sockets:
            sock.close()


def test_the_first_socket_is_data_and_the_second_admin() -> None:
    said, (data, admin) = hand_over(2)
    assert said == f'[{{"data": {data}, "admin": {admin}}}, [false, false], []]'


def test_names_say_which_is_which() -> None:
    said, (first, second) = hand_over(2, LISTEN_FDNAMES="admin:data")
    assert said.startswith(f'[{{"admin": {first}, "data": {second}}}')
    assert hand_over(1, LISTEN_FDNAMES="routerd.socket")[0].startswith('[{"data"')


@pytest.mark.parametrize("names", ["metrics", "data:data", "data:admin:third"])
def test_a_name_that_is_none_is_a_mistake_that_is_told(names: str) -> None:
    assert "FileDescriptorName= is `data` or `admin`" in hand_over(names.count(":") + 1, LISTEN_FDNAMES=names)[0]


def test_a_unix_socket_is_refused() -> None:
    assert "not a TCP socket" in hand_over(1, socket.AF_UNIX)[0]


def test_sockets_for_another_process_are_left_alone() -> None:
    assert hand_over(1, SAY_PID="1")[0].startswith("[{}")
