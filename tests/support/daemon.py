"""A real `routerd serve` in a process of its own, on ports that the kernel chose."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.support.process import Process

ROUTERD = (sys.executable, "-c", "import sys; from routerd.daemon.entry import main; sys.exit(main())")
READY = re.compile(r"ready listen=(http://\S+) admin=(http://\S+) generation=(\d+)")


class Daemon:
    """The daemon over one routes.yaml in `directory`. `url` is its data address, `admin` its admin address."""

    def __init__(
        self,
        directory: pathlib.Path,
        text: str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.config = directory / "routes.yaml"
        self.config.write_text(text)
        argv = [*ROUTERD, "serve", "--config", str(self.config), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.process = Process([*argv, "--state-dir", str(directory / "state"), *args], env=env, cwd=directory)
        try:
            found = READY.search(self.process.wait_line(lambda line: READY.search(line) is not None))
        except BaseException:
            self.process.stop()
            raise
        assert found is not None
        self.url, self.admin = found[1], found[2]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the data address, for raw sockets."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def write(self, text: str) -> None:
        """Replace the file as editors do: a new one, renamed over the old one."""
        fresh = self.config.with_name(".routes.new")
        fresh.write_text(text)
        os.replace(fresh, self.config)

    def get_admin(self, path: str) -> tuple[int, str]:
        """GET a path of the admin listener: status and text. Blocks; call through `asyncio.to_thread` in a running loop."""
        try:
            with urllib.request.urlopen(self.admin + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def post_admin(self, path: str) -> tuple[int, str]:
        """POST to a path of the admin listener, like `get_admin`."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.admin + path, method="POST"), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    async def status(self) -> dict[str, Any]:
        """Return /-/status, decoded."""
        code, text = await asyncio.to_thread(self.get_admin, "/-/status")
        assert code == 200, text
        decoded: dict[str, Any] = json.loads(text)
        return decoded

    async def metrics(self) -> dict[str, float]:
        """Return every sample of a scrape: `name{labels}` -> value, labels sorted by name."""
        code, text = await asyncio.to_thread(self.get_admin, "/metrics")
        assert code == 200, text
        return parse_metrics(text)

    async def generation(self, number: int, timeout_s: float = 5.0) -> None:
        """Wait until generation `number` serves."""

        async def serves() -> bool:
            return bool((await self.status())["generation"] >= number)

        await until(serves, timeout_s)

    def stop(self) -> None:
        """End it and all its children."""
        self.process.stop()


def parse_metrics(text: str) -> dict[str, float]:
    """Decode the text exposition into `name{a="x",b="y"}` -> value."""
    out: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            name, brace, labels = key.partition("{")
            pairs = sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
            out[name + (brace and "{" + ",".join(f'{k}="{v}"' for k, v in pairs) + "}")] = float(value)
    return out


async def until(holds: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait until `holds()` (plain or a coroutine function) is true: for what another process does in its own time."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)
