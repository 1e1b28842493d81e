"""Problems leave the daemon without the credentials of their source lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routerd.daemon.output.report import is_unreadable, problem_as_json, without_secrets
from routerd.errors import Problem
from tests.daemon.fakes import problem


@pytest.mark.parametrize(
    "line",
    [
        "  p: {api_key: S3CRET, wieght: 3}",
        '  p: {api_key: "S3CRET, and more", wieght: 3}',
        "    key: 'S3CRET'",
        '    "key": S3CRET # a comment',
        '  d: {key: ["S3CRET"]}',
        "    key: ['S3CRET', x]",
        "    authorization: Bearer S3CRET",
        "  headers: {x-api-key: S3CRET, b: c}",
        "    client_secret: S3CRET",
        "    TOKEN: S3CRET",
        '    key: "S3CRET',
        "    base_url: https://user:S3CRET@host/v1",
    ],
)
def test_a_credential_in_the_line_is_covered_and_the_columns_stay(line: str) -> None:
    covered = without_secrets(replace(problem(), source=line)).source
    assert "S3CRET" not in covered
    assert len(covered) == len(line)
    assert covered[: line.index(":") + 1] == line[: line.index(":") + 1]


@pytest.mark.parametrize(
    "line",
    [
        "    api_key: ${OPENAI_API_KEY}",
        '    api_key: "${OPENAI_API_KEY:-}"',
        "    api_key: {env: OPENAI_API_KEY}",
        "    simulator: {first_token: 150ms, tokens_per_s: 40}",
        "    clamp: {max_tokens: {max: 5}}",
        "  monkey: {chain: [demo/echo]}",
        "",
    ],
)
def test_what_is_no_secret_is_shown(line: str) -> None:
    assert without_secrets(replace(problem(), source=line)).source == line


def test_a_problem_as_json_has_every_field_and_no_secret() -> None:
    told = problem_as_json(replace(problem(), source="key: S3CRET"))
    assert Problem(**told) == replace(problem(), source="key: ******")


def test_only_files_that_cannot_be_read_are_told_apart() -> None:
    gone = problem("unreadable-file", "read")
    assert is_unreadable([gone])
    assert is_unreadable([problem("missing-file", "read")])
    assert not is_unreadable([problem("missing-file", "semantic")])
    assert is_unreadable([gone, replace(problem("unused"), severity="warning")])
    assert not is_unreadable([gone, problem()])
    assert not is_unreadable([])
