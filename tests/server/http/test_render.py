"""Errors and header fields as the client sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routerd.errors import (
    AttemptsExhausted,
    BadRequest,
    BudgetExceeded,
    Delivery,
    ErrorKind,
    PayloadTooLarge,
    RequestError,
    RequestTimeout,
    UpstreamError,
)
from routerd.graph import Cors
from routerd.messages import AttemptRecord
from routerd.server.http.protocol import Reply, head_of
from routerd.server.http.render import attempts_text, cors_fields, error_reply, exhausted_reply, safe


def fault(kind: ErrorKind, status: int | None = None, **more: Any) -> UpstreamError:
    return UpstreamError(kind, "it broke", delivery=Delivery.ANSWERED, status=status, **more)


def record(**more: Any) -> AttemptRecord:
    fields: dict[str, Any] = {"number": 1, "target": "p/m", "provider": "p", "endpoint": "p-1", "model": "m"}
    return AttemptRecord(**{**fields, **more})


def lines_of(reply: Reply) -> dict[str, str]:
    """Decode the header fields, as a client would that splits at CRLF only."""
    assert reply.fields.endswith("\r\n")
    pairs = [line.partition(": ") for line in reply.fields.removesuffix("\r\n").split("\r\n")]
    assert len({name for name, _, _ in pairs}) == len(pairs), "a field is there twice"
    return {name: value for name, _, value in pairs}


def error_of(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)["error"]
    assert {"message", "type", "code", "param"} <= set(found)
    return found


def exhausted(last: UpstreamError, *records: AttemptRecord) -> Reply:
    return exhausted_reply(AttemptsExhausted(records, last), "")


# ── the status of a request whose attempts all failed ──


@pytest.mark.parametrize(
    ("kind", "upstream", "status"),
    [
        (ErrorKind.CONNECT, None, 502),
        (ErrorKind.TLS, None, 502),
        (ErrorKind.TIMEOUT, None, 504),
        (ErrorKind.AUTH, 401, 502),  # our credential is no business of the client's
        (ErrorKind.CREDITS, 402, 502),
        (ErrorKind.MODEL_MISSING, 404, 502),
        (ErrorKind.PROTOCOL, 200, 502),
        (ErrorKind.STREAM_ERROR, None, 502),
        (ErrorKind.STREAM_CUT, None, 502),
        (ErrorKind.COLD, 503, 503),
        (ErrorKind.RATE_LIMITED, 429, 429),
        (ErrorKind.RATE_LIMITED, 200, 429),
        (ErrorKind.SERVER_ERROR, 500, 500),
        (ErrorKind.SERVER_ERROR, 529, 529),
        (ErrorKind.SERVER_ERROR, 409, 409),
        (ErrorKind.SERVER_ERROR, 200, 502),
        (ErrorKind.SERVER_ERROR, None, 502),
        (ErrorKind.SERVER_ERROR, 302, 502),
        (ErrorKind.CONTEXT_LENGTH, 413, 400),
        (ErrorKind.BAD_REQUEST, 422, 422),
        (ErrorKind.BAD_REQUEST, None, 400),
    ],
)
def test_the_last_fault_decides_the_status(kind: ErrorKind, upstream: int | None, status: int) -> None:
    assert exhausted(fault(kind, upstream)).status == status


def test_a_model_that_the_client_named_itself_is_his_mistake() -> None:
    last = fault(ErrorKind.MODEL_MISSING, 404)
    last.named_by_client = True
    reply = exhausted(last)
    assert (reply.status, error_of(reply)["code"], error_of(reply)["param"]) == (404, "model_not_found", "model")
    assert "x-should-retry" not in lines_of(reply)


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_of_fault_has_a_status_that_is_an_error_and_a_body_of_the_one_shape(kind: ErrorKind) -> None:
    reply = exhausted(fault(kind))
    assert reply.status >= 400
    assert isinstance(error_of(reply)["type"], str)


@pytest.mark.parametrize(
    ("kind", "upstream", "told"),
    [(ErrorKind.SERVER_ERROR, 500, True), (ErrorKind.RATE_LIMITED, 429, True), (ErrorKind.BAD_REQUEST, 400, False)],
)
def test_sdks_are_told_not_to_multiply_what_was_tried(kind: ErrorKind, upstream: int, told: bool) -> None:
    assert (lines_of(exhausted(fault(kind, upstream))).get("x-should-retry") == "false") is told


def test_the_source_of_an_error_is_the_upstream_only_when_it_answered() -> None:
    assert lines_of(exhausted(fault(ErrorKind.SERVER_ERROR, 500)))["x-routerd-error-source"] == "upstream"
    assert lines_of(exhausted(fault(ErrorKind.CONNECT)))["x-routerd-error-source"] == "routerd"


def test_the_upstreams_own_error_object_is_passed_on_for_a_clients_fault() -> None:
    body = b'{"error": {"message": "no", "type": "weird", "code": "c", "param": "messages", "extra": 1}}'
    found = error_of(exhausted(fault(ErrorKind.BAD_REQUEST, 400, body=body)))
    assert found.pop("attempts") == []
    assert found == {"message": "no", "type": "weird", "code": "c", "param": "messages", "extra": 1}


@pytest.mark.parametrize("body", [None, b"", b"<html>", b"[]", b'{"error": "text"}', b"\xff\xfe", b"[" * 100_000])
def test_an_error_body_of_another_shape_becomes_one_of_ours(body: bytes | None) -> None:
    found = error_of(exhausted(fault(ErrorKind.BAD_REQUEST, 400, body=body)))
    assert (found["message"], found["type"], found["code"]) == ("it broke", "invalid_request_error", None)


def test_a_prompt_that_is_too_long_has_openais_code_whatever_the_upstream_calls_it() -> None:
    body = b'{"error": {"message": "too long", "type": 400, "code": 400}}'
    found = error_of(exhausted(fault(ErrorKind.CONTEXT_LENGTH, 400, body=body)))
    assert (found["code"], found["type"]) == ("context_length_exceeded", "invalid_request_error")


def test_the_body_of_another_fault_is_not_passed_on() -> None:
    reply = exhausted(fault(ErrorKind.SERVER_ERROR, 500, body=b'{"error": {"message": "inner secret"}}'))
    assert b"inner secret" not in reply.body


def test_every_attempt_is_told_without_the_fields_that_it_lacks() -> None:
    failed = record(result="upstream_5xx", reason="server_error", status=500, duration_s=0.0121, message="m")
    refused = record(number=2, result="upstream_connect", reason="connect")
    assert error_of(exhausted(fault(ErrorKind.CONNECT), failed, refused))["attempts"] == [
        {
            "number": 1,
            "target": "p/m",
            "endpoint": "p-1",
            "result": "upstream_5xx",
            "duration_ms": 12,
            "status": 500,
            "message": "m",
        },
        {"number": 2, "target": "p/m", "endpoint": "p-1", "result": "upstream_connect", "duration_ms": 0},
    ]


# ── refusals of routerd's own ──


def test_a_refusal_has_the_one_shape_and_names_routerd_as_its_source() -> None:
    reply = error_reply(BadRequest("no model", param="model", code="c"), "x-request-id: r\r\n")
    assert reply.status == 400
    assert error_of(reply) == {"message": "no model", "type": "invalid_request_error", "code": "c", "param": "model"}
    assert lines_of(reply) == {
        "x-request-id": "r",
        "content-type": "application/json",
        "x-routerd-error-source": "routerd",
    }


@pytest.mark.parametrize(("error", "kept"), [(BadRequest, True), (PayloadTooLarge, False), (RequestTimeout, False)])
def test_a_connection_whose_body_was_not_read_to_its_end_is_closed(error: type[RequestError], kept: bool) -> None:
    assert error_reply(error("a"), "").keep_alive is kept


@pytest.mark.parametrize(
    ("asked_s", "seconds", "millis"), [(0.0001, "1", "1"), (1.0, "1", "1000"), (1.2, "2", "1200"), (59.0011, "60", "59002")]
)
def test_retry_after_is_rounded_up_never_down(asked_s: float, seconds: str, millis: str) -> None:
    for reply in (
        error_reply(BudgetExceeded("b", retry_after_s=asked_s), ""),
        exhausted(fault(ErrorKind.RATE_LIMITED, 429, retry_after_s=asked_s)),
    ):
        found = lines_of(reply)
        assert (found["retry-after"], found["retry-after-ms"]) == (seconds, millis)


@pytest.mark.parametrize("asked_s", [None, 0.0, -1.0])
def test_no_wait_is_no_header(asked_s: float | None) -> None:
    found = lines_of(error_reply(BudgetExceeded("b", retry_after_s=asked_s), ""))
    assert not {"retry-after", "retry-after-ms"} & set(found)


# ── header safety ──

NASTY = "a\r\nset-cookie: x=1\r\n\r\nbody\x00\x7f\tb"


def test_no_value_can_end_its_line() -> None:
    assert not set(safe(NASTY)) & {"\r", "\n", "\x00", "\x7f", "\t"}
    reply = error_reply(BadRequest("no", headers={"x-name": NASTY}), "")
    assert "set-cookie" not in lines_of(reply)
    assert "set-cookie" not in lines_of(Reply(200, cors_fields(Cors(origins=(NASTY,)), NASTY)))


def test_printable_names_pass_unchanged() -> None:
    assert safe("gpu-a/qwen 2.5: {x}") == "gpu-a/qwen 2.5: {x}"
    assert safe("größe") == "größe"


@pytest.mark.parametrize("name", ["模型", "m\u2028n", "\u010d\u010a", "e\u0301", "\U0001f600", "\ud800"])
def test_a_head_of_any_name_can_be_encoded_and_keeps_its_lines(name: str) -> None:
    head = head_of(200, f"x-routerd-route: {safe(name)}\r\n")
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == 3
    assert b"x-routerd-route: " in head


# ── CORS ──


def fields_of(cors: Cors, origin: str | None) -> dict[str, str]:
    text = cors_fields(cors, origin)
    return lines_of(Reply(200, text)) if text else {}


def test_without_allowed_origins_nothing_is_said() -> None:
    assert fields_of(Cors(), "https://a.example") == {}


@pytest.mark.parametrize("origin", [None, "https://a.example"])
def test_a_star_allows_anybody_and_needs_no_vary(origin: str | None) -> None:
    found = fields_of(Cors(origins=("https://b.example", "*")), origin)
    assert found["access-control-allow-origin"] == "*"
    assert "vary" not in found


def test_a_listed_origin_is_named_back_and_caches_keep_origins_apart() -> None:
    found = fields_of(Cors(origins=("https://a.example",)), "https://a.example")
    assert found["access-control-allow-origin"] == "https://a.example"
    assert found["vary"] == "origin"
    assert {"x-request-id", "retry-after", "x-routerd-attempts"} <= set(found["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize("origin", [None, "", "https://a.example.evil", "https://A.example", "http://a.example"])
def test_another_origin_is_allowed_nothing_and_still_kept_apart(origin: str | None) -> None:
    assert fields_of(Cors(origins=("https://a.example",)), origin) == {"vary": "origin"}


# ── the attempts in words ──


def test_the_attempts_are_told_in_order_with_reason_and_time() -> None:
    records = [
        record(endpoint="gpu-a", result="upstream_connect", reason="connect", duration_s=0.0016),
        record(endpoint="gpu-b", result="caller_gone", duration_s=1.5),
        record(endpoint="openrouter", duration_s=9.0),
    ]
    assert attempts_text(records) == "gpu-a:connect/2ms,gpu-b:caller_gone/1500ms,openrouter:ok"
    assert attempts_text([]) == ""
