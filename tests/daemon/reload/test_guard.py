"""Half a file is no edit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from routerd.config import load
from routerd.daemon.reload.guard import emptied, shrunk
from routerd.errors import ConfigError, Problem
from routerd.graph import Reload
from tests.daemon.fakes import graph

MAIN = Path("routes.yaml")


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [(20, 10, False), (20, 9, True), (19, 0, True), (4, 1, False), (4, 0, True), (3, 0, False), (20, 30, False), (20, 20, False)],
)
def test_the_loss_of_more_than_half_and_at_least_four_is_refused(before: int, after: int, refused: bool) -> None:
    old, new = graph("a", routes=before), graph("b", routes=after)
    bare = {"patterns": ()}
    old = replace(old, routes={k: v for k, v in old.routes.items() if k != "x-*"}, **bare)  # type: ignore[arg-type]
    new = replace(new, routes={k: v for k, v in new.routes.items() if k != "x-*"}, **bare)  # type: ignore[arg-type]
    assert bool(shrunk(old, new, MAIN)) is refused


def test_providers_count_too_and_both_are_told() -> None:
    old, new = graph("a", routes=20), graph("b", routes=1)
    old = replace(old, providers={f"p{i}": old.providers["p"] for i in range(6)})
    assert [problem.path for problem in shrunk(old, new, MAIN)] == ["models", "providers"]
    assert all((problem.stage, problem.file) == ("shrink_guard", "routes.yaml") for problem in shrunk(old, new, MAIN))
    assert "and 14 more" in shrunk(old, new, MAIN)[0].message


@pytest.mark.parametrize(("limit", "refused"), [(0.0, True), (0.3, True), (0.7, False), (1.0, False)])
def test_the_limit_is_that_of_what_serves(limit: float, refused: bool) -> None:
    old = replace(graph("a", routes=20), reload=Reload(max_removal_ratio=limit))
    new = replace(graph("b", routes=9), reload=Reload(max_removal_ratio=1.0 - limit))
    assert bool(shrunk(old, new, MAIN)) is refused


def test_models_that_are_replaced_are_lost_ones() -> None:
    old, new = graph("a", routes=20), graph("b", routes=20)
    renamed = {f"new-{name}": route for name, route in new.routes.items()}
    assert shrunk(old, replace(new, routes=renamed), MAIN)


def test_only_the_main_file_is_the_document() -> None:
    empty = Problem(stage="yaml", code="empty-file", path="", message="", file="conf.d/a.yaml")
    assert emptied([empty], Path("routes.yaml")) == ()
    assert len(emptied([replace(empty, file=os.path.abspath("routes.yaml"))], Path("routes.yaml"))) == 1


def test_no_prefix_of_a_file_drops_more_than_half(tmp_path: Path) -> None:
    """Every line of a file is a place where a writer may pause: what loads there either is refused or keeps half."""
    models = "".join(f"  model-{i}:\n    aliases: [a{i}]\n    chain: [demo/echo]\n" for i in range(12))
    whole = f"version: 1\nproviders:\n  demo: {{dialect: simulator}}\nmodels:\n{models}"
    path = tmp_path / "routes.yaml"
    path.write_text(whole)
    old = load(path, {}).graph
    outcomes = set()
    for end in range(len(whole)):
        path.write_text(whole[:end])
        try:
            new = load(path, {}).graph
        except ConfigError:
            outcomes.add("invalid")
            continue
        guarded = bool(shrunk(old, new, MAIN))
        outcomes.add("refused" if guarded else "taken")
        assert guarded or len(new.routes) >= len(old.routes) / 2, whole[:end]
    assert outcomes == {"invalid", "refused", "taken"}
