"""Status and body of an error answer -> what it means for routing.

The status alone is not enough: a bad key is a 400 at Gemini and xAI, an empty account a 402, 403 or 429, a prompt that is too
long a 400, 413 or 422. The order of `_kind_of` is the rule, numbered there; words (codes and types) count before texts, and the
texts are those that providers were recorded with or document.
What is not decided here: whether to retry. Never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from routerd.errors import Delivery, ErrorKind, UpstreamError
from routerd.wire.faults.errorbody import ErrorBody, read_error, read_error_value
from routerd.wire.faults.ratelimit import Headers, header_map, reset_seconds, retry_after_of
from routerd.wire.foreign import read_json

__all__ = ["Classified", "classify", "classify_value", "fault_error", "is_context_length"]


@dataclass(slots=True, kw_only=True)
class Classified:
    """An error answer, understood. `message` is safe for clients; `status` is the answer's, or the one its body names."""

    kind: ErrorKind
    message: str
    code: str | None = None
    type: str | None = None
    status: int | None = None
    retry_after_s: float | None = None
    body: bytes | None = None

    def as_error(self) -> UpstreamError:
        """Return it as the failure of an attempt."""
        return UpstreamError(
            self.kind,
            self.message,
            delivery=Delivery.ANSWERED,
            status=self.status,
            body=self.body,
            retry_after_s=self.retry_after_s,
        )


_CONTEXT_WORDS = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "too_many_prompt_tokens", "too_many_tokens"}
)
_AUTH_WORDS = frozenset(
    {"invalid_api_key", "api_key_invalid", "authentication_error", "unauthenticated", "organization_restricted"}
)
_CREDIT_WORDS = frozenset(
    {
        "insufficient_quota", "credit_limit", "billing_error", "insufficient_balance", "not_enough_balance",
        "insufficient_credits", "billing_hard_limit_reached", "billing_not_active",
    }
)  # fmt: skip
_RATE_WORDS = frozenset(
    {
        "rate_limit_exceeded", "rate_limit_error", "rate_limited", "too_many_requests_error", "request_quota_exceeded",
        "token_quota_exceeded", "resource_exhausted", "ratelimitreached",
    }
)  # fmt: skip
_MODEL_WORDS = frozenset(
    {
        "model_not_found", "invalid_model", "model_decommissioned", "not_found_error", "model_not_available", "unknown_model",
        "model_not_supported", "model_permission_blocked_org", "model_permission_blocked_project", "model_terms_required",
    }
)  # fmt: skip
_MISMADE_WORDS = frozenset({"tool_use_failed", "json_validate_failed"})  # Groq's: the model did not write what it was told to
_COLD_WORDS = frozenset({"no_executor", "unavailable_error"})

