"""Every recorded error gets its kind, the documented texts too, and no bytes make the classifier fail."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.errors import Delivery, ErrorKind
from routerd.wire.faults.classify import Classified, classify, classify_value, fault_error, is_context_length
from routerd.wire.faults.errorbody import read_error, safe_message
from tests.wire.transcripts import Recorded, load

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW_UNIX_S = 1_754_667_600.0  # one minute before the reset that OpenRouter was recorded with

K = ErrorKind
EXPECTED = {
    "anthropic/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "anthropic/err_401": (K.AUTH, None),
    "anthropic/err_404_model": (K.MODEL_MISSING, None),
    "anthropic/err_529_overloaded": (K.SERVER_ERROR, None),
    "azure/err_429_retry_after_ms": (K.RATE_LIMITED, 1.0),
    "cerebras/err_429_flat": (K.RATE_LIMITED, None),
    "cohere/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "cohere/err_401": (K.AUTH, None),
    "deepinfra/err_429_busy": (K.RATE_LIMITED, None),
    "deepseek/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "deepseek/err_401": (K.AUTH, None),
    "deepseek/err_402_balance": (K.CREDITS, None),
    "gemini/err_400_api_key": (K.AUTH, None),
    "gemini/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "gemini/err_429_retryinfo": (K.RATE_LIMITED, 48.0),
    "gemini/err_503_overloaded": (K.SERVER_ERROR, None),
    "groq/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "groq/err_400_tool_use_failed": (K.SERVER_ERROR, None),
    "groq/err_429_tpm": (K.RATE_LIMITED, 2.0),
    "huggingface/err_503_loading": (K.COLD, 20.0),
    "llamacpp/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "llamacpp/err_500_tools": (K.SERVER_ERROR, None),
    "mistral/err_401_detail": (K.AUTH, None),
    "mistral/err_429": (K.RATE_LIMITED, None),
    "ollama/err_404_model": (K.MODEL_MISSING, None),
    "openai/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "openai/err_400_ctx_responses": (K.CONTEXT_LENGTH, None),
    "openai/err_400_max_tokens_unsupported": (K.BAD_REQUEST, None),
    "openai/err_401_key": (K.AUTH, None),
    "openai/err_404_model": (K.MODEL_MISSING, None),
    "openai/err_429_insufficient_quota": (K.CREDITS, None),
    "openai/err_429_tpm": (K.RATE_LIMITED, 3.89),
    "openrouter/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "openrouter/err_401": (K.AUTH, None),
    "openrouter/err_429_platform": (K.RATE_LIMITED, 60.0),
    "together/err_429_credit_limit": (K.CREDITS, None),
    "venice/err_400_ctx_docs": (K.CONTEXT_LENGTH, None),
    "venice/err_404_string_error": (K.MODEL_MISSING, None),
    "vllm/err_400_ctx": (K.CONTEXT_LENGTH, None),
    "xai/err_400_auth": (K.AUTH, None),
}
ERRORS = load("*/err_*.json")


def of(status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> Classified:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, headers or [], raw, NOW_UNIX_S)


def test_every_recorded_error_is_in_the_table() -> None:
    assert {recorded.name for recorded in ERRORS} == set(EXPECTED)


@pytest.mark.parametrize("recorded", ERRORS, ids=lambda r: r.name)
def test_a_recorded_error_classifies_as_expected(recorded: Recorded) -> None:
    found = classify(recorded.status, recorded.headers, recorded.body, NOW_UNIX_S)
    kind, retry_after_s = EXPECTED[recorded.name]
    assert found.kind is kind
    assert found.retry_after_s == (None if retry_after_s is None else pytest.approx(retry_after_s))
    assert found.status == recorded.status
    assert found.message
    assert "://" not in found.message


@pytest.mark.parametrize("recorded", ERRORS, ids=lambda r: r.name)
def test_the_context_detector_finds_all_and_only_context_errors(recorded: Recorded) -> None:
    assert is_context_length(read_error(recorded.body)) is ("_ctx" in recorded.name)


# Texts quoted in providers' documentation and in issue threads; no recording of these is at hand.
@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum prompt length is 131072 but the request contains 136973 tokens.",  # xAI
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",  # Mistral
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",  # Together, TGI
        "Please reduce the length of the messages or completion. Current length is 42328 while limit is 40000",  # Cerebras
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",  # Anthropic
        "max_tokens must be at least 1, got -186.",  # vLLM
    ],
)
def test_documented_context_texts_are_found(text: str) -> None:
    assert of(400, {"error": {"message": text}}).kind is K.CONTEXT_LENGTH
    assert of(422, {"message": text}).kind is K.CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (
            400,
            "max_tokens is too large: 99999. This model supports at most 16384 completion tokens",
            K.BAD_REQUEST,
        ),
        (400, "max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens", K.BAD_REQUEST),
        (400, "max_tokens must be at least 1, got 0.", K.BAD_REQUEST),
        (
            429,
            "Request too large for gpt-4o on tokens per min (TPM): Limit 6000. please reduce your message size",
            K.RATE_LIMITED,
        ),
        (400, "Invalid 'messages[0].content': string too long. string_above_max_length", K.BAD_REQUEST),
    ],
)
def test_what_sounds_like_context_but_is_not(status: int, text: str, kind: ErrorKind) -> None:
    assert of(status, {"error": {"message": text}}).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # Groq: waiting never helps a request larger than the minute's tokens, another target may
        (413, {"error": {"message": "Request too large for model on TPM", "code": "rate_limit_exceeded"}}, K.RATE_LIMITED),
        (413, {"error": {"message": "too big", "type": "request_too_large"}}, K.BAD_REQUEST),
        (498, {"error": {"code": "capacity_exceeded"}}, K.SERVER_ERROR),
        (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access"}}, K.CREDITS),
        (402, b"", K.CREDITS),
        (402, {"error": "You have exceeded your monthly included credits for Inference Providers."}, K.CREDITS),
        (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"}, K.CREDITS),
        (429, {"error": "Your team has used all available credits"}, K.CREDITS),
        (403, {"error": {"status": "PERMISSION_DENIED", "message": "Method doesn't allow unregistered callers"}}, K.AUTH),
        (403, {"error": {"message": "Your input was flagged by moderation", "code": 403}}, K.BAD_REQUEST),
        (403, b"<html><body>forbidden</body></html>", K.AUTH),
        (401, b"", K.AUTH),
        (400, {"error": {"status": "FAILED_PRECONDITION", "message": "User location is not supported for the API use."}}, K.AUTH),
        (404, b"Not Found", K.MODEL_MISSING),
        (410, {"error": "The requested model is deprecated"}, K.MODEL_MISSING),
        (400, {"code": "invalid-argument", "error": "Model not found: grok-9"}, K.MODEL_MISSING),
        (400, {"error": {"message": "nope/x is not a valid model ID", "code": 400}}, K.MODEL_MISSING),
        (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, K.MODEL_MISSING),
        (400, {"error": {"message": "gone", "code": "model_decommissioned"}}, K.MODEL_MISSING),
        (404, {"error": {"message": "No models loaded. Please load a model in the developer page"}}, K.COLD),
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, K.COLD),
        (503, {"error": {"message": "No valid Executor", "code": "no_executor"}}, K.COLD),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, K.SERVER_ERROR),
        (400, {"error": {"message": "Why is it so cold in here?"}}, K.BAD_REQUEST),
        (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], K.AUTH),
        (400, {"error": ["`temperature` must be strictly positive"]}, K.BAD_REQUEST),
        (
            422,
            {"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": "context window"}]},
            K.BAD_REQUEST,
        ),
        (400, {"error": {"message": "bad tool", "failed_generation": "maximum context length"}}, K.BAD_REQUEST),
        (501, {"error": {"code": 501, "message": "not here", "type": "not_supported_error"}}, K.MODEL_MISSING),
        (502, b"<!DOCTYPE html><html><title>502 Bad gateway</title></html>", K.SERVER_ERROR),
        (524, b"error code: 524", K.SERVER_ERROR),
        (500, b"", K.SERVER_ERROR),
        (408, b"", K.SERVER_ERROR),
        (409, b"", K.SERVER_ERROR),
        (425, b"", K.SERVER_ERROR),
        (400, b"", K.BAD_REQUEST),
        (405, b"", K.PROTOCOL),
        (301, b"", K.PROTOCOL),
        (204, b"", K.SERVER_ERROR),
    ],
)
def test_documented_errors_classify_by_status_words_and_text(status: int, body: Any, kind: ErrorKind) -> None:
    assert of(status, body).kind is kind


def test_retry_after_counts_on_errors_only() -> None:
    after = [(b"Retry-After", b"7")]
    assert of(429, {}, after).retry_after_s == 7.0
    assert classify(200, after, b"{}", NOW_UNIX_S).retry_after_s is None


def test_without_a_clock_the_answers_own_date_is_used() -> None:
    headers = [(b"date", b"Fri, 08 Aug 2025 15:40:00 GMT"), (b"retry-after", b"Fri, 08 Aug 2025 15:40:30 GMT")]
    assert classify(429, headers, b"").retry_after_s == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "m"}}, "m"),
        ({"message": "m"}, "m"),
        ({"error": "m"}, "m"),
        ({"error": ["m", "n"]}, "m; n"),
        ({"detail": "m"}, "m"),
        ({"detail": {"error": "m"}}, "m"),
        ({"detail": {"error": {"message": "m"}}}, "m"),
        ({"detail": [{"msg": "m"}]}, "m"),
        ([{"error": {"message": "m"}}], "m"),
        (b"m", "m"),
        (b'\xef\xbb\xbf{"error":"m"}', "m"),
        ({"error": {}}, "the upstream answered 400"),
        (b"<html>secret</html>", "the upstream answered 400 with an HTML page"),
        ({"error": {"message": "<html><h1>x</h1>"}}, "the upstream answered 400"),
    ],
)
def test_the_message_is_found_in_every_shape(body: Any, message: str) -> None:
    assert of(400, body).message == message


def test_an_http_status_is_not_a_code_but_other_numbers_are() -> None:
    assert of(400, {"error": {"message": "m", "code": 400}}).code is None
    assert of(400, {"message": "m", "code": "1500"}).code == "1500"
    assert of(400, {"message": "m", "code": 1500}).code == "1500"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("see https://internal.example:8000/v1/x?key=1 for more", "see [link] for more"),
        ("bad key sk-proj-Abc123Def456", "bad key [redacted]"),
        ("sent Bearer abcdefgh12345678", "sent [redacted]"),
        ("a\r\nb\x00c\ud800d", "a b c d"),
        ("key-value pairs of org-wide settings", "key-value pairs of org-wide settings"),
        ("x" * 900, "x" * 497 + "..."),
    ],
)
def test_a_message_for_clients_holds_no_address_key_or_control(text: str, safe: str) -> None:
    assert safe_message(text) == safe


def test_as_error_keeps_what_the_attempt_needs() -> None:
    error = of(429, {"error": {"message": "slow down"}}, [(b"retry-after", b"3")]).as_error()
    assert (error.kind, error.status, error.retry_after_s, error.delivery) == (K.RATE_LIMITED, 429, 3.0, Delivery.ANSWERED)
    assert error.body == b'{"error": {"message": "slow down"}}'


@pytest.mark.parametrize(
    ("value", "kind", "status"),
    [
        ({"code": 429, "message": "Rate limited"}, K.RATE_LIMITED, 429),
        ({"code": "server_error", "message": "Provider disconnected unexpectedly"}, K.SERVER_ERROR, None),
        ({"type": "overloaded_error", "message": "Overloaded"}, K.SERVER_ERROR, None),
        ({"message": "x", "code": "context_length_exceeded"}, K.CONTEXT_LENGTH, None),
        ({"message": "bad", "status_code": 400}, K.BAD_REQUEST, 400),
        ({"code": 502, "message": "down"}, K.SERVER_ERROR, 502),
        ({"error": {"code": 401, "message": "no"}}, K.AUTH, 401),
        ("Insufficient balance", K.CREDITS, None),
        (None, K.SERVER_ERROR, None),
        (msgspec.Raw(b'{"code":429}'), K.RATE_LIMITED, 429),
        (msgspec.Raw(b"not json"), K.SERVER_ERROR, None),
    ],
)
def test_an_error_inside_a_200_is_classified_by_what_it_names(value: Any, kind: ErrorKind, status: int | None) -> None:
    found = classify_value(value)
    assert (found.kind, found.status) == (kind, status)
    assert found.message
    assert fault_error(found, 200, b"body").status == status
    assert fault_error(found, 200, b"body").body == b"body"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([429, "429", 1e308]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "detail", "details", "metadata", "headers", "status", "msg"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"retry-after", b"retry-after-ms", b"x-ratelimit-remaining", b"x-ratelimit-reset", b"ratelimit", b"date"]
        ),
        st.binary(max_size=20) | st.sampled_from([b"0", b"-1", b"nan", b"inf", b"1e999", b"6m0s", b"99999999999999999"]),
    ),
    max_size=4,
)


@FUZZ
@given(st.integers(100, 599), HEADERS, st.binary(max_size=100) | JSON.map(lambda v: json.dumps(v).encode()))
def test_no_answer_makes_the_classifier_fail(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    for now in (None, NOW_UNIX_S):
        found = classify(status, headers, body, now)
        assert found.kind in ErrorKind
        assert 0 < len(found.message) <= 500
        found.message.encode()
        assert found.retry_after_s is None or 0 < found.retry_after_s < float("inf")


@FUZZ
@given(JSON)
def test_no_value_makes_the_classifier_of_events_fail(value: Any) -> None:
    assert classify_value(value).kind in ErrorKind


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 3_000_000,
        b'{"error":' * 400_000,
        b'{"error":"' + b"sk-" * 300_000 + b'"}',
        b"model " * 160_000,
        json.dumps(["model max_tokens exceeded used " * 250] * 110).encode(),
    ],
)
def test_hostile_bodies_cost_little(body: bytes) -> None:
    start = time.perf_counter()
    assert of(400, body).kind is K.BAD_REQUEST
    assert time.perf_counter() - start < 0.5


def test_a_long_detail_does_not_hide_the_message() -> None:
    body = {"error": {"details": [{"a": {"b": ["x" * 8000] * 100}}], "message": "the prompt is too long"}}
    assert of(400, body).kind is K.CONTEXT_LENGTH
