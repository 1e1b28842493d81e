"""The table of faults: complete, and switched by `failover.on`."""

from __future__ import annotations

import pytest

from routerd.attempt import Verdict, judge
from routerd.attempt.verdict import RULES
from routerd.errors import ErrorKind
from routerd.graph import Failover

CLIENTS_FAULT = {ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH}
SWITCHED = [kind for kind in ErrorKind if RULES[kind].on is not None]
ON = {
    ErrorKind.CONNECT: "connect",
    ErrorKind.TLS: "connect",
    ErrorKind.TIMEOUT: "timeout",
    ErrorKind.AUTH: "auth",
    ErrorKind.CREDITS: "credits",
    ErrorKind.RATE_LIMITED: "rate_limited",
    ErrorKind.SERVER_ERROR: "server_error",
    ErrorKind.COLD: "cold",
    ErrorKind.PROTOCOL: "protocol",
    ErrorKind.STREAM_ERROR: "protocol",
    ErrorKind.STREAM_CUT: "protocol",
}
HOPELESS = {ErrorKind.TLS, ErrorKind.AUTH, ErrorKind.CREDITS, ErrorKind.MODEL_MISSING}


def test_every_kind_of_fault_has_a_row() -> None:
    assert set(RULES) == set(ErrorKind)


def test_every_word_of_the_table_is_a_word_of_failover_on_and_the_other_way_round() -> None:
    assert {rule.on for rule in RULES.values()} - {None} == Failover().on


@pytest.mark.parametrize("kind", ErrorKind)
def test_only_the_clients_own_faults_are_never_asked_of_another_target(kind: ErrorKind) -> None:
    assert (judge(kind, Failover()) is Verdict.GIVE_UP) == (kind in CLIENTS_FAULT)


@pytest.mark.parametrize("kind", sorted(CLIENTS_FAULT))
def test_no_setting_makes_a_clients_fault_fail_over(kind: ErrorKind) -> None:
    everything = Failover(on=frozenset(map(str, ErrorKind)))
    assert judge(kind, everything) is Verdict.GIVE_UP


@pytest.mark.parametrize("kind", SWITCHED)
def test_a_kind_that_failover_on_does_not_name_gives_up(kind: ErrorKind) -> None:
    without = Failover(on=Failover().on - {ON[kind]})
    alone = Failover(on=frozenset({ON[kind]}))
    assert judge(kind, without) is Verdict.GIVE_UP
    assert judge(kind, alone) is not Verdict.GIVE_UP


def test_a_model_that_the_upstream_lacks_fails_over_whatever_is_named() -> None:
    assert judge(ErrorKind.MODEL_MISSING, Failover(on=frozenset())) is Verdict.FAIL_OVER


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind not in CLIENTS_FAULT])
def test_the_same_target_is_tried_again_only_where_that_can_help(kind: ErrorKind) -> None:
    assert judge(kind, Failover()) is (Verdict.FAIL_OVER if kind in HOPELESS else Verdict.RETRY)


def test_faults_that_do_not_heal_by_themselves_cool_the_endpoint_longest() -> None:
    cooled = {kind: rule.cooldown_s for kind, rule in RULES.items() if rule.cooldown_s}
    assert set(cooled) == {ErrorKind.AUTH, ErrorKind.CREDITS, ErrorKind.RATE_LIMITED}
    assert cooled[ErrorKind.CREDITS] > cooled[ErrorKind.AUTH] > cooled[ErrorKind.RATE_LIMITED]
