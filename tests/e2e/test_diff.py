"""`routerd diff` against a running daemon: what its files would change, told by the daemon itself, without a secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import ROUTERD, Daemon
from tests.support.process import clean_environ

ROUTES = """
version: 1
providers:
  demo: {dialect: simulator}
  cloud: {base_url: "https://cloud.example/v1", api_key: %s}
models: {m: {aliases: [%s], chain: [demo/x, cloud/y]}}
"""


def routerd(running: Daemon, *argv: str) -> tuple[int, str]:
    command = [*ROUTERD, *argv, "--admin", running.admin.removeprefix("http://")]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_the_daemon_tells_what_its_files_would_change(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    running = daemon(ROUTES % ("sk-old-secret", "fast"))
    assert routerd(running, "diff") == (0, f"{running.config} changes nothing against generation 1\n")
    running.write(ROUTES % ("sk-new-secret", "quick"))
    await running.generation(2)
    assert routerd(running, "rollback", "1")[0] == 0

    status, said = routerd(running, "diff", "--against", "running", "--config", str(running.config))
    assert status == 1, said
    assert said.splitlines() == [
        "- drops alias fast",
        "+ offers alias quick of m",
        "~ credential of provider cloud changed  (endpoints: cooldown and load start anew; connections are kept)",
    ]
    status, said = routerd(running, "diff", "--format", "json")
    told = json.loads(said)
    assert (status, told["to"], len(told["changes"])) == (1, str(running.config), 3)
    assert "secret" not in said

    more = "".join(f"  m{i}: {{chain: [demo/x]}}\n" for i in range(8))
    wide, narrow = (f"version: 1\nproviders: {{demo: {{dialect: simulator}}}}\nmodels:\n{text}" for text in (more, more[:48]))
    running.write(wide)
    await running.generation(4)
    running.write(narrow)
    old = tmp_path / "old.yaml"
    old.write_text(wide)
    for against in ("running", str(old)):
        status, said = routerd(running, "diff", "--against", against, "--config", str(running.config))
        assert status == 1
        assert "error[shrink-guard] models: 6 of 8 models would go" in said
        assert "routerd: a reload refuses this as it stands" in said
        assert "- drops m7" in said

    other = tmp_path / "other.yaml"
    other.write_text(ROUTES % ("x", "y"))
    status, said = routerd(running, "diff", "--config", str(other))
    assert status == 2
    assert f"reads {running.config}, not {other}; name one with --against" in said

    running.write("version: 2\n")
    status, said = routerd(running, "diff")
    assert status == 2
    assert "error[" in said
