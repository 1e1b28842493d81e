"""Interpolation: Compose's syntax, types by place, and nothing from outside in any message."""

# ruff: noqa: E501  (a document is one line of the test, not a paragraph)

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from routerd.config import Loaded, render
from routerd.errors import ConfigError

LoadText = Callable[..., Loaded]
SECRET = "sk-very-secret-0123456789"


def description(load_text: LoadText, text: str, **environ: str) -> str:
    doc = f"version: 1\nproviders: {{demo: {{dialect: simulator}}}}\nmodels:\n  m:\n    chain: [demo/echo]\n    description: {text}\n"
    return load_text(doc, **environ).graph.routes["m"].description


@pytest.mark.parametrize(
    ("text", "value"),
    [("${A}", "a"), ("x${A}y${A}", "xaya"), ("${NONE:-d}", "d"), ("${NONE-d}", "d"), ("${EMPTY:-d}", "d"), ("x${EMPTY-d}", "x"),
     ("${NONE:-}x", "x"), ("${NONE:-${A}}", "a"), ("${NONE:-${NONE2:-deep}}", "deep"), ("$${A}", "${A}"), ("$$", "$"), ("5$ and $x", "5$ and $x"),
     ("${A:?no}", "a"), ("${A?no}", "a"), ("${NONE:-a-b:c}", "a-b:c"), ("${A_B1}", "c"), ("'${A}'", "a")],
)  # fmt: skip
def test_references_are_replaced_as_compose_does(load_text: LoadText, text: str, value: str) -> None:
    assert description(load_text, text, A="a", EMPTY="", A_B1="c") == value


def test_a_value_is_not_interpolated_again(load_text: LoadText) -> None:
    assert description(load_text, "${A}", A="${B} $$") == "${B} $$"


def test_a_value_cannot_change_the_structure(load_text: LoadText) -> None:
    assert description(load_text, "${A}", A="x\nchain: [evil/x]\n# ") == "x\nchain: [evil/x]\n# "


@pytest.mark.parametrize(
    "text", ["${NONE}", "${NONE:?}", "${EMPTY:?needed}", "${NONE?}", "${", "${A", "${}", "${1A}", "${A:+x}", "${A B}", "$A"]
)
def test_a_reference_that_has_no_value_is_an_error_with_its_place(problems_of: Callable[..., list[str]], text: str) -> None:
    doc = f"version: 1\nproviders: {{demo: {{dialect: simulator}}}}\nmodels: {{m: {{chain: [demo/echo], description: 'see: {text}'}}}}\n"
    if text == "$A":
        doc = doc.replace("see: ", "")
    place = "3:" + str(doc.splitlines()[2].index(text) + 1)
    assert problems_of(doc, A="a", EMPTY="")[0].startswith(place)


def test_keys_and_the_x_blocks_of_the_top_are_left_alone(load_text: LoadText) -> None:
    doc = "version: 1\nx-a: ${NONE}\nproviders: {demo: {dialect: simulator}}\nmodels: {'${A}': {chain: [demo/echo]}}\n"
    assert list(load_text(doc, A="a").graph.routes) == ["${A}"]


def test_an_anchored_value_in_an_x_block_is_replaced_where_it_is_used(load_text: LoadText) -> None:
    doc = "version: 1\nx-a: &a {description: '${A}'}\nproviders: {demo: {dialect: simulator}}\nmodels: {m: {<<: *a, chain: [demo/echo]}}\n"
    assert load_text(doc, A="hello").graph.routes["m"].description == "hello"


def test_a_value_takes_the_type_of_its_place(load_text: LoadText) -> None:
    doc = (
        "version: 1\nproviders: {demo: {dialect: simulator, direct: '${YES}'}}\nmodels:\n  m:\n    chain: [demo/echo]\n"
        "    params:\n      defaults:\n        seed: ${N}\n        user: '${N}'\n        stop: ${WORD}\n      clamp: {top_p: {max: '${N}'}}\n"
        "    retry: {attempts: '${N}'}\n"
    )
    graph = load_text(doc, YES="true", N="12", WORD="no").graph
    route = graph.routes["m"]
    assert graph.providers["demo"].direct is True
    assert route.params.defaults == {"seed": 12, "user": "12", "stop": "no"}
    assert route.params.clamp["top_p"].max == 12
    assert route.retry.attempts == 12


def test_a_credential_of_digits_stays_text(load_text: LoadText) -> None:
    doc = "version: 1\nproviders:\n  a:\n    base_url: http://a/v1\n    api_key: ${K}\n    direct: true\n"
    secret = load_text(doc, K="0123456789").graph.providers["a"].auth.secret
    assert secret is not None
    assert secret.reveal() == "0123456789"


