"""The real Prometheus and its promtool (Debian: prometheus): what it takes in, and what it answers to a query."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.support.ports import free_port
from tests.support.process import Process

__all__ = ["Prometheus", "promtool"]


def promtool(*argv: str, text: str = "") -> str:
    """Run promtool; return what it says. AssertionError with its findings when it is not content."""
    done = subprocess.run([_found("promtool"), *argv], input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"promtool {' '.join(argv)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


class Prometheus:
    """A server that scrapes one target each half second. `url` is its address."""

    def __init__(self, directory: pathlib.Path, target: str, rules: tuple[pathlib.Path, ...] = ()) -> None:
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "routerd", "static_configs": [{"targets": [target.removeprefix("http://")]}]}],
        }
        path = directory / "prometheus.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        flags = [f"--config.file={path}", f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address={address}"]
        self._process = Process([_found("prometheus"), *flags])
        self._process.wait_line("Server is ready to receive web requests", timeout_s=60)

    def get(self, path: str, **query: Any) -> Any:
        """Return the data of one API answer; AssertionError with its words when it is an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{path} {query}: {refused.read().decode()}") from None

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Evaluate `expr` now; return its series."""
        found: list[dict[str, Any]] = self.get("query", query=expr, time=f"{time.time():.3f}")["result"]
        return found

    def wait(self, expr: str, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Return the series of `expr` once there is one."""
        ends_at_s = time.monotonic() + timeout_s
        while True:
            found = self.query(expr)
            if found or time.monotonic() > ends_at_s:
                assert found, f"{expr} has no series after {timeout_s:g} s"
                return found
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._process.stop()


def _found(tool: str) -> str:
    path = shutil.which(tool)
    assert path is not None, f"{tool} is not installed: apt-get install prometheus"
    return path
