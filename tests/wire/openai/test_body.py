"""The request side of the OpenAI dialect: what is refused, what is changed, and that nothing else is."""

from __future__ import annotations

import json
import time
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.graph import Clamp, Params, SystemPrompt
from routerd.messages import ModelRequest
from routerd.wire.openai.body import apply_params, encode_body, max_tokens_of, parse_request, prepare_body, take_provider

NO_PARAMS = Params()
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def chat(body: bytes) -> ModelRequest:
    return parse_request(body, "chat", "chat/completions")


def chat_of(**fields: Any) -> ModelRequest:
    return chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def sent(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a target would read."""
    options: dict[str, Any] = {"model": "up", "extra": {}, "include_usage": False, **changes}
    result = json.loads(encode_body(body, **options))
    assert isinstance(result, dict)
    return result


def prepared(params: Params, **fields: Any) -> dict[str, Any]:
    return sent(prepare_body(chat_of(**fields), system_prompt=None, params=params))


def prompted(mode: str, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    body = prepare_body(chat_of(messages=list(messages)), system_prompt=SystemPrompt(text="OP", mode=mode), params=NO_PARAMS)
    result: list[dict[str, Any]] = sent(body)["messages"]
    return result


# --- parse ---------------------------------------------------------------------------------------------------------------------


def test_a_chat_request_yields_model_stream_and_raw_values() -> None:
    body = b'{"model":"gpt-4o", "messages": [ {"role":"user","content":"hi"} ],"stream":true}'
    request = chat(body)
    assert (request.model, request.stream, request.wants_usage, request.size_bytes) == ("gpt-4o", True, False, len(body))
    assert isinstance(request.body["messages"], msgspec.Raw)


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        (b"", None, "empty"),
        (b"  \n", None, "empty"),
        (b"hello", None, "not valid JSON"),
        (b'{"model":"m"', None, "not valid JSON"),
        (b'{"model":"m"} x', None, "not valid JSON"),
        (b"[]", None, "JSON object"),
        (b"null", None, "JSON object"),
        (b'"text"', None, "JSON object"),
        (b'{"model":"m","messages":[NaN]}', None, "not valid JSON"),
        (b'{"model":"m","messages":[1],"temperature":Infinity}', None, "not valid JSON"),
        (b'{"model":"m","messages":["\\ud800"]}', None, "surrogate"),
        (b'{"model":"m","messages":["\xff"]}', None, "UTF-8"),
        (b'{"model":"m","messages":["\xc3"]}', None, "UTF-8"),
        (b'{"\xff":1}', None, "UTF-8"),
        (b"{}", "model", "provide"),
        (b'{"model":null,"messages":[1]}', "model", "string"),
        (b'{"model":7,"messages":[1]}', "model", "string"),
        (b'{"model":["m"],"messages":[1]}', "model", "string"),
        (b'{"model":"","messages":[1]}', "model", "empty"),
        (b'{"model":"  ","messages":[1]}', "model", "empty"),
        (b'{"model":"a\\nb","messages":[1]}', "model", "control"),
        (b'{"model":"a\\u0000","messages":[1]}', "model", "control"),
        (b'{"model":"' + b"m" * 257 + b'","messages":[1]}', "model", "longer"),
        (b'{"model":"m"}', "messages", "provide"),
        (b'{"model":"m","messages":null}', "messages", "provide"),
        (b'{"model":"m","messages":"hi"}', "messages", "array"),
        (b'{"model":"m","messages":{"role":"user"}}', "messages", "array"),
        (b'{"model":"m","messages":[]}', "messages", "empty"),
        (b'{"model":"m","messages":[ \n\t ]}', "messages", "empty"),
        (b'{"model":"m","messages":[' + b" " * 5000 + b"]}", "messages", "empty"),
        (b'{"model":"m","messages":[1],"stream":"yes"}', "stream", "true or false"),
        (b'{"model":"m","messages":[1],"stream":1}', "stream", "true or false"),
        (b'{"model":"m","messages":[1],"stream_options":[]}', "stream_options", "object"),
        (b'{"model":"m","messages":[1],"stream_options":{"include_usage":"x"}}', "stream_options", "include_usage"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(body: bytes, param: str | None, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as caught:
        chat(body)
    assert caught.value.param == param


@pytest.mark.parametrize(("operation", "key"), [("embedding", "input"), ("completion", "prompt")])
def test_other_operations_need_their_own_content(operation: str, key: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(b'{"model":"m","messages":[1]}', operation, operation + "s")
    assert caught.value.param == key
    request = parse_request(json.dumps({"model": "m", key: "text"}).encode(), operation, operation + "s")
    assert request.operation == operation


def test_an_embedding_never_streams() -> None:
    assert parse_request(b'{"model":"m","input":"x","stream":true}', "embedding", "embeddings").stream is False


def test_null_means_not_set() -> None:
    request = chat_of(stream=None, stream_options=None)
    assert (request.stream, request.wants_usage) == (False, False)


def test_the_client_who_asked_for_usage_is_remembered() -> None:
    assert chat_of(stream_options={"include_usage": True}).wants_usage is True
    assert chat_of(stream_options={"include_usage": False, "x": 1}).wants_usage is False
    assert chat_of(stream_options={}).wants_usage is False


def test_a_bom_is_skipped() -> None:
    assert chat(b'\xef\xbb\xbf{"model":"m","messages":[1]}').model == "m"


def test_of_duplicate_keys_the_last_wins() -> None:
    request = chat(b'{"model":"a","messages":[1],"model":"b"}')
    assert request.model == "b"
    assert list(sent(request.body)) == ["model", "messages"]


def test_surrogate_pairs_and_utf8_reach_the_upstream_as_written() -> None:
    body = '{"model":"m","messages":[{"content":"\\ud83d\\ude00 é漢😀"}]}'.encode()
    assert encode_body(chat(body).body, model="m", extra={}, include_usage=False) == body


def test_utf8_is_checked_across_piece_borders() -> None:
    for shift in range(4):
        text = "a" * (256 * 1024 - 30 - shift) + "😀" * 20
        assert chat(json.dumps({"model": "m", "messages": [text]}, ensure_ascii=False).encode()).model == "m"


def test_huge_numbers_pass_through_unread() -> None:
    body = b'{"model":"m","messages":[1],"seed":' + b"9" * 5000 + b',"x":1e999,"y":-0.10}'
    assert encode_body(chat(body).body, model="m", extra={}, include_usage=False) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":' + b"[" * 10_000_000,
        b'{"model":"m","messages":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}",
        b'{"a":' * 2_000_000,
        b"[" * 10_000_000,
    ],
    ids=["open", "closed", "objects", "bare"],
)
def test_ten_megabytes_of_nesting_are_refused_at_once(body: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(BadRequest):
        chat(body)
    assert time.perf_counter() - start < 1.0


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_a_bad_request(body: bytes) -> None:
    for operation in ("chat", "completion", "embedding"):
        try:
            request = parse_request(body, operation, operation)
        except BadRequest:
            continue
        assert request.model


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["model", "messages", "stream", "stream_options", "temperature", "max_tokens", "top_p", "x"])
EVERYTHING = Params(
    defaults={"temperature": 0.5, "max_tokens": 10},
    clamp={"max_tokens": Clamp(max=100), "top_p": Clamp(min=0.1, max=0.9)},
    force={"seed": 7},
    drop=("x",),
)


@FUZZ
@given(
    st.dictionaries(KEYS, JSON, max_size=8),
    st.lists(st.dictionaries(st.sampled_from(["role", "content"]), JSON | st.just("system")), min_size=1, max_size=4),
    st.sampled_from(["prepend", "append", "replace", "if_missing"]),
)
def test_any_json_object_is_served_or_refused_never_a_crash(body: dict[str, Any], messages: list[Any], mode: str) -> None:
    body = {"model": "m", "messages": messages, **body}
    try:
        request = chat(json.dumps(body).encode())
        out = prepare_body(request, system_prompt=SystemPrompt(text="OP", mode=mode), params=EVERYTHING)
        result = sent(out, extra={"x": {"y": 1}}, include_usage=True)
    except BadRequest:
        return
    assert result["model"] == "up"
    assert result["x"] == {"y": 1}
    assert result["stream_options"]["include_usage"] is True
    assert result["seed"] == 7


@FUZZ
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_what_no_rule_touches_keeps_its_meaning(fields: dict[str, Any]) -> None:
    body = {**fields, "model": "m", "messages": [1], "stream": False, "stream_options": None}
    out = sent(prepare_body(chat(json.dumps(body).encode()), system_prompt=None, params=NO_PARAMS))
    assert out == {**body, "model": "up"}


# --- parameters ----------------------------------------------------------------------------------------------------------------


def test_untouched_values_keep_their_bytes() -> None:
    body = b'{"model":"m","messages":[ {"role" : "user","content":"\\u00e9"} ],"top_p":0.10,"x":{"b":1,  "a":2}}'
    out = encode_body(prepare_body(chat(body), system_prompt=None, params=NO_PARAMS), model="m", extra={}, include_usage=False)
    assert out == body


def test_defaults_fill_only_what_the_client_left_open() -> None:
    params = Params(defaults={"temperature": 0.6, "top_p": 0.9})
    out = prepared(params, temperature=0.0, top_p=None)
    assert (out["temperature"], out["top_p"]) == (0.0, 0.9)


def test_a_default_limit_is_not_set_beside_its_other_name() -> None:
    assert "max_tokens" not in prepared(Params(defaults={"max_tokens": 10}), max_completion_tokens=5)
    assert "max_completion_tokens" not in prepared(Params(defaults={"max_completion_tokens": 10}), max_tokens=5)


def test_clamps_bound_numbers_and_keep_their_type() -> None:
    params = Params(clamp={"temperature": Clamp(min=0.1, max=1.2), "max_tokens": Clamp(max=4096.0)})
    out = prepared(params, temperature=2, max_tokens=9999)
    assert (out["temperature"], out["max_tokens"]) == (1.2, 4096)
    assert isinstance(out["max_tokens"], int)
    assert prepared(params, temperature=-1.5)["temperature"] == 0.1
    assert "temperature" not in prepared(params)


def test_a_value_in_range_keeps_its_bytes() -> None:
    body = b'{"model":"m","messages":[1],"temperature":0.70}'
    out = prepare_body(chat(body), system_prompt=None, params=Params(clamp={"temperature": Clamp(min=0.0, max=1.0)}))
    assert encode_body(out, model="m", extra={}, include_usage=False) == body


def test_a_clamp_of_max_tokens_also_bounds_max_completion_tokens() -> None:
    params = Params(clamp={"max_tokens": Clamp(max=100)})
    assert prepared(params, max_completion_tokens=5000)["max_completion_tokens"] == 100


@pytest.mark.parametrize("value", ["1", True, [1], {"a": 1}])
def test_a_clamped_value_of_the_wrong_type_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        prepared(Params(clamp={"temperature": Clamp(max=1.0)}), temperature=value)
    assert caught.value.param == "temperature"


@pytest.mark.parametrize("number", [b"1e999", b"9" * 5000])
def test_a_clamped_number_out_of_all_range_is_refused(number: bytes) -> None:
    request = chat(b'{"model":"m","messages":[1],"top_p":' + number + b"}")
    with pytest.raises(BadRequest) as caught:
        prepare_body(request, system_prompt=None, params=Params(clamp={"top_p": Clamp(max=1.0)}))
    assert caught.value.param == "top_p"


def test_force_wins_and_drop_removes() -> None:
    out = prepared(Params(force={"seed": 7}, drop=("logit_bias",)), seed=1, logit_bias={"1": 2})
    assert out["seed"] == 7
    assert "logit_bias" not in out


def test_drop_comes_first_so_that_a_default_replaces_the_clients_value() -> None:
    assert prepared(Params(drop=("temperature",), defaults={"temperature": 0.3}), temperature=1.0)["temperature"] == 0.3


def test_force_is_not_clamped() -> None:
    assert prepared(Params(clamp={"top_p": Clamp(max=0.5)}, force={"top_p": 0.9}), top_p=0.1)["top_p"] == 0.9


def test_a_forced_limit_removes_its_other_name() -> None:
    out = prepared(Params(force={"max_tokens": 10}), max_completion_tokens=500)
    assert out["max_tokens"] == 10
    assert "max_completion_tokens" not in out


def test_a_targets_own_params_apply_after_the_routes() -> None:
    body = prepare_body(chat_of(), system_prompt=None, params=Params(defaults={"max_tokens": 5000}))
    out = apply_params(body, Params(clamp={"max_tokens": Clamp(max=100)}))
    assert sent(out)["max_tokens"] == 100
    assert sent(body)["max_tokens"] == 5000


def test_preparing_leaves_the_request_as_it_was() -> None:
    request = chat_of(seed=1)
    before = dict(request.body)
    prepare_body(request, system_prompt=SystemPrompt(text="OP"), params=Params(force={"seed": 2}))
    assert request.body == before


# --- system prompt -------------------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "mine"}
DEVELOPER = {"role": "developer", "content": "mine"}
OPERATOR = {"role": "system", "content": "OP"}


@pytest.mark.parametrize("mode", ["prepend", "append", "replace", "if_missing"])
def test_without_a_system_message_every_mode_puts_the_prompt_in_front(mode: str) -> None:
    assert prompted(mode, USER) == [OPERATOR, USER]


@pytest.mark.parametrize("own", [SYSTEM, DEVELOPER])
def test_each_mode_treats_the_clients_system_message_by_its_rule(own: dict[str, Any]) -> None:
    assert prompted("if_missing", own, USER) == [own, USER]
    assert prompted("replace", own, USER, own) == [OPERATOR, USER]
    assert prompted("prepend", own, USER) == [{**own, "content": "OP\n\nmine"}, USER]
    assert prompted("append", own, USER) == [{**own, "content": "mine\n\nOP"}, USER]


def test_prepend_joins_the_first_and_append_the_last_system_message() -> None:
    second = {"role": "system", "content": "two"}
    assert prompted("prepend", SYSTEM, USER, second)[0]["content"] == "OP\n\nmine"
    assert prompted("append", SYSTEM, USER, second)[2]["content"] == "two\n\nOP"


def test_a_prompt_joins_content_parts_as_a_part() -> None:
    part = {"type": "text", "text": "mine"}
    own = {"role": "system", "content": [part]}
    added = {"type": "text", "text": "OP"}
    assert prompted("prepend", own)[0]["content"] == [added, part]
    assert prompted("append", own)[0]["content"] == [part, added]


@pytest.mark.parametrize("content", [None, ""])
def test_an_empty_system_message_takes_the_prompt(content: str | None) -> None:
    assert prompted("append", {"role": "system", "content": content})[0]["content"] == "OP"


@pytest.mark.parametrize("messages", [["hi"], [{"content": "x"}], [{"role": 1}], [None]])
def test_messages_without_a_role_are_refused_where_a_prompt_must_be_placed(messages: list[Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        prepare_body(chat_of(messages=messages), system_prompt=SystemPrompt(text="OP"), params=NO_PARAMS)
    assert caught.value.param == "messages"


def test_other_messages_keep_their_bytes_beside_a_prompt() -> None:
    message = b'{"role":"user",  "content":"\\u00e9"}'
    request = chat(b'{"model":"m","messages":[' + message + b"]}")
    out = prepare_body(request, system_prompt=SystemPrompt(text="OP"), params=NO_PARAMS)
    assert message in encode_body(out, model="m", extra={}, include_usage=False)


def test_a_completion_has_no_place_for_a_system_prompt() -> None:
    request = parse_request(b'{"model":"m","prompt":"x"}', "completion", "completions")
    assert "messages" not in prepare_body(request, system_prompt=SystemPrompt(text="OP"), params=NO_PARAMS)


# --- encode --------------------------------------------------------------------------------------------------------------------


def test_the_providers_static_fields_merge_into_objects_and_win_at_leaves() -> None:
    request = chat_of(provider={"sort": "price", "data_collection": "allow"}, tag="client")
    extra = MappingProxyType({"provider": MappingProxyType({"data_collection": "deny"}), "tag": "operator", "new": (1, 2)})
    out = sent(request.body, extra=extra)
    assert out["provider"] == {"sort": "price", "data_collection": "deny"}
    assert (out["tag"], out["new"]) == ("operator", [1, 2])


def test_a_static_object_replaces_a_clients_scalar() -> None:
    assert sent(chat_of(provider="x").body, extra={"provider": {"a": 1}})["provider"] == {"a": 1}


def test_usage_is_asked_for_and_other_stream_options_are_kept() -> None:
    assert sent(chat_of().body, include_usage=True)["stream_options"] == {"include_usage": True}
    options = {"include_usage": False, "include_obfuscation": False}
    out = sent(chat_of(stream_options=options).body, include_usage=True)["stream_options"]
    assert out == {"include_usage": True, "include_obfuscation": False}


def test_encoding_for_one_target_leaves_no_trace_for_the_next() -> None:
    body = prepare_body(chat_of(provider={"a": 1}), system_prompt=None, params=NO_PARAMS)
    sent(body, extra={"provider": {"b": 2}, "portkey": 1}, include_usage=True)
    assert sent(body) == {"model": "up", "messages": [USER], "provider": {"a": 1}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", None),
        (',"max_tokens":7', 7),
        (',"max_completion_tokens":9', 9),
        (',"max_tokens":null', None),
        (',"max_tokens":"7"', None),
        (',"max_tokens":-7', None),
        (',"max_tokens":true', None),
        (',"max_tokens":' + "9" * 300, 10_000_000),
    ],
)
def test_the_reservation_is_what_the_answer_may_have(fields: str, expected: int | None) -> None:
    body = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}]{fields}}}'.encode()
    assert max_tokens_of(parse_request(body, "chat", "chat/completions").body) == expected


# ── a provider that the client names ──


def test_a_provider_named_by_a_string_is_taken_out_and_an_object_stays() -> None:
    named = parse_request(b'{"model":"m","messages":[{}],"provider":"pk"}', "chat", "chat/completions")
    assert take_provider(named) == "pk"
    assert "provider" not in named.body
    for value in (b'{"sort":"price"}', b"null", b"5", b"[]"):
        other = parse_request(b'{"model":"m","messages":[{}],"provider":' + value + b"}", "chat", "chat/completions")
        assert take_provider(other) is None
        assert bytes(other.body["provider"]) == value
