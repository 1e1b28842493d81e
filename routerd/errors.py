"""Every exception of routerd, and the closed vocabularies they speak.

Four families: the file is wrong (ConfigError), the client is wrong (RequestError), an upstream failed (UpstreamError), all
attempts failed (AttemptsExhausted). What to do about an UpstreamError is not decided here: `attempt.verdict` is a table over
(kind, delivery). `ErrorType` is the closed label set of the metrics; the words are the same in metrics, logs and API answers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from routerd.messages import AttemptRecord, Taken


class ErrorType(enum.StrEnum):
    """The closed set of `error_type` labels."""

    CALLER_BAD_REQUEST = "caller_bad_request"
    CALLER_AUTH = "caller_auth"
    CALLER_GONE = "caller_gone"
    POLICY_BUDGET = "policy_budget"
    POLICY_FORBIDDEN = "policy_forbidden"
    POLICY_NO_ROUTE = "policy_no_route"
    UPSTREAM_CONNECT = "upstream_connect"
    UPSTREAM_TLS = "upstream_tls"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_AUTH = "upstream_auth"
    UPSTREAM_CREDITS = "upstream_credits"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_4XX = "upstream_4xx"
    UPSTREAM_5XX = "upstream_5xx"
    UPSTREAM_COLD = "upstream_cold"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    UPSTREAM_STREAM_CUT = "upstream_stream_cut"
    UPSTREAM_STREAM_ERROR = "upstream_stream_error"
    ROUTER_INTERNAL = "router_internal"


class ErrorKind(enum.StrEnum):
    """What went wrong upstream, as far as routing cares. `failover.on` in YAML names the same words."""

    CONNECT = "connect"  # name, TCP or reset before anything was answered
    TLS = "tls"
    TIMEOUT = "timeout"
    AUTH = "auth"  # our credential was refused
    CREDITS = "credits"  # our account is empty
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    COLD = "cold"
    PROTOCOL = "protocol"  # an answer that is none
    MODEL_MISSING = "model_missing"  # a configured model the upstream does not know
    CONTEXT_LENGTH = "context_length"
    BAD_REQUEST = "bad_request"  # the client's own fault; never failed over
    STREAM_ERROR = "stream_error"  # an error event inside a 200 stream
    STREAM_CUT = "stream_cut"  # ended without a finish


class Delivery(enum.StrEnum):
    """How far the request got: decides whether repeating it on the same connection kind is free of side effects."""

    NOT_SENT = "not_sent"
    MAYBE_PROCESSED = "maybe_processed"
    ANSWERED = "answered"


class RouterdError(Exception):
    """The root of every exception raised on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in the configuration. `line` and `column` count from 1; 0 means the file as a whole."""

    stage: str  # read | yaml | interpolate | schema | semantic | tests | build
    code: str  # stable, kebab-case: unknown-key, duplicate-key, unknown-provider ...
    path: str  # models.gpt-4o.params
    message: str
    file: str
    line: int = 0
    column: int = 0
    source: str = ""  # the text of that line
    hint: str = ""
    severity: str = "error"  # error | warning


STAGES = ("read", "yaml", "interpolate", "schema", "semantic", "tests", "build")  # in the order in which they run


class ConfigError(RouterdError):
    """The configuration is not usable. Carries every problem found, sorted by file, line and column.

    `inputs`: every file (and directory of an include pattern) known so far, to be watched until it is usable.
    """

    def __init__(self, problems: Sequence[Problem], *, inputs: Sequence[Path] = ()) -> None:
        self.inputs = tuple(inputs)
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.code)))
        super().__init__(f"{len(self.problems)} problem(s) in the configuration")

    @property
    def stage(self) -> str:
        """The first stage that failed: the `result` label of the reload metrics."""
        failed = [p.stage for p in self.problems if p.severity == "error"]
        return min(failed, key=STAGES.index, default="build")


class RequestError(RouterdError):
    """The request cannot be served as it is, and the client is told why in its own dialect."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    error_type = ErrorType.CALLER_BAD_REQUEST

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


class BadRequest(RequestError):
    """400: the body or a parameter is wrong."""


