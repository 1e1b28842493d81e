"""An error for Anthropic's SDKs has the type that its status has there."""

from __future__ import annotations

import json

import pytest

from routerd.wire.anthropic.inbound.errors import error_body


@pytest.mark.parametrize(
    ("status", "given", "told"),
    [
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (400, "invalid_request_error", "invalid_request_error"),
        (405, "invalid_request_error", "invalid_request_error"),
        (429, "rate_limit_error", "rate_limit_error"),
        (502, "server_error", "api_error"),
        (503, "overloaded_error", "overloaded_error"),
    ],
)
def test_a_type_that_says_less_than_the_status_gives_way_to_it(status: int, given: str, told: str) -> None:
    assert json.loads(error_body(status, given, "m"))["error"]["type"] == told
