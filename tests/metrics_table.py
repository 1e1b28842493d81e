"""The published table of metrics, word for word: names, kinds, labels and buckets that dashboards and alerts rely on.

A change here is a change for everybody who has a dashboard.
"""

from __future__ import annotations

CALL = ("operation", "provider", "request_model", "response_model")
LATENCY = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 600)
TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300,
)  # fmt: skip
TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

# name -> kind, labels, buckets (None: not published)
TABLE: dict[str, tuple[str, tuple[str, ...], tuple[float, ...] | None]] = {
    "gen_ai_server_request_duration_seconds": ("histogram", (*CALL, "error_type"), LATENCY),
    "gen_ai_server_time_to_first_token_seconds": ("histogram", CALL, TTFT),
    "gen_ai_server_time_per_output_token_seconds": ("histogram", CALL, TPOT),
    "gen_ai_client_token_usage": ("histogram", (*CALL, "token_type"), TOKENS),
    "routerd_requests_total": ("counter", ("route", "client", "outcome"), ()),
    "routerd_attempts_total": ("counter", ("target", "result"), ()),
    "routerd_failovers_total": ("counter", ("route", "from", "to", "reason"), ()),
    "routerd_stream_interruptions_total": ("counter", ("target", "reason"), ()),
    "routerd_overhead_seconds": ("histogram", ("phase",), None),
    "routerd_inflight_requests": ("gauge", ("endpoint",), ()),
    "routerd_breaker_state": ("gauge", ("endpoint",), ()),
    "routerd_endpoint_cooldown_seconds": ("gauge", ("endpoint",), ()),
    "routerd_endpoint_healthy": ("gauge", ("endpoint",), ()),
    "routerd_budget_rejections_total": ("counter", ("budget", "scope", "mode"), ()),
    "routerd_budget_used_ratio": ("gauge", ("budget", "scope", "mode"), ()),
    "routerd_tokens_total": ("counter", ("route", "client", "provider", "token_type"), ()),
    "routerd_cost_usd_total": ("counter", ("route", "client", "provider", "token_type"), ()),
    "routerd_config_last_reload_successful": ("gauge", (), ()),
    "routerd_config_last_reload_success_timestamp_seconds": ("gauge", (), ()),
    "routerd_config_last_reload_attempt_timestamp_seconds": ("gauge", (), ()),
    "routerd_config_reloads_total": ("counter", ("trigger", "result"), ()),
    "routerd_config_info": ("gauge", ("digest", "generation", "source"), ()),
    "routerd_config_drift": ("gauge", (), ()),
    "routerd_config_file_present": ("gauge", (), ()),
    "routerd_config_watch_last_look_timestamp_seconds": ("gauge", (), ()),
    "routerd_config_generation_inflight": ("gauge", ("generation",), ()),
    "routerd_config_reload_duration_seconds": ("histogram", ("phase",), None),
    "routerd_config_detect_to_serve_seconds": ("histogram", (), None),
    "routerd_worker_up": ("gauge", ("worker",), ()),
    "routerd_worker_restarts_total": ("counter", ("worker",), ()),
    "routerd_event_loop_lag_seconds": ("histogram", ("worker",), None),
}

# Label values that come from a closed set.
CLOSED: dict[tuple[str, str], set[str]] = {
    ("routerd_requests_total", "outcome"): {
        "ok", "client_error", "rejected", "upstream_error", "truncated", "client_gone",
    },
    ("routerd_stream_interruptions_total", "reason"): {"cut", "idle", "error_event", "deadline", "client_gone"},
    ("routerd_overhead_seconds", "phase"): {"before_upstream", "after_upstream"},
    ("routerd_budget_rejections_total", "mode"): {"enforce", "shadow"},
    ("routerd_tokens_total", "token_type"): {"input", "output"},
    ("routerd_config_reloads_total", "trigger"): {"start", "file", "signal", "api", "rollback", "probation"},
    ("routerd_config_reloads_total", "result"): {
        "applied", "unchanged", "read", "yaml", "interpolate", "schema", "semantic", "tests", "build", "shrink_guard", "reverted",
    },
    ("routerd_config_info", "source"): {"file", "last_good"},
    ("routerd_attempts_total", "result"): {
        "ok", "caller_bad_request", "caller_auth", "caller_gone", "policy_budget", "policy_forbidden", "policy_no_route",
        "upstream_connect", "upstream_tls", "upstream_timeout", "upstream_auth", "upstream_credits", "upstream_rate_limited",
        "upstream_4xx", "upstream_5xx", "upstream_cold", "upstream_protocol", "upstream_stream_cut", "upstream_stream_error",
        "router_internal",
    },
}  # fmt: skip