PLACES = [
    "providers: {a: {base_url: '${S}', api_key: k}}",
    "providers: {a: {base_url: 'http://x/?${S}', api_key: k}}",
    "providers: {a: {base_url: 'http://a/v1', api_key: ' ${S}'}}",
    "providers: {a: {base_url: 'http://a/v1', dialect: '${S}'}}",
    "providers: {a: {base_url: 'http://a/v1', headers: {x: \"${S}\\n\"}}}",
    "providers: {a: {base_url: 'http://a/v1', budgets: ['${S}', '${S}']}}",
    "providers: {a: {endpoints: [{name: '${S}', url: 'http://a'}, {name: '${S}', url: 'http://b'}]}}",
    "models: {m: {chain: ['${S}']}}",
    "models: {m: {chain: ['${S}/x']}}",
    "models: {m: {chain: [{provider: '${S}', model: x}]}}",
    "models: {m: {chain: '${S}'}}",
    "models: {m: {chain: [a/b], system_prompt: {file: '${S}'}}}",
    "models: {m: {chain: [a/b], timeouts: {connect: '${S}'}}}",
    "models: {m: {chain: [a/b], retry: {attempts: '${S}'}}}",
    "models: {m: {chain: [a/b], aliases: ['${S}', '${S}']}}",
    "aliases: {a: '${S}'}",
    "clients: {a: {key: '${S}'}, b: {key: '${S}'}}",
    "clients: {a: {key_sha256: '${S}'}}",
    "clients: {a: {key: {file: '${S}'}}}",
    "cors: {origins: ['${S}']}",
    "limits: {request_body: '${S}'}",
    "include: ['${S}']",
    "include: '${S}'",
    "budgets: {b: {requests: '${S}', per: 1m}}",
    "response_headers: '${S}'",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_value_from_outside_is_in_no_error(load_text: LoadText, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"version: 1\n{place}\n", S=SECRET)
    error = caught.value
    for text in (str(error), repr(error), repr(error.problems), render(error.problems)):
        assert SECRET not in text


def test_credentials_are_in_no_repr(load_text: LoadText) -> None:
    doc = "version: 1\nproviders: {a: {base_url: 'http://a/v1', api_key: '${S}', headers: {x: '${S}'}, body: {x: '${S}'}, direct: true}}\n"
    doc += "clients: {c: {key: '${S}'}}\n"
    loaded = load_text(doc, S=SECRET)
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.origins)
    assert SECRET not in repr(loaded.graph)
    again = pickle.loads(pickle.dumps(loaded.graph))
    assert again == loaded.graph


def test_a_variable_that_is_not_utf8_is_an_error(problems_of: Callable[..., list[str]]) -> None:
    doc = "version: 1\nproviders: {a: {base_url: 'http://a/v1', api_key: '${K}', direct: true}}\n"
    assert "K is not UTF-8" in problems_of(doc, K="\udcff")[0]


# ── unresolved values ──


def test_what_has_no_value_hides_no_other_problem(problems_of: Callable[..., list[str]]) -> None:
    doc = """version: 1
providers:
  a: {base_url: 'http://${HOST}/v1', api_key: '${KEY}', budgets: [none]}
  b: {base_url: 'http://b/v1', api_key: {env: '${NAME}'}}
models:
  m: {chain: [a/x, nobody/x], timeouts: {connect: '${TIME}'}}
  n: {chain: ['${WHO}/x', b/x], chian: 1}
"""
    assert [found.rsplit(" ", 1)[0].split(" ", 1)[1] for found in problems_of(doc)] == [
        "unset-variable the environment variable HOST is not",
        "unset-variable the environment variable KEY is not",
        "unknown-budget unknown budget",
        "unset-variable the environment variable NAME is not",
        "unknown-provider unknown provider",
        "unset-variable the environment variable TIME is not",
        "unset-variable the environment variable WHO is not",
        "unknown-key unknown key",
    ]


@pytest.mark.parametrize(
    "place",
    [
        "providers: {a: {dialect: '${X}', base_url: 'http://a/v1', direct: true}}",
        "providers: {a: {base_url: 'http://a/v1', direct: true, headers: {x-key: '${X}'}}}",
        "providers: {a: {base_url: 'http://a/v1', api_key: '${X}', optional: true}}\nmodels: {m: {chain: [a/x]}}",
        "providers: {a: {endpoints: [{name: '${X}', url: 'http://a/v1'}]}}\nmodels: {m: {chain: [{provider: a, endpoint: e, model: x}]}}",
        "providers: {a: {base_url: 'http://a/v1'}}\nmodels: {m: {chain: [a/x], params: {clamp: {temperature: {min: 1, max: '${X}'}}}}}",
        "providers: {a: {base_url: 'http://a/v1', direct: true}}\nclients: {c: {key: '${X}'}}",
        "providers: {a: {base_url: 'http://a/v1', direct: true}}\nclients: {c: {key_sha256: '${X}'}}",
        "providers: {a: {base_url: 'http://a/v1', direct: true}}\nbudgets: {b: {requests: '${X}', per: 1m}}",
        "providers: {a: {base_url: 'http://a/v1', direct: true}}\nresponse_headers: '${X}'",
        "providers: {a: {base_url: 'http://a/v1'}}\nmodels: {m: {chain: '${X}'}}",
        "providers: {a: {base_url: 'http://a/v1'}}\nmodels: {m: {chain: [a/x], system_prompt: {file: '${X}'}}}",
    ],
)
def test_nothing_more_is_said_about_a_value_that_is_unknown(problems_of: Callable[..., list[str]], place: str) -> None:
    assert [found.split()[1] for found in problems_of(f"version: 1\n{place}\n")] == ["unset-variable"]
