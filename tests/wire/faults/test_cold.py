"""Which errors mean that a model is being loaded: the status and the text of a provider's rules."""

from __future__ import annotations

import json

import pytest

from routerd.errors import Delivery, ErrorKind, ErrorType, UpstreamError
from routerd.graph import ColdRule, ColdStart, Endpoint, Provider
from routerd.wire.faults.classify import classify
from routerd.wire.faults.cold import MAX_CHARS, ColdAnswers

RULES = (ColdRule(status=400, body=r"(?i)\bcold\b|not ready"), ColdRule(status=502))


def rules(*when: ColdRule) -> ColdAnswers:
    endpoint = Endpoint(name="p", provider="p", url="http://p")
    found = ColdAnswers.of(Provider(name="p", dialect="openai", endpoints=(endpoint,), cold_start=ColdStart(when=when or RULES)))
    assert found is not None
    return found


def answered(status: int, body: object) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = classify(status, [], raw, 0.0).as_error()
    rules().mark(error)
    return error


@pytest.mark.parametrize(
    "body",
    [
        {"message": "This Model is Cold / Not Ready for Inference"},
        {"error": "model is COLD"},
        {"error": {"message": "not ready", "type": "t", "code": None}},
        {"error": {"message": "please wait", "detail": "it is cold"}},
        b"cold",
    ],
)
def test_the_text_of_a_400_decides_wherever_it_stands(body: object) -> None:
    error = answered(400, body)
    assert (error.kind, error.error_type) == (ErrorKind.COLD, ErrorType.UPSTREAM_COLD)


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, {"error": {"message": "bad temperature"}}), (404, {"error": "it is cold"}), (400, {"error": "scolding"}), (503, {})],
)
def test_other_answers_keep_their_kind(status: int, body: object) -> None:
    assert answered(status, body).kind is not ErrorKind.COLD


def test_a_rule_without_a_text_takes_every_answer_of_its_status() -> None:
    assert answered(502, b"<html>bad gateway</html>").kind is ErrorKind.COLD


def test_an_error_inside_a_stream_has_no_status_and_is_known_by_its_text() -> None:
    inside = UpstreamError(ErrorKind.STREAM_ERROR, "the model is not ready", delivery=Delivery.ANSWERED)
    rules().mark(inside)
    assert inside.kind is ErrorKind.COLD
    other = UpstreamError(ErrorKind.STREAM_ERROR, "it broke", delivery=Delivery.ANSWERED)
    rules().mark(other)
    assert other.kind is ErrorKind.STREAM_ERROR


def test_who_did_not_answer_is_not_cold() -> None:
    error = UpstreamError(ErrorKind.CONNECT, "cold", delivery=Delivery.NOT_SENT)
    rules(ColdRule(body="cold")).mark(error)
    assert error.kind is ErrorKind.CONNECT


def test_no_more_than_the_first_part_of_a_text_is_searched() -> None:
    error = UpstreamError(ErrorKind.BAD_REQUEST, "x" * MAX_CHARS + " cold", delivery=Delivery.ANSWERED, status=400)
    rules().mark(error)
    assert error.kind is ErrorKind.BAD_REQUEST


def test_a_provider_without_rules_has_none() -> None:
    assert ColdAnswers.of(Provider(name="p", dialect="openai", endpoints=())) is None
