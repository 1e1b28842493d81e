"""Includes: sorted, one level, every name in one file; the directories are inputs."""

from __future__ import annotations

import pathlib

import pytest

from routerd.config import load
from routerd.errors import ConfigError

MAIN = "version: 1\ninclude: [conf.d/*.yaml]\nproviders: {demo: {dialect: simulator}}\nmodels: {a: {chain: [demo/a]}}\n"


def write(root: pathlib.Path, **files: str) -> pathlib.Path:
    (root / "conf.d").mkdir(exist_ok=True)
    (root / "routes.yaml").write_text(files.pop("main", MAIN))
    for name, text in files.items():
        (root / "conf.d" / f"{name}.yaml").write_text(text)
    return root / "routes.yaml"


def test_files_are_joined_in_the_order_of_their_names(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, z="models: {z: {chain: [demo/z]}}", b="models: {b: {chain: [demo/b]}}\naliases: {fast: z}")
    loaded = load(path, {})
    assert list(loaded.graph.routes) == ["a", "b", "z"]
    assert loaded.graph.aliases == {"fast": "z"}
    assert [one.path.name for one in loaded.inputs] == ["routes.yaml", "conf.d", "b.yaml", "z.yaml"]


def test_a_pattern_that_matches_nothing_is_told_and_a_file_that_comes_is_not(tmp_path: pathlib.Path) -> None:
    (warning,) = load(write(tmp_path), {}).warnings
    assert (warning.code, warning.line, warning.column, warning.severity) == ("no-match", 2, 11, "warning")
    assert warning.message == "no file matches 'conf.d/*.yaml'"
    assert str(tmp_path) in warning.hint
    assert load(write(tmp_path, a="models: {b: {chain: [demo/b]}}"), {}).warnings == ()


def test_a_section_may_be_in_the_included_files_only(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path, a="budgets: {x: {concurrency: 1}}", b="budgets: {y: {concurrency: 1}}\ndefaults: {retry: {attempts: 2}}"
    )
    graph = load(path, {}).graph
    assert list(graph.budgets) == ["x", "y"]
    assert graph.routes["a"].retry.attempts == 2


def test_one_model_in_two_included_files_names_both_places(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, b="models:\n  b: {chain: [demo/b]}\n", c="version: 1\nmodels:\n  b: {chain: [demo/c]}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert (pathlib.Path(problem.file).name, problem.line, problem.column) == ("c.yaml", 3, 3)
    assert f"{tmp_path}/conf.d/b.yaml:2:3" in problem.message


def test_prompts_are_relative_to_the_file_that_names_them(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, b="models: {b: {chain: [demo/b], system_prompt: {file: p.md}}}")
    (tmp_path / "p.md").write_text("of the main file")
    (tmp_path / "conf.d" / "p.md").write_text("of the included file")
    prompt = load(path, {}).graph.routes["b"].system_prompt
    assert prompt is not None
    assert prompt.text == "of the included file"


def test_a_new_file_changes_the_hash_of_its_directory(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, b="")
    before = {one.path: one.sha256 for one in load(path, {}).inputs}
    after = {one.path: one.sha256 for one in load(write(tmp_path, c=""), {}).inputs}
    assert before[tmp_path / "conf.d"] != after[tmp_path / "conf.d"]


def test_a_failed_load_names_all_inputs(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, b="models: {b: {chain: [nobody/b], system_prompt: {file: none.md}}}")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert {one.name for one in caught.value.inputs} == {"routes.yaml", "conf.d", "b.yaml", "none.md"}


def test_a_missing_main_file_is_an_input(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", {})
    assert caught.value.inputs == (tmp_path / "none.yaml",)
    assert caught.value.stage == "read"


def test_a_glob_that_matches_the_main_file_leaves_it_out(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, main=MAIN.replace("conf.d/*.yaml", "'*.yaml'"))
    assert list(load(path, {}).graph.routes) == ["a"]


def test_a_star_in_a_directory_watches_every_match(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, main=MAIN.replace("conf.d/*", "conf.*/*"), b="models: {b: {chain: [demo/b]}}")
    names = [one.path for one in load(path, {}).inputs]
    assert tmp_path in names
    assert tmp_path / "conf.d" in names


def test_the_size_limit_is_for_all_files_together(tmp_path: pathlib.Path) -> None:
    big = "# " + "x" * 3_000_000
    path = write(tmp_path, a=big, b=big, c=big)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [p.code for p in caught.value.problems] == ["file-too-large"]


@pytest.mark.parametrize(
    "text", ["- a", "text", "models: [a]", "models: {b: {chain: [demo/b]}", "include: [x.yaml]", "nonsense: 1", "version: 2"]
)
def test_what_is_wrong_in_an_included_file_is_told_there(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, b=text), {})
    assert {pathlib.Path(p.file).name for p in caught.value.problems} == {"b.yaml"}


def test_tests_of_several_files_are_one_list(tmp_path: pathlib.Path) -> None:
    one = "tests: [{name: %s, given: {model: a}, expect: {status: 200}}]"
    path = write(tmp_path, main=MAIN + one % "main", b=one % "b", c=one % "c")
    loaded = load(path, {})
    assert [test.name for test in loaded.tests] == ["main", "b", "c"]
    assert loaded.origins["tests[2].expect.status"].file.endswith("c.yaml")
    assert loaded.problem("tests", "test-failed", ("tests", 1, "expect"), "no").file.endswith("b.yaml")
