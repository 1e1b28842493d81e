"""Seven formats of reset times, and the order of the sources."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.wire.faults.ratelimit import reset_seconds, retry_after_s, used_up_s
from tests.wire.transcripts import load

NOW = 1_763_168_000.0  # 2025-11-15T00:53:20Z


def after(body: Any = None, **headers: str) -> float | None:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return retry_after_s(429, fields, b"" if body is None else json.dumps(body).encode(), NOW)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2ms", 0.002),
        ("0s", 0.0),
        ("120ms", 0.12),
        ("8.64s", 8.64),
        ("1m19.156s", 79.156),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("17.399999999s", 17.399999999),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        ("15µs", 15e-6),
        ("33011.382867097855", 33011.382867097855),
        ("2", 2.0),
        (" 5 ", 5.0),
        ("1763168060", 60.0),
        ("1763168060000", 60.0),
        ("2025-11-15T00:56:36Z", 196.0),
        ("2025-11-15T00:56:36", 196.0),
        ("2025-11-15T01:56:36+01:00", 196.0),
        ("Sat, 15 Nov 2025 00:56:36 GMT", 196.0),
    ],
)
def test_every_format_of_a_reset_is_read(value: str, seconds: float) -> None:
    assert reset_seconds(value, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "x", "REDACTED", "nan", "inf", "1e999", "6m0", "1.2.3s", "....s", "2025-99-99", "10 s x", "9" * 5000, "0x10", "१s"],
)
def test_what_is_no_reset_is_none(value: str) -> None:
    assert reset_seconds(value, NOW) is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40) | st.text("0123456789.msdhµun:TZ+-, GMTSatNov", max_size=40))
def test_no_text_makes_the_reset_parser_fail(value: str) -> None:
    found = reset_seconds(value, NOW)
    assert found is None or isinstance(found, float)


def test_milliseconds_come_before_seconds() -> None:
    assert after(retry_after_ms="3890", retry_after="4") == pytest.approx(3.89)


def test_the_first_value_above_zero_wins() -> None:
    assert after(retry_after_ms="0", retry_after="1") == 1.0
    assert after(retry_after="-5", x_ratelimit_remaining="0", x_ratelimit_reset="2") == 2.0


def test_a_date_in_retry_after_is_a_moment() -> None:
    assert after(retry_after="Sat, 15 Nov 2025 00:53:50 GMT") == pytest.approx(30.0)
    assert after(retry_after="Sat, 15 Nov 2025 00:53:10 GMT") is None


def test_google_says_it_in_the_body() -> None:
    details = [{"@type": "x/Help"}, {"@type": "x/google.rpc.RetryInfo", "retryDelay": "48s"}]
    assert after({"error": {"message": "m", "details": details}}) == 48.0
    assert after([{"error": {"message": "m", "details": details}}]) == 48.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 6.780999999s. Visit", 6.780999999),
        ("try again in 1m2.5s", 62.5),
        ("Please try again in 120ms.", 0.12),
        ("Please retry in 48.939935699s.", 48.939935699),
        ("Please retry after 26 seconds.", 26.0),
        ("Too many failed attempts, wait 30s", 30.0),
        ("Try again in 2 minutes", 120.0),
        ("Model busy, retry later", None),
        ("try again in 5 sheep", None),
    ],
)
def test_a_spoken_wait_is_understood(text: str, seconds: float | None) -> None:
    assert after({"error": {"message": text}}) == (None if seconds is None else pytest.approx(seconds))


def test_the_reset_of_the_exhausted_dimension_counts_and_the_longest_of_them() -> None:
    one = {"x_ratelimit_remaining_requests": "10", "x_ratelimit_reset_requests": "6m0s"}
    two = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "7.66s"}
    assert after(**one, **two) == pytest.approx(7.66)
    assert after(**{**one, "x_ratelimit_remaining_requests": "0"}, **two) == 360.0
    assert after(**one) is None


def test_anthropic_names_the_dimension_first() -> None:
    left = {"anthropic_ratelimit_tokens_remaining": "0", "anthropic_ratelimit_tokens_reset": "2025-11-15T00:53:30Z"}
    assert after(**left) == pytest.approx(10.0)


def test_venice_mixes_absolute_and_relative() -> None:
    left = {
        "x_ratelimit_remaining_requests": "0",
        "x_ratelimit_reset_requests": "1763168005",
        "x_ratelimit_remaining_tokens": "0",
        "x_ratelimit_reset_tokens": "9",
    }
    assert after(**left) == 9.0


def test_the_ietf_field_counts_when_nothing_remains() -> None:
    assert after(ratelimit='"api";r=0;t=295') == 295.0
    assert after(ratelimit='"api";r=999;t=295') is None


def test_openrouter_repeats_headers_in_the_body() -> None:
    body = {"error": {"message": "m", "metadata": {"headers": {"X-RateLimit-Reset": "1763168060000"}}}}
    assert after(body) == pytest.approx(60.0)
    assert after({"error": {"message": "m", "availability": {"retry_after": 12}}}) == 12.0


def test_huggingface_estimates_the_time_to_load() -> None:
    assert after({"error": "Model x is currently loading", "estimated_time": 20.0}) == 20.0


def test_a_successful_answer_asks_for_nothing() -> None:
    assert retry_after_s(200, [(b"retry-after", b"5")], b"", NOW) is None


def test_every_recorded_reset_header_parses() -> None:
    seen = 0
    for recorded in load("*/*.json"):
        for name, value in recorded.headers:
            if b"ratelimit" in name.lower() and b"reset" in name.lower():
                seen += 1
                assert reset_seconds(value.decode(), NOW) is not None, (recorded.name, name, value)
    assert seen > 10


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "17.5s", "x-ratelimit-remaining-requests": "9"}, 17.5),
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2025-11-15T00:54:20Z"}, 60.0),
        ({"x-ratelimit-remaining-tokens-minute": "0", "x-ratelimit-reset-tokens-minute": "33.25"}, 33.25),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2"}, 2.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "6m0s"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, 0.0),
        ({"x-ratelimit-remaining-input-images": "0", "x-ratelimit-reset-input-images": "60s"}, 0.0),
        ({"retry-after": "30", "age": "0"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_good_answer_says_when_requests_or_tokens_are_used_up(fields: dict[str, str], wait_s: float) -> None:
    assert used_up_s([(n.encode(), v.encode()) for n, v in fields.items()], NOW) == pytest.approx(wait_s)


@given(st.lists(st.tuples(st.binary(max_size=40), st.one_of(st.just(b"0"), st.binary(max_size=20))), max_size=6))
def test_no_header_of_a_good_answer_breaks_it(fields: list[tuple[bytes, bytes]]) -> None:
    assert used_up_s([(b"x-ratelimit-remaining", b"0"), *fields], NOW) >= 0.0


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"RateLimit": '"api";r=0;t=295', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'}, 295.0),  # HuggingFace
        ({"ratelimit": '"api";r=999;t=295'}, 0.0),
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=10;t=4000'}, 5.0),  # only what is used up counts
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=0;t=4000'}, 4000.0),
        ({"ratelimit": '"daily";t=30;r=0;pk=:cHJvZA==:'}, 30.0),  # in any order, with a partition key
        ({"ratelimit": '"daily";r=0', "ratelimit-policy": '"burst";q=10;w=1, "daily";q=100;w=86400'}, 86400.0),
        ({"ratelimit": "default;r=0", "ratelimit-policy": "default;q=100;w=60"}, 60.0),  # version 8: tokens as names
        ({"ratelimit": '"daily";r=0'}, 0.0),  # nobody says until when
        ({"ratelimit": '"a, b; r=0";r=5;t=9'}, 0.0),  # a name is not parameters
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, 50.0),  # version 7
        ({"ratelimit": "limit=100, remaining=1, reset=50"}, 0.0),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50.0),  # up to version 6
        ({"x-tokenlimit-remaining": "0", "x-tokenlimit-reset": "3"}, 3.0),  # Together
        ({"ratelimit": '";;,,=r=0'}, 0.0),
        ({"ratelimit": ""}, 0.0),
    ],
)
def test_fields_of_the_ietf_draft_are_read_on_good_answers_and_on_errors(fields: dict[str, str], wait_s: float) -> None:
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    assert used_up_s(headers, 1e9) == wait_s
    assert (retry_after_s(429, headers, b"", 1e9) or 0.0) == wait_s


@given(st.text(alphabet='"\\;,=rtqw0123 abc', max_size=80), st.text(alphabet='";,=rtqw0123 abc', max_size=80))
def test_no_such_field_raises(limits: str, policies: str) -> None:
    headers = [(b"ratelimit", limits.encode()), (b"ratelimit-policy", policies.encode())]
    assert used_up_s(headers, 1e9) >= 0.0
