"""What systemd is told, and the sockets that it hands over (R28): sd_notify(3), sd_listen_fds(3), systemd.service(5).

    READY=1                          the first generation serves; after RELOADING=1: the reload ended, STATUS= says how
    RELOADING=1, MONOTONIC_USEC=     a reload begins (Type=notify-reload waits for it after its SIGHUP)
    STOPPING=1                       draining
    WATCHDOG=1                       each half of WATCHDOG_USEC, while the loop of the control process turns
A notification is one datagram and never waits: systemd being slow, or absent, must not stop a router. Sockets are inherited from
descriptor 3 on; FileDescriptorName= `data` and `admin` tell which is which, without names the first is data, the second admin.
All these variables are taken out of the environment, so that no worker believes they were meant for it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

__all__ = ["Notifier", "inherited_sockets", "notifier_of"]

FIRST_FD = 3
NAMES = ("data", "admin")
UNNAMED = frozenset({"", "unknown"})  # what systemd writes for a descriptor without a name


class Notifier:
    """Tells the service manager; without an address it tells nobody."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """What was started, or reloaded, serves."""
        self._send(READY="1", STATUS=status)

    def reloading(self) -> None:
        """A reload begins."""
        self._send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self) -> None:
        """The daemon drains."""
        self._send(STOPPING="1", STATUS="draining")

    def alive(self) -> None:
        """The watchdog may wait another turn."""
        self._send(WATCHDOG="1")

    def _send(self, **fields: str) -> None:
        if self._socket is None:
            return
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:  # nobody listens, or its queue is full
            pass


def notifier_of(environ: MutableMapping[str, str], pid: int) -> Notifier:
    """Return the notifier that the environment asks for, and take the variables out of it."""
    address = environ.pop("NOTIFY_SOCKET", "")
    usec, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
    watched = usec.isdecimal() and int(usec) > 0 and whose == str(pid)
    return Notifier(address if address[:1] in ("/", "@") else "", int(usec) / 2e6 if watched else None)


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> dict[str, socket.socket]:
    """Return the listening sockets handed over to this process as `data` and `admin`; ValueError for one of another name."""
    whose, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if whose != str(pid) or not count.isdecimal():
        return {}
    out: dict[str, socket.socket] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        if name in UNNAMED or name.endswith(".socket"):  # a unit's own name is systemd's default
            name = NAMES[index] if index < len(NAMES) else name
        if name not in NAMES or name in out:
            raise ValueError(f"systemd handed over a socket called {name!r}; FileDescriptorName= is `data` or `admin`, once each")
        out[name] = socket.socket(fileno=FIRST_FD + index)
        if out[name].family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"the socket {name!r} that systemd handed over is not a TCP socket; use ListenStream=HOST:PORT")
        out[name].setblocking(False)
        os.set_inheritable(FIRST_FD + index, False)
    return out
