"""The metric cells of one kind of request, resolved once: same operation, route, client and target.

A request that went well touches only what stands here; what is rare (failures, interruptions) is looked up when it happens.
"""

from __future__ import annotations

from routerd.messages import Usage
from routerd.observe import Metrics
from routerd.plan import Planned
from routerd.policy import parts_usd
from routerd.server.http.render import safe

__all__ = ["Tally"]


class Tally:
    """Counts finished requests that reached a target.

    `fields` are the x-routerd-* lines of their answers where these never change; `at_once` is the text of the attempts where the
    first one brought the answer.
    """

    __slots__ = (
        "_duration",
        "_in_cost",
        "_in_total",
        "_input",
        "_ok",
        "_out_cost",
        "_out_total",
        "_output",
        "_per_token",
        "_price",
        "_ttft",
        "at_once",
        "fields",
    )

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str], planned: Planned, fields: str) -> None:
        operation, route, client = labels
        provider = planned.provider.name
        call = (operation, provider, route, planned.target.model)
        self.fields = fields
        self.at_once = safe(f"{planned.endpoint.name}:ok")
        self._ok = metrics.counter("routerd_requests_total", route, client, "ok")
        self._duration = metrics.histogram("gen_ai_server_request_duration_seconds", *call, "")
        self._ttft = metrics.histogram("gen_ai_server_time_to_first_token_seconds", *call)
        self._per_token = metrics.histogram("gen_ai_server_time_per_output_token_seconds", *call)
        self._input = metrics.histogram("gen_ai_client_token_usage", *call, "input")
        self._output = metrics.histogram("gen_ai_client_token_usage", *call, "output")
        self._in_total = metrics.counter("routerd_tokens_total", route, client, provider, "input")
        self._price = planned.target.price
        self._out_total = metrics.counter("routerd_tokens_total", route, client, provider, "output")
        if self._price is not None:
            self._in_cost = metrics.counter("routerd_cost_usd_total", route, client, provider, "input")
            self._out_cost = metrics.counter("routerd_cost_usd_total", route, client, provider, "output")

    def ok(self, duration_s: float) -> None:
        """Count a request that went well."""
        self._ok.value += 1.0
        self._duration.observe(duration_s)

    def streamed(self, ttft_s: float, rest_s: float, usage: Usage | None) -> None:
        """Count the pace of a stream: `rest_s` from the first token to the end."""
        self._ttft.observe(ttft_s)
        if usage is not None and usage.output_tokens > 1:
            self._per_token.observe(rest_s / (usage.output_tokens - 1))

    def said(self, usage: Usage) -> None:
        """Count one request's tokens by size, as the upstream said them: an estimate is no measurement."""
        self._input.observe(usage.input_tokens)
        if usage.output_tokens:
            self._output.observe(usage.output_tokens)

    def used(self, used: Usage) -> None:
        """Add up what is charged and written down: as the upstream said it, else the estimate."""
        self._in_total.value += used.input_tokens
        self._out_total.value += used.output_tokens
        if self._price is not None:
            input_usd, output_usd = parts_usd(used, self._price)
            self._in_cost.inc(input_usd)
            self._out_cost.inc(output_usd)
