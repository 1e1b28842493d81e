"""What `routerd serve` is told by flags and environment, as values; and the sockets that follow from it.

Everything here needs a restart to change; all else is in routes.yaml and reloads. A flag wins over its ROUTERD_* variable,
which wins over the default. A value that makes no sense is a ValueError whose message names the flag.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from routerd.daemon.cpus import usable_cpus

__all__ = ["DEFAULTS", "Address", "Listeners", "Settings", "address_of", "bind", "ledger_of", "settings_from"]

DEFAULTS: Mapping[str, str] = {
    "config": "routes.yaml",
    "listen": "127.0.0.1:8080",
    "admin": "127.0.0.1:8079",  # beside 8080; not 9090, where Prometheus takes a `POST /-/reload` as well
    "workers": "1",
    "state_dir": "",
    "open": "",
    "drain_timeout": "30s",
    "log_format": "text",
    "on_invalid": "fail",
    "state": "",
    "state_on_loss": "local",
    "state_timeout": "50ms",
    "ledger": "",
    "ledger_keep": "90d",
    "otel": "",
}
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})
MOST_WORKERS = 256
LEDGER_FILE = "ledger.sqlite3"


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port to listen on or to reach. Port 0: the kernel chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, `[V6]:PORT` or `:PORT` (every address)."""
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^:\[\]\s]*)):(\d{1,5})", text.strip())
        if found is None or int(found[3]) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
        return cls(found[1] or found[2] or "0.0.0.0", int(found[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `routerd serve` was told."""

    config: Path
    listen: Address
    admin: Address
    workers: int = 1
    state_dir: Path | None = None
    open: bool = False
    drain_timeout_s: float = 30.0
    log_format: str = "text"
    on_invalid: str = "fail"  # fail | last-good
    state: str = field(default="", repr=False)  # may hold a password
    state_on_loss: str = "local"
    state_timeout_s: float = 0.05
    ledger: str = field(default="", repr=False)  # a URL, which may hold a password, or a path; empty: there is none
    ledger_keep_s: float = 0.0  # 0: for ever
    otel: str = field(default="", repr=False)  # where spans go; may hold a password


def settings_from(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings; ValueError names the flag or variable whose value makes no sense."""

    def told(name: str) -> tuple[str, str]:
        flag = "--" + name.replace("_", "-")
        variable = "ROUTERD_" + name.upper()
        if flags.get(name) is not None:
            return flag, "1" if flags[name] is True else str(flags[name])
        return (variable, environ[variable]) if environ.get(variable) else (flag, DEFAULTS[name])

    def read(name: str, parse: Any) -> Any:
        where, text = told(name)
        try:
            return parse(text)
        except ValueError as exc:
            raise ValueError(f"{where}: {exc}") from exc

    settings = Settings(
        config=read("config", Path),
        listen=read("listen", Address.parse),
        admin=read("admin", Address.parse),
        workers=read("workers", _workers),
        state_dir=read("state_dir", _directory),
        open=read("open", _yes_or_no),
        drain_timeout_s=read("drain_timeout", duration_s),
        log_format=read("log_format", partial(_one_of, "text", "json")),
        on_invalid=read("on_invalid", partial(_one_of, "fail", "last-good")),
        state=read("state", _state),
        state_on_loss=read("state_on_loss", partial(_one_of, "local", "refuse")),
        state_timeout_s=read("state_timeout", duration_s),
        ledger=read("ledger", partial(ledger_of, read("state_dir", str))),
        ledger_keep_s=read("ledger_keep", _keep_s),
        otel=read("otel", _collector) or _collector(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")),
    )
    if settings.listen == settings.admin and settings.listen.port:  # SO_REUSEPORT would let them share it
        raise ValueError(f"--admin: {settings.admin} is also where clients connect (--listen); give it another port")
    if settings.on_invalid == "last-good" and settings.state_dir is None:
        raise ValueError("--on-invalid last-good: needs --state-dir, where the last good configuration is kept")
    return settings


def duration_s(text: str) -> float:
    """Read `30s`, `500ms`, `2m` or `1m30s`; as in routes.yaml only 0 needs no unit."""
    if re.fullmatch(r"0+(\.0+)?", text):
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{text!r} is a duration without a unit; write {text}s, {text}ms or {text}m")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise ValueError(f"{text!r} is not a duration, such as 30s, 500ms or 2m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _workers(text: str) -> int:
    if text == "auto":
        return min(usable_cpus(), MOST_WORKERS)
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"{text!r} is not a number from 1 to {MOST_WORKERS}, nor `auto`")
    return int(text)


def _directory(text: str) -> Path | None:
    """Read the path of a directory that may be made yet; what cannot be written there is only told, as a disk may be full."""
    if not text:
        return None
    path = Path(text)
    for there in (path, *path.parents):
        if os.path.lexists(there):
            if not os.path.isdir(there):
                raise ValueError(f"{there} is no directory")
            break
    return path


def _yes_or_no(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in _YES


def _state(text: str) -> str:
    if text:
        from routerd.state import check_url

        check_url(text)
    return text


def ledger_of(state_dir: str, text: str) -> str:
    """Return the URL or path of the ledger: as told, else in the state directory, else none."""
    if text == "off" or not (text or state_dir):
        return ""
    if not text:
        return str(Path(state_dir) / LEDGER_FILE)
    from routerd.ledger import check_url

    check_url(text)
    return text


def _keep_s(text: str) -> float:
    if text == "forever":
        return 0.0
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if found is None:
        raise ValueError(f"{text!r} is not a length, such as 90d, nor `forever`")
    return int(found[1]) * {"h": 3600.0, "d": 86400.0, "w": 604800.0}[found[2]]


def _collector(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("it is not the URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318")
    return text.rstrip("/")


def _one_of(one: str, other: str, text: str) -> str:
    if text not in (one, other):
        raise ValueError(f"{text!r} is neither `{one}` nor `{other}`")
    return text


def bind(address: Address, *, shared: bool) -> socket.socket:
    """Return a socket bound to `address`, not listening yet; `shared` lets others bind it too. OSError says why not."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def address_of(sock: socket.socket) -> Address:
    """Return the address that `sock` is bound to."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)


class Listeners:
    """The data sockets, one per worker, on one address.

    Control keeps them open: connections that arrive while a worker is being replaced wait in its queue. They listen once the
    worker serves, so nobody can connect before there is a configuration.
    """

    def __init__(self, address: Address, count: int, inherited: socket.socket | None = None) -> None:
        self._inherited = inherited
        self._claim: socket.socket | None = None
        if inherited is not None:  # one queue for all workers, held by the service manager over restarts
            self.address = address_of(inherited)
            self._sockets: list[socket.socket | None] = [inherited.dup() for _ in range(count)]
            return
        # A first bind without SO_REUSEPORT finds out whether another daemon is there; sharing would succeed in silence.
        probe = bind(address, shared=False)
        bound = address_of(probe)
        probe.close()
        self.address = Address(address.host, bound.port)
        self._claim = _claimed(bound)
        self._sockets = [bind(self.address, shared=True) for _ in range(count)]

    @property
    def is_public(self) -> bool:
        """Whether others than this host can connect."""
        sock = self.socket(0)
        return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback

    def socket(self, index: int) -> socket.socket:
        """Return worker `index`'s socket, a new one if it was closed."""
        sock = self._sockets[index]
        if sock is None:
            sock = bind(self.address, shared=True) if self._inherited is None else self._inherited.dup()
            self._sockets[index] = sock
        return sock

    def close(self, index: int) -> None:
        """Stop taking connections for worker `index`: the kernel gives its share to the others."""
        sock, self._sockets[index] = self._sockets[index], None
        if sock is not None:
            sock.close()

    def close_all(self) -> None:
        """Stop taking connections."""
        for index in range(len(self._sockets)):
            self.close(index)
        for held in (self._inherited, self._claim):
            if held is not None:
                held.close()


def _claimed(address: Address) -> socket.socket:
    """Claim an address for this daemon until the socket is closed; OSError when another one has.

    Its sockets listen a second later, and until then a bind beside them succeeds (socket(7), SO_REUSEADDR): of two daemons
    that were started at the same time, each got half of the connections. An abstract name (unix(7)) ends with its process.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0routerd {address}")
    except OSError:
        claim.close()
        raise
    return claim
