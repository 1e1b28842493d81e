"""One request through one plan.

Model: a `Lane` is a route made ready; `Attempts` walks a plan's targets; an attempt is one `exchange`; its sink is `Collect`
for a unary answer and `Relay` for a stream. `verdict` is the table that says what a fault means.
Compilation: lanes are built at the first request of a route in a generation, wires at the first attempt of a target.
Runtime: nothing reaches the client before the first content is there (the commit); until then a fault goes to the next target.
After it, bytes are pushed in the upstream's read callback and a fault becomes an error event.
Cost and concurrency: one event loop; a unary attempt wakes the request's task once, a stream twice, a chunk never.
"""

from routerd.attempt.lane import Lane, Passing, place_of
from routerd.attempt.loop import Answer, Attempts, Setting
from routerd.attempt.sink.passage import Passage
from routerd.attempt.sink.pushed import Downstream, Ended
from routerd.attempt.sink.relay import Relay, error_event
from routerd.attempt.timer import Ticker
from routerd.attempt.tokens import AskToken, TokenNews, Tokens, no_tokens
from routerd.attempt.verdict import Verdict, judge

__all__ = [
    "Answer",
    "AskToken",
    "Attempts",
    "Downstream",
    "Ended",
    "Lane",
    "Passage",
    "Passing",
    "Relay",
    "Setting",
    "Ticker",
    "TokenNews",
    "Tokens",
    "Verdict",
    "error_event",
    "judge",
    "no_tokens",
    "place_of",
]
