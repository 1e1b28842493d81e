"""Loopback ports for what cannot take port 0: each is nobody else's, however many tests and connections run beside it.

A port that is bound, read and let go is soon another process's: the kernel hands the same numbers to every listener on port 0
and to every outgoing connection.
"""

from __future__ import annotations

import os
import pathlib
import random
import socket

_TAKEN_BY_LINUX = 32_768  # the usual start of the kernel's own range
_RANGE = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_240


def closed_port() -> int:
    """Return a port that refuses connections as long as this process lives: it is bound, and nobody listens."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = int(sock.getsockname()[1])
    sock.detach()  # stays open
    return port


def free_port() -> int:
    """Return a port for a server to be started on: below those that the kernel hands out by itself, and unused now."""
    try:
        end = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        end = _TAKEN_BY_LINUX
    end = end if end > _FIRST + 1_000 else 65_536
    rng = random.Random(os.urandom(8))  # hypothesis and others seed the common one alike in every process
    while True:
        port = rng.randrange(_FIRST, end)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