class Unauthorized(RequestError):
    """401: no key, or a key nobody has."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    error_type = ErrorType.CALLER_AUTH


class Forbidden(RequestError):
    """403: this client may not use this model."""

    status = 403
    type = "permission_error"
    code = "model_forbidden"
    error_type = ErrorType.POLICY_FORBIDDEN


class NotFound(RequestError):
    """404: no such path."""

    status = 404
    code = "not_found"


class ModelNotFound(RequestError):
    """404: no route has this name."""

    status = 404
    code = "model_not_found"
    error_type = ErrorType.POLICY_NO_ROUTE


class MethodNotAllowed(RequestError):
    """405: the path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    """408: the client did not finish sending its request."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(RequestError):
    """413: the body is over the limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(RequestError):
    """415: the body is not JSON by its own content type."""

    status = 415
    code = "unsupported_media_type"


class BudgetExceeded(RequestError):
    """429: a budget of routerd's own is used up."""

    status = 429
    type = "rate_limit_error"
    code = "budget_exceeded"
    error_type = ErrorType.POLICY_BUDGET
    budget = ""  # its name and scope, for the metric
    scope = ""
    taken: Taken | None = None  # what the counters said


class CreditsExhausted(BudgetExceeded):
    """402: the client has no credit left for this request.

    Not 429: nothing is to be waited for, and OpenAI's SDKs send a 429 again by themselves. The type is OpenAI's for an account
    without money.
    """

    status = 402
    type = "insufficient_quota"
    code = "insufficient_credits"


class StateUnavailable(RequestError):
    """503: the counters that hosts share cannot be reached, and the operator wants no request uncounted."""

    status = 503
    type = "server_error"
    code = "state_unavailable"
    error_type = ErrorType.POLICY_BUDGET


class NotReady(RequestError):
    """503: no generation serves yet, or the daemon drains."""

    status = 503
    type = "server_error"
    code = "not_ready"
    error_type = ErrorType.ROUTER_INTERNAL


class ShuttingDown(NotReady):
    """503: the drain ended before the request did."""

    code = "shutting_down"


class NoTarget(RequestError):
    """503: every target of the model is drained or disabled."""

    status = 503
    type = "server_error"
    code = "no_target"
    error_type = ErrorType.POLICY_NO_ROUTE


class UpstreamError(RouterdError):
    """One attempt failed.

    `status` and `body` are the upstream's answer where there was one. `message` is safe for a client: it holds no URL and no
    secret. `retry_after_s` is what the upstream asked for.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        delivery: Delivery,
        endpoint: str = "",
        status: int | None = None,
        body: bytes | None = None,
        retry_after_s: float | None = None,
        error_type: ErrorType | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.delivery = delivery
        self.endpoint = endpoint
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.error_type = error_type or ERROR_TYPE_OF_KIND[kind]
        self.named_by_client = False  # the model was: a direct provider, or a pattern
        self.was_answering = False  # when the time of the request itself ran out: the endpoint is not to blame


class ProtocolFault(UpstreamError):
    """An answer that is none: empty, not JSON, of the wrong shape, or an event larger than the limit."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorKind.PROTOCOL, message, delivery=Delivery.ANSWERED)


class AttemptsExhausted(RouterdError):
    """Every target of the plan failed, or the deadline or attempt budget ended first. `last` decides the client's status."""

    def __init__(self, attempts: Sequence[AttemptRecord], last: UpstreamError) -> None:
        super().__init__(last.message)
        self.attempts = tuple(attempts)
        self.last = last


ERROR_TYPE_OF_KIND: Mapping[ErrorKind, ErrorType] = {
    ErrorKind.CONNECT: ErrorType.UPSTREAM_CONNECT,
    ErrorKind.TLS: ErrorType.UPSTREAM_TLS,
    ErrorKind.TIMEOUT: ErrorType.UPSTREAM_TIMEOUT,
    ErrorKind.AUTH: ErrorType.UPSTREAM_AUTH,
    ErrorKind.CREDITS: ErrorType.UPSTREAM_CREDITS,
    ErrorKind.RATE_LIMITED: ErrorType.UPSTREAM_RATE_LIMITED,
    ErrorKind.SERVER_ERROR: ErrorType.UPSTREAM_5XX,
    ErrorKind.COLD: ErrorType.UPSTREAM_COLD,
    ErrorKind.PROTOCOL: ErrorType.UPSTREAM_PROTOCOL,
    ErrorKind.MODEL_MISSING: ErrorType.UPSTREAM_4XX,
    ErrorKind.CONTEXT_LENGTH: ErrorType.UPSTREAM_4XX,
    ErrorKind.BAD_REQUEST: ErrorType.UPSTREAM_4XX,
    ErrorKind.STREAM_ERROR: ErrorType.UPSTREAM_STREAM_ERROR,
    ErrorKind.STREAM_CUT: ErrorType.UPSTREAM_STREAM_CUT,
}
