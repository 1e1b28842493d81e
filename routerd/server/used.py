"""What an answer used, where its engine did not say it, or not all of it: an estimate, marked as one.

Text is BYTES_PER_TOKEN bytes a token (`policy.budgets`), the prompt's by the size of the request's body. What an engine said is
never changed: only what came after it is added. Budgets, credits and the ledger are charged the same.
"""

from __future__ import annotations

from routerd.messages import Usage
from routerd.policy import tokens_of
from routerd.wire.forwarded import ForwardedText, answer_text_bytes

__all__ = ["guessed", "used_by_answer", "used_by_stream"]


def used_by_answer(said: Usage | None, request_bytes: int, body: bytes) -> Usage:
    """Return what a whole answer used."""
    return said if said is not None else guessed(request_bytes, answer_text_bytes(body))


def used_by_stream(said: Usage | None, request_bytes: int, text: ForwardedText | None, whole: bool) -> Usage | None:
    """Return what a stream used; `whole`: it came to its good end. None: nobody counted and the engine did not say."""
    if text is None or (whole and said is not None):
        return said
    text.take(b"", said)  # it may have come by itself, behind the text
    if said is None:
        return guessed(request_bytes, text.text_bytes())
    more = tokens_of(text.text_bytes())
    if not more:
        return said
    return Usage(
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens + more,
        cached_tokens=said.cached_tokens,
        reasoning_tokens=said.reasoning_tokens,
        estimated=True,
    )


def guessed(request_bytes: int, text_bytes: int) -> Usage:
    """Return what a prompt and a text of these sizes use."""
    return Usage(input_tokens=max(1, tokens_of(request_bytes)), output_tokens=tokens_of(text_bytes), estimated=True)
