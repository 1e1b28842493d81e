"""`--workers auto` makes no more workers than the machine and the control groups give CPUs."""

from __future__ import annotations

import os
import pathlib

import pytest

from routerd.daemon.cpus import usable_cpus


@pytest.fixture(autouse=True)
def on_64_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


def told(directory: pathlib.Path, membership: str, files: dict[str, str]) -> int:
    (directory / "membership").write_text(membership)
    for name, text in files.items():
        path = directory / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cpus(directory / "membership", directory / "cgroup")


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "nonsense\n"}, 64),
    ],
)
def test_a_container_has_the_cpus_of_its_quota(tmp_path: pathlib.Path, files: dict[str, str], cpus: int) -> None:
    assert told(tmp_path, "0::/\n", files) == cpus


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: pathlib.Path) -> None:
    files = {"a.slice/cpu.max": "300000 100000", "a.slice/b.service/cpu.max": "max 100000", "cpu.max": "800000 100000"}
    assert told(tmp_path, "0::/a.slice/b.service\n", files) == 3


def test_a_group_outside_of_the_namespace_leaves_the_root(tmp_path: pathlib.Path) -> None:
    assert told(tmp_path, "0::/../../other\n", {"cpu.max": "400000 100000"}) == 4


def test_the_older_control_groups_have_a_quota_and_a_period(tmp_path: pathlib.Path) -> None:
    membership = "12:cpu,cpuacct:/pod\n3:memory:/pod\n"
    files = {"cpu,cpuacct/pod/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "50000\n"}
    assert told(tmp_path, membership, files) == 3
    assert told(tmp_path, membership, {"cpu,cpuacct/pod/cpu.cfs_quota_us": "-1\n"}) == 64


def test_without_control_groups_the_machine_counts(tmp_path: pathlib.Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "none") == 64
