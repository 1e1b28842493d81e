"""Rules of budgets: what is charged, to whom, all or nothing, settled and released exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import BudgetExceeded, CreditsExhausted
from routerd.graph import Budget, Client, Credits, Graph, Pattern, Price, Route
from routerd.messages import Usage
from routerd.policy import (
    NOTHING,
    Bill,
    Charge,
    Counters,
    Lease,
    Need,
    charges,
    cost_nano_usd,
    credit_charge,
    dearest,
    estimate,
    provider_charges,
    reserve,
    spent,
)
from routerd.policy.budgets import OUTPUT_TOKENS
from routerd.state import LocalCounters
from tests.plan.build import graph, provider, route

NOW = 1000.0


@pytest.fixture
def counters() -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=256, workers=2)
    yield counters
    counters.close()


def budget(name: str, kind: str = "requests", limit: int = 10, scope: str = "global", *models: str) -> Budget:
    window_s = 0.0 if kind == "concurrency" else 60.0
    patterns = tuple(Pattern.parse(m) for m in models)
    return Budget(name=name, kind=kind, limit=limit, window_s=window_s, scope=scope, models=patterns)


def client(name: str, *budgets: str) -> Client:
    return Client(name=name, key_sha256=name.encode(), budgets=budgets)


def charged(
    *budgets: Budget, client_has: tuple[str, ...] = (), route_has: tuple[str, ...] = (), asked: str = "m", name: str = "m"
) -> list[tuple[str, str]]:
    r = route(name, "p/x", budgets=route_has)
    found = charges(graph(r, budgets=budgets), client=client("ann", *client_has), route=r, captured_model=asked)
    return [(c.budget.name, c.subject) for c in found]


def test_client_and_route_budgets_are_charged_to_the_subject_of_their_scope() -> None:
    budgets = (budget("g"), budget("c", scope="client"), budget("m", scope="model"))
    assert charged(*budgets, client_has=("g", "c"), route_has=("m",)) == [("g", ""), ("c", "ann"), ("m", "m")]


def test_a_budget_attached_twice_is_charged_once() -> None:
    assert charged(budget("g"), client_has=("g",), route_has=("g",)) == [("g", "")]


def test_a_model_filter_looks_at_the_asked_name_of_a_pattern() -> None:
    free = budget("free", "requests", 10, "global", "*:free")
    assert charged(free, route_has=("free",), asked="x/y/z:free", name="*/*") == [("free", "")]
    assert charged(free, route_has=("free",), asked="x/paid", name="*/*") == []


def test_a_model_filter_covers_a_route_by_any_of_its_names_and_none_is_a_way_around() -> None:
    g = graph(route("m", "p/x", aliases=("m:free",), budgets=("b",)), budgets=(budget("b", "requests", 1, "global", "*:free"),))
    for asked in ("m", "m:free"):
        found = charges(g, client=None, route=g.routes["m"], captured_model=asked)
        assert [c.budget.name for c in found] == ["b"]
    assert charged(budget("b", "requests", 1, "global", "*:free"), route_has=("b",)) == []


def test_without_clients_all_callers_are_one() -> None:
    r = route("m", "p/x", budgets=("c",))
    (only,) = charges(graph(r, budgets=(budget("c", scope="client"),)), client=None, route=r, captured_model="m")
    assert only.subject == ""


def provider_case() -> tuple[Graph, Route]:
    r = route("public", "p/x", budgets=("per-provider",))
    budgets = (
        budget("own", scope="provider"),
        budget("per-provider", scope="provider"),
        budget("per-model", scope="model"),
        budget("per-client", scope="client"),
        budget("free", "requests", 10, "global", "*:free"),
    )
    p = provider("p", budgets=("own", "per-model", "per-client", "free"))
    return graph(r, providers=(p,), budgets=budgets), r


def test_a_provider_is_charged_its_own_budgets_and_those_of_its_scope() -> None:
    g, r = provider_case()
    assert [c.budget.name for c in charges(g, client=None, route=r, captured_model="public")] == []
    found = provider_charges(g, (g.providers["p"], "p"), "up", client("ann", "per-provider"), r)
    assert [(c.budget.name, c.subject) for c in found] == [
        ("own", "p"),
        ("per-model", "public"),
        ("per-client", "ann"),
        ("per-provider", "p"),
    ]


def test_a_provider_budget_with_a_filter_counts_the_upstream_name() -> None:
    g, _ = provider_case()
    assert "free" in [c.budget.name for c in provider_charges(g, (g.providers["p"], "p"), "deepseek/r1:free", None)]
    assert "free" not in [c.budget.name for c in provider_charges(g, (g.providers["p"], "p"), "deepseek", None)]


@given(st.lists(st.tuples(st.text(max_size=4), st.sampled_from(["client", "model"]), st.text(max_size=4)), max_size=20))
def test_two_charges_have_one_key_only_if_they_are_the_same(rows: list[tuple[str, str, str]]) -> None:
    made = {row: Charge(budget(row[0], scope=row[1]), row[2]).key for row in rows if "\0" not in row[0] + row[2]}
    assert len(set(made.values())) == len(made)


def test_another_limit_or_window_is_the_same_counter_another_kind_is_not() -> None:
    one = Charge(budget("b", "requests", 10), "")
    assert one.key == Charge(Budget(name="b", kind="requests", limit=99, window_s=5.0), "").key
    assert one.key != Charge(budget("b", "tokens", 10), "").key


def lease_on(counters: Counters, *which: Budget, tokens: int = 1) -> Lease:
    return reserve(counters, Bill(Charge(b, "") for b in which), Need(tokens), NOW)


def used(counters: LocalCounters, b: Budget) -> int:
    return counters.used(Charge(b, ""), NOW)


def test_no_budget_no_limit(counters: LocalCounters) -> None:
    lease = lease_on(counters)
    lease.close(Need(10**9), NOW)


def test_all_are_taken_or_none(counters: LocalCounters) -> None:
    wide, narrow, slots = budget("wide"), budget("narrow", limit=1), budget("slots", "concurrency", 5)
    lease_on(counters, wide, narrow, slots)
    with pytest.raises(BudgetExceeded, match="'narrow'"):
        lease_on(counters, wide, slots, narrow)
    assert [used(counters, b) for b in (wide, narrow, slots)] == [1, 1, 1]


def test_a_refusal_says_what_is_allowed_and_when_to_come_back(counters: LocalCounters) -> None:
    lease_on(counters, budget("b", limit=1))
    with pytest.raises(BudgetExceeded) as caught:
        lease_on(counters, budget("b", limit=1))
    error = caught.value
    assert (error.status, error.code) == (429, "budget_exceeded")
    assert error.message == "Budget 'b' allows 1 requests in 1m; retry in 62 s."
    assert error.retry_after_s == pytest.approx(61.9, abs=1.0)
    reserve(counters, Bill([Charge(budget("b", limit=1), "")]), NOTHING, NOW + (error.retry_after_s or 0.0))


def test_a_request_larger_than_the_budget_is_not_told_to_come_back(counters: LocalCounters) -> None:
    with pytest.raises(BudgetExceeded, match="this request alone needs more") as caught:
        lease_on(counters, budget("t", "tokens", 100), tokens=101)
    assert caught.value.retry_after_s is None


def test_a_refusal_for_one_client_tells_nothing_of_another(counters: LocalCounters) -> None:
    shared = budget("shared", "tokens", 100)
    lease_on(counters, shared, tokens=37)
    with pytest.raises(BudgetExceeded) as caught:
        lease_on(counters, shared, tokens=64)
    assert "37" not in caught.value.message
    assert "63" not in caught.value.message


def test_real_usage_takes_the_place_of_the_estimate(counters: LocalCounters) -> None:
    tokens, requests = budget("t", "tokens", 1000), budget("r")
    lease_on(counters, tokens, requests, tokens=500).close(Need(120), NOW)
    assert (used(counters, tokens), used(counters, requests)) == (120, 1)


def test_a_failed_request_gives_its_tokens_back_and_stays_counted(counters: LocalCounters) -> None:
    tokens, requests = budget("t", "tokens", 1000), budget("r")
    lease = lease_on(counters, tokens, requests, tokens=500)
    lease.close(Need(0), NOW)
    assert (used(counters, tokens), used(counters, requests)) == (0, 1)


def test_tokens_that_nobody_settled_stay_as_estimated(counters: LocalCounters) -> None:
    tokens = budget("t", "tokens", 1000)
    lease_on(counters, tokens, tokens=500).close(None, NOW)
    assert used(counters, tokens) == 500


@given(st.lists(st.one_of(st.integers(0, 900), st.none()), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_lease_is_closed_once(calls: list[int | None]) -> None:
    counters = LocalCounters.create(slots=8, workers=1)
    tokens, slots = budget("t", "tokens", 1000), budget("s", "concurrency", 2)
    other, lease = lease_on(counters, slots), lease_on(counters, tokens, slots, tokens=100)
    for call in calls:
        lease.close(Need(call) if call is not None else None, NOW)
    assert used(counters, tokens) == (100 if calls[0] is None else calls[0])
    assert used(counters, slots) == 1
    other.close(None, NOW)
    counters.close()


@pytest.mark.parametrize(
    ("size_bytes", "max_tokens", "tokens"),
    [(0, 0, 1), (4, 0, 1), (5, 10, 12), (400, None, 100 + OUTPUT_TOKENS), (400, -5, 100)],
)
def test_the_estimate_is_the_body_and_the_answer(size_bytes: int, max_tokens: int | None, tokens: int) -> None:
    assert estimate(size_bytes, max_tokens) == Need(tokens)


# ── kinds and forms ──

PRICE = Price(input_nano_usd=2_500_000_000, output_nano_usd=10_000_000_000, cached_input_nano_usd=1_250_000_000)


def test_what_tokens_cost_is_exact_in_nano_dollars_and_rounded_up() -> None:
    assert cost_nano_usd(Usage(input_tokens=1_000_000, output_tokens=1_000_000), PRICE) == 12_500_000_000
    assert cost_nano_usd(Usage(input_tokens=1_000_000, cached_tokens=400_000), PRICE) == 2_000_000_000
    assert cost_nano_usd(Usage(input_tokens=1), Price(input_nano_usd=1)) == 1
    assert cost_nano_usd(Usage(input_tokens=9), None) == 0
    assert cost_nano_usd(Usage(input_tokens=1, cached_tokens=5), PRICE) == 1250  # more cached than given: no credit


def test_what_a_request_may_cost_is_the_dearest_of_its_targets() -> None:
    cheap = Price(input_nano_usd=1, output_nano_usd=9, cached_input_nano_usd=7)
    most = dearest([None, cheap, Price(input_nano_usd=3, output_nano_usd=2)])
    assert most == Price(input_nano_usd=7, output_nano_usd=9)
    assert dearest([None]) is None


def test_dollars_are_reserved_by_estimate_and_settled_by_real_usage(counters: LocalCounters) -> None:
    usd = budget("u", "usd", 10**9)
    need = estimate(400, 100, PRICE)
    assert need == Need(200, 100 * 2500 + 100 * 10_000)
    lease = reserve(counters, Bill([Charge(usd, "")]), need, NOW)
    assert used(counters, usd) == 1_250_000
    lease.close(spent(Usage(input_tokens=10, output_tokens=1), PRICE), NOW)
    assert used(counters, usd) == 35_000


def test_a_refusal_of_dollars_and_calendars_says_so(counters: LocalCounters) -> None:
    usd = Budget(name="m", kind="usd", limit=50_500_000_000, calendar="month")
    with pytest.raises(BudgetExceeded) as caught:
        reserve(counters, Bill([Charge(usd, "")]), Need(0, 10**12), NOW)
    assert caught.value.message == "Budget 'm' allows 50.5 USD in a calendar month (UTC); this request alone needs more."


def test_a_budget_with_burst_is_its_window_and_a_bucket(counters: LocalCounters) -> None:
    b = Budget(name="b", kind="requests", limit=600, window_s=60.0, burst=5)
    r = route("m", "p/x", budgets=("b",))
    bill = Bill(charges(graph(r, budgets=(b,)), client=None, route=r, captured_model="m"))
    assert [c.pace for c in bill.charges] == [False, True]
    for _ in range(5):
        reserve(counters, bill, NOTHING, NOW)
    with pytest.raises(BudgetExceeded) as caught:
        reserve(counters, bill, NOTHING, NOW)
    assert caught.value.message == "Budget 'b' allows 600 requests in 1m, 5 requests at once over that rate; retry in 1 s."
    assert caught.value.retry_after_s == pytest.approx(0.1, abs=1e-4)
    assert counters.used(bill.charges[0], NOW) == 5
    reserve(counters, bill, NOTHING, NOW + caught.value.retry_after_s)


def test_shadow_mode_counts_and_reports_and_never_refuses(counters: LocalCounters) -> None:
    shadow = Budget(name="s", kind="requests", limit=1, window_s=60.0, shadow=True)
    bill = Bill([Charge(budget("hard", limit=3), ""), Charge(shadow, "")])
    assert [reserve(counters, bill, NOTHING, NOW).taken.over for _ in range(3)] == [(), (1,), (1,)]
    assert used(counters, shadow) == 3
    with pytest.raises(BudgetExceeded, match="'hard'"):
        reserve(counters, bill, NOTHING, NOW)
    assert used(counters, shadow) == 3


def test_an_endpoint_is_a_subject_of_its_own() -> None:
    r = route("m", "p/x", budgets=("e",))
    g = graph(r, providers=(provider("p"),), budgets=(budget("e", "concurrency", 4, "endpoint"),))
    assert charges(g, client=None, route=r, captured_model="m") == ()
    found = provider_charges(g, (g.providers["p"], "gpu-a"), "x", None, r)
    assert [(c.budget.name, c.subject) for c in found] == [("e", "gpu-a")]


def test_only_windows_of_the_client_alone_may_be_shown_to_it() -> None:
    own, tokens, shared = budget("own", scope="client"), budget("t", "tokens", 9, "client"), budget("all")
    made = [Charge(b, "ann") for b in (shared, own, tokens)]
    assert Bill(made).told == (1, 2)
    assert Bill(made, tell=False).told == ()


def test_a_lease_says_when_it_frees_something(counters: LocalCounters) -> None:
    calls: list[str] = []
    for b in (budget("s", "concurrency", 1), budget("r")):
        lease = lease_on(counters, b)
        lease.freed = lambda: calls.append("freed")
        lease.close(None, NOW)
        lease.close(None, NOW)
    assert calls == ["freed"]


# ── credits ──


def credited(limit: int, kind: str = "tokens", since: str = "") -> Bill:
    r = route("m", "p/x")
    ann = Client(name="ann", key_sha256=b"ann", credits=Credits(kind=kind, limit=limit, since=since))
    return Bill(charges(graph(r), client=ann, route=r, captured_model="m"))


def test_credits_are_used_once_and_never_come_back(counters: LocalCounters) -> None:
    bill = credited(100)
    lease = reserve(counters, bill, Need(60), NOW)
    lease.close(Need(50), NOW)
    with pytest.raises(CreditsExhausted) as caught:
        reserve(counters, bill, Need(60), NOW + 1e9)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.budget) == (402, None, "credits")
    assert caught.value.message == "50 tokens of 100 tokens of credit are left, and this request may need more."
    reserve(counters, bill, Need(50), NOW + 1e9)


def test_credits_in_dollars_are_told_in_dollars(counters: LocalCounters) -> None:
    with pytest.raises(CreditsExhausted, match=r"^0\.5 USD of 0\.5 USD of credit are left"):
        reserve(counters, credited(500_000_000, "usd"), Need(1, 600_000_000), NOW)


def test_another_kind_or_day_is_another_grant_and_another_amount_is_not() -> None:
    keys = {credited(*one).charges[0].key for one in ((100,), (200,), (100, "usd"), (100, "tokens", "2026-01-01"))}
    assert len(keys) == 3
    named = Charge(Budget(name="credits", kind="tokens", limit=1, scope="client", window_s=60.0), "ann")
    assert named.key not in keys


def test_what_was_used_before_counts_even_beyond_the_grant(counters: LocalCounters) -> None:
    counters.count(credit_charge("ann", Credits(kind="tokens", limit=100)), 150, NOW)
    with pytest.raises(CreditsExhausted, match=r"^0 tokens of 100 tokens"):
        reserve(counters, credited(100), Need(1), NOW)
    assert not credited(100).told
