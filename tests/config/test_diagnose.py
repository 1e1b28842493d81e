"""The printed report: a caret under the place, on every terminal, and nothing that could change one."""

from __future__ import annotations

from routerd.config import render
from routerd.errors import Problem


def problem(source: str, column: int, **changes: str) -> Problem:
    fields = {
        "code": "unknown-key",
        "path": "models.m.params",
        "message": "unknown key 'temprature'",
        "hint": "did you mean 'temperature'?",
    }
    return Problem(stage="schema", file="routes.yaml", line=9, column=column, source=source, **{**fields, **changes})


def test_a_problem_is_printed_with_place_line_caret_and_hint() -> None:
    assert render([problem("      temprature: 1", 7)]) == (
        "routes.yaml:9:7: error[unknown-key] models.m.params: unknown key 'temprature'\n"
        "    9 |       temprature: 1\n"
        "      |       ^\n"
        "      = did you mean 'temperature'?\n"
    )


def test_the_caret_stands_under_the_place_after_tabs_and_wide_characters() -> None:
    lines = render([problem("\tab: x", 2)]).splitlines()
    assert lines[2].index("^") == lines[1].index("ab")
    lines = render([problem("日本: x", 5)]).splitlines()
    assert lines[2].index("^") == lines[1].index("x") + 2  # two characters that are two columns wide


def test_a_long_line_is_cut_around_the_place() -> None:
    source = "a" * 500 + "HERE" + "b" * 500
    lines = render([problem(source, 501)]).splitlines()
    assert len(lines[1]) < 160
    assert lines[1][lines[2].index("^") :].startswith("HERE")


def test_a_place_behind_the_end_of_the_line_is_fine() -> None:
    assert "^" in render([problem("ab", 3)])


def test_escape_sequences_of_a_file_do_not_reach_the_terminal() -> None:
    text = render([problem("a: \x1b[2Jb\u202e", 4, message="bad \x1b]0;x\x07", path="a\x1b", hint="\r\x1b")])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\r" not in text


def test_paint_is_asked_for_roles_and_adds_nothing_else() -> None:
    problems = [problem("  a: 1", 3), problem("  b: 1", 3, severity="warning")]
    roles: set[str] = set()

    def paint(role: str, text: str) -> str:
        roles.add(role)
        return text

    assert render(problems, paint=paint) == render(problems)
    assert roles == {"error", "warning", "frame", "strong"}


def test_a_problem_of_the_whole_file_has_no_line() -> None:
    text = render([Problem(stage="read", code="missing-file", path="", message="the file does not exist", file="routes.yaml")])
    assert text == "routes.yaml: error[missing-file] the file does not exist\n"