_CONTEXT_TEXT = re.compile(
    r"maximum context length|context window|prompt is too long|prompt too long|maximum prompt length|"
    r"input token count .{0,80}exceeds|exceeds the available context size|too many tokens: size limit|"
    r"reduce the length of the messages|"
    r"exceed(?:ed|s)? (?:the )?(?:max(?:imum)?|model'?s) (?:maximum )?context|exceed context limit|"
    r"total length of all messages is too long|max_new_tokens.{0,80} must be <=|max_tokens must be at least 1, got -\d|"
    r"too large for model with \d+ maximum context|"
    r"too many tokens: (?:total number of tokens in the prompt|minimal context)|"  # Cohere
    r"is longer than the model'?s context length|"  # SGLang, Together
    r"longer than the maximum model length|"  # vLLM
    r"when context the overflows|"  # LM Studio, in these words
    r"`?inputs`? must have less than \d+ tokens",  # TGI
    re.IGNORECASE,
)
# The answer that was asked for is too long, whatever the code says: the client's own mistake, at any target of this model.
_OUTPUT_TEXT = re.compile(
    r"maximum output for this model|maximum allowed number of output tokens|supports at most \d+ completion tokens",
    re.IGNORECASE,
)
_AUTH_TEXT = re.compile(
    r"incorrect api key|api key not valid|invalid (?:x-)?api[ -]key|(?:missing|invalid) authentication|"
    r"api key (?:expired|is missing|not found|is invalid)|location is not supported|"
    r"organization has been (?:disabled|restricted)",
    re.IGNORECASE,
)
_CREDIT_TEXT = re.compile(
    r"insufficient[ _](?:balance|credits|funds|quota)|credit balance is too low|not enough (?:balance|credits)|"
    r"(?:exceeded|used|exhausted|run out of|out of) (?:\w+ ){0,6}credits|credits? (?:are|is|have been) (?:depleted|exhausted)|"
    r"payment required|billing (?:hard limit|is not active)|(?:monthly )?spending limit|"
    r"specified (?:workspace )?api usage limits|key limit exceeded|usage limit exceeded|n't have any credits|"
    r"please enable billing on your project|enter (?:a )?payment method",
    re.IGNORECASE,
)
_MODEL_TEXT = re.compile(
    r"model not (?:found|exist)|(?:is )?not a valid model|model .{1,200} (?:does not exist|not found)|invalid model|"
    r"model .{0,200}has been (?:decommissioned|deprecated|removed)|unknown model|no such model",
    re.IGNORECASE,
)
_COLD_TEXT = re.compile(r"(?:is )?currently loading|loading model|model is loading|no valid executor", re.IGNORECASE)
# A model that this account may not use is as good as not there; the others of the endpoint are.
_FORBIDDEN_MODEL_TEXT = re.compile(r"access to (?:this |the )?model|model .{0,200}\bgated\b", re.IGNORECASE)
_NO_MODEL_LOADED = re.compile(r"no models? (?:is |are )?loaded|^model (?:is |was )?unloaded", re.IGNORECASE)
_MODERATION_TEXT = re.compile(r"moderation|flagged|content policy|safety|usage (?:polic|guideline)", re.IGNORECASE)

# These 4xx say that routerd spoke to the wrong path or in the wrong way: no client can have caused them.
_MISCONFIGURED = frozenset({405, 406, 411, 421, 426})
# Not the client's fault and likely to pass: timeouts, conflicts, too early, flex capacity, a client closed further up.
_TRANSIENT = frozenset({408, 409, 424, 425, 498, 499})


def is_context_length(error: ErrorBody) -> bool:
    """Tell whether the prompt was too long for the model: by code, else by the texts that providers use."""
    return (bool(_CONTEXT_WORDS & error.words) or _says(_CONTEXT_TEXT, error)) and not _says(_OUTPUT_TEXT, error)


def classify(status: int, headers: Headers, body: bytes, now_unix_s: float | None = None) -> Classified:
    """Classify an answer whose status is not 200. `now_unix_s` None: the answer's own `date` header is the clock."""
    error = read_error(body)
    fields = header_map(headers)
    if now_unix_s is None:
        now_unix_s = reset_seconds(fields.get("date", ""), 0.0) or 0.0
    kind = _kind_of(status, error)
    if error.message:
        message = error.message
    elif body.lstrip()[:1] == b"<":
        message = f"the upstream answered {status} with an HTML page"
    else:
        message = f"the upstream answered {status}"
    return Classified(
        kind=kind,
        message=message,
        code=error.code,
        type=error.type,
        status=status,
        retry_after_s=retry_after_of(fields, error, now_unix_s) if status >= 400 else None,
        body=body,
    )


def classify_value(value: Any) -> Classified:
    """Classify an error inside an answer of status 200: the decoded (or raw) value of its `error` key, or the whole object.

    The status that the body names decides; without one, words and texts do, and what they leave open is the server's failure.
    """
    if isinstance(value, msgspec.Raw):
        try:
            value = read_json(bytes(value))
        except ValueError:
            value = None
    if isinstance(value, dict) and "error" not in value:
        value = {"error": value}
    error = read_error_value(value)
    return Classified(
        kind=_kind_of(error.status or 200, error),
        message=error.message or "the upstream reported an error",
        code=error.code,
        type=error.type,
        status=error.status,
        retry_after_s=retry_after_of({}, error, 0.0) if error.status else None,
    )


