"""Colours: on a terminal only, and never against the operator's word."""

from __future__ import annotations

import io

import pytest

from routerd.daemon.output.terminal import _ROLES, paint_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_that_end() -> None:
    paint = paint_for(Terminal(), {"TERM": "xterm"})
    assert paint("error", "bad") == "\x1b[31mbad\x1b[0m"
    assert paint("error", "") == ""
    assert all(code.startswith("\x1b[") for code in _ROLES.values())


@pytest.mark.parametrize(
    ("stream", "environ"),
    [(io.StringIO(), {}), (Terminal(), {"NO_COLOR": "1"}), (Terminal(), {"TERM": "dumb"})],
    ids=["pipe", "NO_COLOR", "dumb"],
)
def test_a_pipe_or_a_no_gets_plain_text(stream: io.StringIO, environ: dict[str, str]) -> None:
    assert paint_for(stream, environ)("error", "bad") == "bad"


def test_an_empty_no_color_is_no_wish() -> None:
    assert paint_for(Terminal(), {"NO_COLOR": ""})("good", "fine") != "fine"
