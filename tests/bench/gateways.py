"""How each gateway of the benchmark is started: nginx as a pure proxy, routerd with everything on, peers as they are shipped.

A peer is looked for in the PATH under its command's name, or where `--peer NAME=PATH` says.
"""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import rig
from tests.support.ports import free_port

__all__ = ["PEERS", "Gateway", "Running", "nginx", "peer", "routerd"]

Argv = Callable[[pathlib.Path, int, int], list[str]]  # directory, own port, upstream's port
PEERS = {"vllm-router": "vllm-router", "sglang-router": "sglang-router", "litellm": "litellm", "portkey": "gateway"}
SLOW_PEERS = frozenset({"litellm", "portkey"})  # hundreds of requests a second: they get fewer streams, or they would break them
WARM_S = 0.4
WARM_SLOW_S = 10.0  # V8 has compiled what Portkey runs after some 5,000 requests: then a request costs half of the first ones
KEY = {"Authorization": "Bearer sk-bench"}
LITELLM = """
model_list:
  - model_name: mock-model
    litellm_params: {model: openai/mock-model, api_base: "http://127.0.0.1:@UPSTREAM@/v1", api_key: sk-upstream}
"""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """One way to run a gateway. `headers`: what a request to it must carry; `warm_s`: how long it runs before it is measured."""

    name: str
    argv: Argv
    headers: Callable[[int], Mapping[str, str]] = field(default=lambda upstream: KEY)
    core: int | str = rig.GATEWAY_CORE
    workers_are_children: bool = False
    warm_s: float = WARM_S


class Running:
    """A gateway that was started, and what /proc says of it. `start_s`: from the start to the first accepted connection."""

    def __init__(self, gateway: Gateway, directory: pathlib.Path, upstream: int) -> None:
        self.gateway = gateway
        self.port = free_port()
        self.headers = gateway.headers(upstream)
        name = gateway.name.replace(" ", "-").replace(",", "")
        began_s = time.monotonic()
        self._process = rig.Pinned(name, gateway.argv(directory, self.port, upstream), gateway.core, directory)
        try:
            self._process.wait_port(self.port)
        except BaseException:
            self._process.stop()
            raise
        self.start_s = time.monotonic() - began_s

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU time of the whole tree so far."""
        return rig.cpu_s(rig.tree(self.pid))

    def workers(self) -> set[int]:
        """Return the processes that serve."""
        pids = rig.tree(self.pid)
        return pids - {self.pid} if self.gateway.workers_are_children else pids

    def worker_mb(self) -> float:
        """Return the resident memory of the largest serving process."""
        return max(rig.rss_mb(self.workers()), default=0.0)

    def tree_mb(self) -> float:
        """Return the resident memory of all processes."""
        return sum(rig.rss_mb(rig.tree(self.pid)))

    def stop(self) -> None:
        """End it."""
        self._process.stop()


def nginx() -> Gateway:
    """Return a pure proxy: the floor."""

    def argv(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
        conf = directory / f"nginx-{port}.conf"
        text = (rig.HERE / "nginx.conf").read_text()
        conf.write_text(text.replace("@DIR@", str(directory)).replace("@PORT@", str(port)).replace("@UPSTREAM@", str(upstream)))
        return [rig.tool("nginx", "nginx-light"), "-p", str(directory), "-c", str(conf)]

    return Gateway(name="nginx", argv=argv)


def routerd(
    name: str = "routerd",
    *,
    args: Sequence[str] = (),
    workers: int = 1,
    core: int | str = rig.GATEWAY_CORE,
    text: str = "",
    ledger: bool = False,
) -> Gateway:
    """Return routerd over `text`, or over routes.yaml beside this file. Its access log goes to a file."""

    def argv(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
        config = directory / f"routes-{port}" / "routes.yaml"
        config.parent.mkdir()
        config.write_text((text or (rig.HERE / "routes.yaml").read_text()).replace("@UPSTREAM@", str(upstream)))
        addresses = ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"]
        state = ["--state-dir", str(directory / f"state-{port}")]
        kept = [] if ledger else ["--ledger", "off"]
        return [*rig.ROUTERD, "serve", "--config", str(config), "--workers", str(workers), *state, *kept, *addresses, *args]

    return Gateway(name=name, argv=argv, core=core, workers_are_children=True)


def peer(name: str, told: Mapping[str, str]) -> Gateway | None:
    """Return a peer with its shipped defaults, or None when it is not installed."""
    path = told.get(name) or shutil.which(PEERS[name])
    if path is None:
        return None
    if name == "litellm":
        return Gateway(
            name=name, argv=lambda directory, port, upstream: _litellm(path, directory, port, upstream), warm_s=WARM_SLOW_S
        )
    if name == "portkey":

        def headers(upstream: int) -> Mapping[str, str]:
            return {**KEY, "x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}

        return Gateway(
            name=name,
            argv=lambda _directory, port, _upstream: [path, f"--port={port}", "--headless"],
            headers=headers,
            warm_s=WARM_SLOW_S,
        )
    first = ["launch"] if name == "sglang-router" else []
    return Gateway(name=name, argv=lambda _directory, port, upstream: [path, *first, *_rust(port, upstream)])


def _rust(port: int, upstream: int) -> list[str]:
    worker = f"http://127.0.0.1:{upstream}"
    return ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", worker, "--prometheus-port", str(free_port())]


def _litellm(path: str, directory: pathlib.Path, port: int, upstream: int) -> list[str]:
    config = directory / "litellm.yaml"
    config.write_text(LITELLM.replace("@UPSTREAM@", str(upstream)))
    return [path, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