def fault_error(fault: Classified, status: int, body: bytes) -> UpstreamError:
    """Return an error found inside an answer as the failure of an attempt; a status of 200 is no status of a failure."""
    error = fault.as_error()
    error.body = body
    if error.status is None and status >= 400:
        error.status = status
    return error


def _kind_of(status: int, error: ErrorBody) -> ErrorKind:
    words = error.words
    inside_200 = 200 <= status < 300
    asks_texts = inside_200 or status in (400, 403, 404, 413, 422, 500)
    # 1. The prompt is too long. A rate limit may speak of tokens too, so its statuses are left out.
    if (asks_texts or words & _CONTEXT_WORDS) and is_context_length(error):
        return ErrorKind.CONTEXT_LENGTH
    # 2. The account is empty, whatever the status: 402, and 400, 401, 403, 429 that say so.
    if status == 402 or (
        (inside_200 or 400 <= status < 500) and (words & _CREDIT_WORDS or (status != 401 and _says(_CREDIT_TEXT, error)))
    ):
        return ErrorKind.CREDITS
    # 3. Too many requests or tokens: 429, and 413 or others with such a code (Groq: a request larger than the minute's tokens).
    if status == 429 or words & _RATE_WORDS:
        return ErrorKind.RATE_LIMITED
    # 4. Our credential: 401, and 400 or 403 that say so.
    if status == 401 or ((inside_200 or status in (400, 403)) and (words & _AUTH_WORDS or _says(_AUTH_TEXT, error))):
        return ErrorKind.AUTH
    if inside_200 or status < 500:
        return _kind_of_4xx(status, error)
    # What the server was not built or started for (llama.cpp: embeddings, rerank): it does not have it, and is none the worse.
    if status == 501:
        return ErrorKind.MODEL_MISSING
    # 5. Not loaded yet, as engines say it: 503 while the weights are read.
    if status in (502, 503) and (words & _COLD_WORDS or _says(_COLD_TEXT, error)):
        return ErrorKind.COLD
    return ErrorKind.SERVER_ERROR


def _kind_of_4xx(status: int, error: ErrorBody) -> ErrorKind:
    inside_200 = 200 <= status < 300
    # 6. A server without a model loads none by itself (LM Studio).
    if status in (400, 404) and _says(_NO_MODEL_LOADED, error):
        return ErrorKind.COLD
    # 7. The model: any 404 and 410 (the path and the model are ours, not the client's), and 400s and 403s that say so.
    if status in (404, 410) or _names_the_model(status, error):
        return ErrorKind.MODEL_MISSING
    # 8. A tool call or JSON the model got wrong (Groq): another try may get it right. Cohere's 498 is a prompt that it refuses.
    if status == 498 and _says(_MODERATION_TEXT, error):
        return ErrorKind.BAD_REQUEST
    if error.words & _MISMADE_WORDS or status in _TRANSIENT or inside_200:
        return ErrorKind.SERVER_ERROR
    # 9. 403: moderation is the client's affair, everything else our access.
    if status == 403:
        return ErrorKind.BAD_REQUEST if _says(_MODERATION_TEXT, error) else ErrorKind.AUTH
    if status < 400 or status in _MISCONFIGURED:
        return ErrorKind.PROTOCOL
    return ErrorKind.BAD_REQUEST


def _names_the_model(status: int, error: ErrorBody) -> bool:
    if status == 403:
        return bool(error.words & _MODEL_WORDS) or _says(_FORBIDDEN_MODEL_TEXT, error)
    if 200 <= status < 300 or status in (400, 422):
        return bool(error.words & _MODEL_WORDS) or _says(_MODEL_TEXT, error)
    return False


def _says(pattern: re.Pattern[str], error: ErrorBody) -> bool:
    texts: Iterable[str] = error.texts
    return any(pattern.search(text) for text in texts)
