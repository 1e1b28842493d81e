"""What providers document or were seen to send besides the recordings: each stream is read alike whole and at any split.

Every case names where its fact is from. `told` is what the client has at the end: text, thoughts, calls, finish.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.graph import Endpoint, Provider
from routerd.messages import Usage
from routerd.wire import Scan, make_dialect
from routerd.wire.anthropic import MessagesClient
from routerd.wire.anthropic.inbound.request import parse_messages
from routerd.wire.openai.relay_scan import DONE
from tests.wire.translated import call, facts, run


def scan_of(dialect: str, **more: Any) -> Scan:
    endpoint = Endpoint(name="p", provider="p", url="http://p")
    return make_dialect(Provider(name="p", dialect=dialect, endpoints=(endpoint,))).scan(call(stream=True, **more))


def sse(*events: Any, end: str = "\n") -> bytes:
    """Events as they go over the wire; a text stands for itself."""
    out = []
    for one in events:
        if isinstance(one, str):
            out.append(one)
        else:
            name = f"event: {one['type']}{end}" if isinstance(one.get("type"), str) else ""
            out.append(f"{name}data: {json.dumps(one)}{end}{end}")
    return "".join(out).encode()


def told(out: bytes) -> tuple[str, str, list[tuple[str, str]], str | None]:
    text, thoughts, finish = "", "", None
    calls: dict[int, list[str]] = {}
    for line in out.splitlines():
        payload = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not payload.startswith(b"{"):
            continue
        for choice in json.loads(payload).get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") if isinstance(delta.get("content"), str) else ""
            thoughts += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for one in delta.get("tool_calls") or ():
                at = calls.setdefault(one.get("index", len(calls)), ["", ""])
                at[0] += one["function"].get("name") or ""
                at[1] += one["function"].get("arguments") or ""
            finish = choice.get("finish_reason") or finish
    return text, thoughts, [(name, arguments) for name, arguments in calls.values()], finish


def read(dialect: str, body: bytes) -> tuple[Scan, bytes]:
    """Read a stream whole, byte by byte and in pieces; return what is the same."""
    scan = scan_of(dialect)
    out = run(scan, body)
    for size in (1, 3, 17):
        other = scan_of(dialect)
        assert run(other, body, size) == out
        assert facts(other) == facts(scan)
    return scan, out


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}],
        **more,
    }


HI, STOP, END = chunk({"content": "hi"}), chunk(finish="stop"), "data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
FILTER = {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}], "choices": [], "usage": None}

OPENAI: dict[str, tuple[bytes, str]] = {
    # openrouter.ai/docs/api-reference/streaming: comments while it waits
    "comments": (sse(": OPENROUTER PROCESSING\n\n", ": OPENROUTER PROCESSING\n\n", HI, STOP, END), "stop"),
    # api-docs.deepseek.com/quick_start/rate_limit: `: keep-alive` comments, blank lines
    "keep-alive": (sse("\n\n: keep-alive\n\n\n", HI, ": keep-alive\n\n", STOP, END), "stop"),
    # learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter: the first chunk has no choices
    "content filter first": (sse(FILTER, HI, STOP, END), "stop"),
    # console.groq.com/docs/api-reference: x_groq in the first and the last chunk
    "x_groq": (sse({**HI, "x_groq": {"id": "r"}}, {**STOP, "x_groq": {"usage": USAGE}, "usage": USAGE}, END), "stop"),
    # docs.together.ai: usage is null until the end, where it stands beside the choice
    "usage with the finish": (sse({**HI, "usage": None}, {**STOP, "usage": USAGE}, END), "stop"),
    # docs.vllm.ai: stop_reason beside finish_reason
    "stop_reason": (
        sse(HI, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 128009}]}, END),
        "stop",
    ),
    # github.com/sgl-project/sglang/issues/3912: "" in place of null
    "empty finish reasons": (sse(chunk({"role": "assistant"}, ""), chunk({"content": "hi"}, ""), STOP, END), "stop"),
    # api-docs.deepseek.com/api/create-chat-completion
    "a finish of its own": (sse(HI, chunk(finish="insufficient_system_resource"), END), "insufficient_system_resource"),
    # docs.x.ai: citations on the last chunk
    "citations": (sse(HI, {**STOP, "citations": ["https://x/y"]}, END), "stop"),
    "no end mark": (sse(HI, STOP), "stop"),
    "no last blank line": (sse(HI, STOP).rstrip(), "stop"),
    "CRLF": (sse(HI, STOP, end="\r\n") + b"data: [DONE]\r\n\r\n", "stop"),
    "CR": (sse(HI, STOP, end="\r") + b"data: [DONE]\r\r", "stop"),
    "no space, a BOM": (b"\xef\xbb\xbf" + sse(HI, STOP, END).replace(b"data: ", b"data:"), "stop"),
    "ids, retry, names": (sse("id: 1\nretry: 5\nevent: message\n", HI, STOP, END), "stop"),
}


@pytest.mark.parametrize("name", OPENAI)
def test_openai_like_streams_end_well_with_their_text(name: str) -> None:
    body, finish = OPENAI[name]
    scan, out = read("openai", body)
    assert (scan.content, scan.finished, scan.fault, scan.malformed) == (True, True, None, 0)
    assert told(out.replace(b"\xef\xbb\xbf", b"")) == ("hi", "", [], finish)


ERRORS: dict[str, bytes] = {
    # openrouter.ai/docs/api-reference/errors
    "a chunk with an error": sse(HI, chunk(finish="error", error={"code": "server_error", "message": "Provider disconnected"})),
    # docs.mistral.ai/api: finish_reason may be `error`
    "a finish of error": sse(HI, chunk(finish="error"), END),
    # console.groq.com
    "a named error": sse(HI, 'event: error\ndata: {"error":{"message":"no","status_code":400}}\n\n'),
    # github.com/vllm-project/vllm before 0.10: the error's fields at the top
    "flat": sse(HI, 'data: {"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}\n\n', END),
    "text": sse(HI, 'data: {"error":"no"}\n\n', END),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_inside_an_openai_like_stream_is_its_fault(name: str) -> None:
    scan, out = read("openai", ERRORS[name])
    assert scan.fault is not None
    assert scan.fault.error
    assert (told(out)[0], scan.finished) == ("hi", False)


def test_a_late_engine_is_not_taken_for_one_that_said_something() -> None:
    scan = scan_of("openai")
    scan.feed(sse(FILTER, chunk({"role": "assistant", "content": ""}, ""), ": ping\n\n"))
    assert (scan.content, scan.finished) == (False, False)


# ── Anthropic ── platform.claude.com/docs/en/build-with-claude/streaming, /handling-stop-reasons, /agents-and-tools/tool-use

ANT_START: Any = {"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 3}}}
PING: Any = {"type": "ping"}
ANT_STOP: Any = {"type": "message_stop"}


def block(index: int, opening: Any, *deltas: Any) -> list[Any]:
    start = {"type": "content_block_start", "index": index, "content_block": opening}
    middle = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [start, *middle, {"type": "content_block_stop", "index": index}]


def ant_end(reason: str = "end_turn", **usage: Any) -> Any:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 2, **usage},
    }


TEXT = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
THINK = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "hm"},
    {"type": "signature_delta", "signature": "S"},
)
TOOL = block(
    2, {"type": "tool_use", "id": "t", "name": "f", "input": {}}, {"type": "input_json_delta", "partial_json": '{"a":1}'}
)
SEARCH = [
    *block(
        1,
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"query":"x"}'},
    ),
    *block(2, {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u"}]}),
    *block(3, {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"type": "code_execution_result"}}),
    *block(4, {"type": "mcp_tool_use", "id": "m", "name": "n", "server_name": "s", "input": {}}),
]
CITED = block(
    0,
    {"type": "text", "text": "", "citations": []},
    {"type": "text_delta", "text": "hi"},
    {"type": "citations_delta", "citation": {"type": "web_search_result_location", "url": "u", "cited_text": "c"}},
)
REDACTED = block(1, {"type": "redacted_thinking", "data": "Eo"})
NEWER: Any = {"type": "something_new", "index": [1], "delta": "x"}

ANTHROPIC: dict[str, tuple[list[Any], tuple[Any, ...]]] = {
    "pings anywhere": ([PING, ANT_START, PING, *TEXT, PING, ant_end(), PING, ANT_STOP], ("hi", "", [], "stop")),
    "server tools": ([ANT_START, *SEARCH, *TEXT, ant_end(), ANT_STOP], ("hi", "", [], "stop")),
    "citations": ([ANT_START, *CITED, ant_end(), ANT_STOP], ("hi", "", [], "stop")),
    "thoughts, redacted ones, a call": (
        [ANT_START, *THINK, *REDACTED, *TOOL, ant_end("tool_use"), ANT_STOP],
        ("", "hm", [("f", '{"a":1}')], "tool_calls"),
    ),
    "a paused turn": ([ANT_START, *TEXT, ant_end("pause_turn"), ANT_STOP], ("hi", "", [], "stop")),
    "a refusal": ([ANT_START, *TEXT, ant_end("refusal"), ANT_STOP], ("hi", "", [], "content_filter")),
    "a full window": ([ANT_START, *TEXT, ant_end("model_context_window_exceeded"), ANT_STOP], ("hi", "", [], "length")),
    "a reason of tomorrow": ([ANT_START, *TEXT, ant_end("compaction"), ANT_STOP], ("hi", "", [], "stop")),
    "events of tomorrow": ([ANT_START, NEWER, *TEXT, NEWER, ant_end(), ANT_STOP], ("hi", "", [], "stop")),
    "no end": ([ANT_START, *TEXT, ant_end()], ("hi", "", [], "stop")),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropic_streams(name: str, end: str) -> None:
    events, expected = ANTHROPIC[name]
    scan, out = read("anthropic", sse(*events, end=end))
    assert told(out) == expected
    assert (scan.finished, scan.fault, scan.malformed, scan.usage) == (True, None, 0, Usage(input_tokens=3, output_tokens=2))
    assert (b'"citations":[{"index":0,"type":"web_search_result_location"' in out) == (name == "citations")


def test_anthropic_usage_of_caches_is_part_of_the_prompt_and_never_added_up() -> None:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 5},
    }
    start = {"type": "message_start", "message": {"id": "m", "usage": usage}}
    scan, _ = read("anthropic", sse(start, *TEXT, ant_end(**usage, server_tool_use={"web_search_requests": 1}), ANT_STOP))
    assert scan.usage == Usage(input_tokens=15, output_tokens=2, cached_tokens=7)


def test_an_anthropic_error_mid_stream_is_a_fault() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    scan, out = read("anthropic", sse(ANT_START, *TEXT[:2], error, ANT_STOP))
    assert scan.fault is not None
    assert (scan.fault.error, told(out)[0], scan.finished) == (error["error"], "hi", False)


# ── Gemini ── ai.google.dev/api/generate-content


def gem(*parts: Any, finish: str | None = None, **more: Any) -> Any:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {"candidates": [{**candidate, **({"finishReason": finish} if finish else {})}], **more}


HEY = {"text": "hi"}
COUNTS = {"promptTokenCount": 3, "candidatesTokenCount": 2, "toolUsePromptTokenCount": 4, "thoughtsTokenCount": 5}
RAN = ({"executableCode": {"language": "PYTHON", "code": "1"}}, {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}})
GROUNDED = {"groundingMetadata": {"webSearchQueries": ["x"]}, "citationMetadata": {}, "safetyRatings": [], "avgLogprobs": -0.5}
F: Any = {"functionCall": {"name": "f", "args": {"a": 1}}}

GEMINI: dict[str, tuple[list[Any], tuple[Any, ...]]] = {
    "thoughts with a signature": (
        [gem({"text": "hm", "thought": True}), gem({"text": "hi", "thoughtSignature": "S"}, finish="STOP")],
        ("hi", "hm", [], "stop"),
    ),
    "code that ran": ([gem(*RAN), gem(HEY, finish="STOP")], ("hi", "", [], "stop")),
    "parallel calls without ids, over events": (
        [gem(F, F), gem(F), gem(finish="STOP")],
        ("", "", [("f", '{"a":1}')] * 3, "tool_calls"),
    ),
    "grounding": ([{"candidates": [{**gem(HEY, finish="STOP")["candidates"][0], **GROUNDED}]}], ("hi", "", [], "stop")),
    "a finish on every event": (
        [gem(HEY, finish="STOP"), gem(HEY, finish="STOP"), gem(finish="MAX_TOKENS")],
        ("hihi", "", [], "length"),
    ),
    "no content": ([gem(HEY), {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}]}], ("hi", "", [], "stop")),
    "no index": (
        [{"candidates": [{"content": {"parts": [HEY]}}]}, {"candidates": [{"finishReason": "STOP"}]}],
        ("hi", "", [], "stop"),
    ),
    "a blocked prompt": ([{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}], ("", "", [], "content_filter")),
    "null for what is not there": (
        [gem({"text": "hi", "thought": None, "functionCall": None}, finish="STOP")],
        ("hi", "", [], "stop"),
    ),
    "a name of no text": (
        [gem({"functionCall": {"name": None, "args": None}}, finish="STOP")],
        ("", "", [("", "{}")], "tool_calls"),
    ),
}


@pytest.mark.parametrize("framing", ["\n", "\r\n", "array", "pretty", "row"])
@pytest.mark.parametrize("name", GEMINI)
def test_gemini_streams(name: str, framing: str) -> None:
    events, expected = GEMINI[name]
    events = [*events[:-1], {**events[-1], "usageMetadata": COUNTS}]
    body = {
        "array": b"[" + b"\n,\r\n".join(json.dumps(one).encode() for one in events) + b"]\n",
        "pretty": json.dumps(events, indent=2).encode(),
        "row": b"\n".join(json.dumps(one, indent=2).encode() for one in events),
    }.get(framing) or sse(*events, end=framing)
    scan, out = read("gemini", body)
    assert told(out) == expected
    assert (scan.done, scan.fault, scan.malformed) == (True, None, 0)
    assert scan.usage == Usage(input_tokens=7, output_tokens=7, reasoning_tokens=5)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        (reason, "content_filter")
        for reason in (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
        )
    ]
    + [
        (reason, "stop")
        for reason in (
            "STOP",
            "OTHER",
            "MALFORMED_FUNCTION_CALL",
            "UNEXPECTED_TOOL_CALL",
            "TOO_MANY_TOOL_CALLS",
            "NO_IMAGE",
            "MISSING_THOUGHT_SIGNATURE",
            "IMAGE_OTHER",
            "NEW",
        )
    ]
    + [("MAX_TOKENS", "length")],
)
def test_geminis_finish_reasons(reason: str, finish: str) -> None:
    assert told(read("gemini", sse(gem(HEY, finish=reason)))[1])[3] == finish


def test_an_error_in_a_gemini_stream_of_either_framing_is_a_fault() -> None:
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    for body in (
        sse(gem(HEY), error),
        json.dumps([gem(HEY), error]).encode(),
        json.dumps([error]).encode(),
        sse([error] and error),
    ):
        scan, _ = read("gemini", body)
        assert scan.fault is not None
        assert scan.fault.error == error["error"]


# ── Ollama ── github.com/ollama/ollama docs/api.md, api/types.go


def line(message: Any = None, done: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "created_at": "2025-01-01T00:00:00.5Z",
        "message": message or {"role": "assistant", "content": ""},
        "done": done,
        **more,
    }


OLLAMA_END = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2, total_duration=10**10)
OLLAMA: dict[str, tuple[list[Any], tuple[Any, ...]]] = {
    "thoughts": ([line({"content": "", "thinking": "hm"}), line({"content": "hi"}), OLLAMA_END], ("hi", "hm", [], "stop")),
    "calls": (
        [
            line({"content": "", "tool_calls": [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]}),
            OLLAMA_END,
        ],
        ("", "", [("f", '{"a":1}')], "tool_calls"),
    ),
    "arguments as text": (
        [line({"content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]}), OLLAMA_END],
        ("", "", [("f", '{"a":1}')], "tool_calls"),
    ),
    "cut off": ([line({"content": "hi"}), {**OLLAMA_END, "done_reason": "length"}], ("hi", "", [], "length")),
    "no reason": ([line({"content": "hi"}), {**OLLAMA_END, "done_reason": ""}], ("hi", "", [], "stop")),
    "the model was loaded": ([{**OLLAMA_END, "done_reason": "load"}], ("", "", [], "stop")),
    "log probabilities": (
        [line({"content": "hi"}, logprobs=[{"token": "hi", "logprob": -0.1, "bytes": [104, 105]}]), OLLAMA_END],
        ("hi", "", [], "stop"),
    ),
    "a remote model": ([line({"content": "hi"}, remote_model="r", remote_host="h"), OLLAMA_END], ("hi", "", [], "stop")),
    "api/generate": (
        [
            {"model": "m", "response": "hi", "done": False},
            {"response": "", "done": True, "prompt_eval_count": 3, "eval_count": 2},
        ],
        ("hi", "", [], "stop"),
    ),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("name", OLLAMA)
def test_ollama_streams(name: str, end: str) -> None:
    events, expected = OLLAMA[name]
    for last in (end, ""):
        scan, out = read("ollama", (end.join(map(json.dumps, events)) + last).encode())
        assert told(out) == expected
        assert (scan.done, scan.fault, scan.malformed, scan.usage) == (True, None, 0, Usage(input_tokens=3, output_tokens=2))


# ── the same, said to a Messages client ──


def messages(body: bytes, size: int | None = None) -> tuple[list[Any], Scan]:
    asked = parse_messages(b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"x"}]}')
    client = MessagesClient()
    scan = client.scan(scan_of("openai", wants_usage=True), asked)
    out = run(scan, body, size)
    if scan.finished and not scan.done:
        out += client.own(scan, DONE)
    return [json.loads(one.partition(b"\ndata: ")[2]) for one in out.split(b"\n\n") if one], scan


def said(events: list[Any]) -> tuple[list[Any], str | None]:
    blocks: list[Any] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append([event["content_block"]["type"], event["content_block"].get("name", ""), ""])
        elif event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
            blocks[event["index"]][2] += next(
                event["delta"][k] for k in ("text", "thinking", "partial_json") if k in event["delta"]
            )
    return blocks, next((e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta"), None)


def tool(index: int | None, name: str | None, arguments: str | None, call_id: str | None) -> Any:
    place = {} if index is None else {"index": index}
    return chunk(
        {"tool_calls": [{**place, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}]}
    )


A, B = '{"a":1}', '{"b":2}'
TWO = [["tool_use", "f", A], ["tool_use", "g", B]]
MESSAGES: dict[str, tuple[list[Any], list[Any], str]] = {
    # github.com/noho/dayu-agent/issues/82: Gemini's OpenAI form has whole calls without a number, or all with number 0
    "calls without a number": ([tool(None, "f", A, "1"), tool(None, "g", B, "2"), STOP], TWO, "tool_use"),
    "calls that are all number 0": ([tool(0, "f", A, "1"), tool(0, "g", B, "2"), STOP], TWO, "tool_use"),
    "no ids": ([tool(0, "f", A, None), tool(1, "g", B, None), chunk(finish="tool_calls")], TWO, "tool_use"),
    # vLLM before 0.9 gave each piece an id of its own
    "an id a piece": ([tool(0, "f", "", "1"), tool(0, None, '{"a":', "2"), tool(0, None, "1}", "3"), STOP], TWO[:1], "tool_use"),
    "null arguments": ([tool(0, "f", None, "1"), tool(0, None, A, None), STOP], TWO[:1], "tool_use"),
    # docs.mistral.ai/capabilities/reasoning: content is a list of parts
    "parts": (
        [
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
            chunk({"content": [{"type": "text", "text": "hi"}, {"type": "reference", "reference_ids": [1]}]}),
            STOP,
        ],
        [["thinking", "", "hm"], ["text", "", "hi"]],
        "end_turn",
    ),
    "reasoning by two names": (
        [chunk({"reasoning": "hm", "reasoning_content": "hm"}), HI, STOP],
        [["thinking", "", "hm"], ["text", "", "hi"]],
        "end_turn",
    ),
    "empty finish reasons": (
        [chunk({"content": "hi"}, ""), chunk({"content": "!"}, ""), STOP],
        [["text", "", "hi!"]],
        "end_turn",
    ),
    "no room": ([HI, chunk(finish="length")], [["text", "", "hi"]], "max_tokens"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_openai_like_streams_for_a_messages_client(name: str) -> None:
    events, blocks, stop = MESSAGES[name]
    for body in (sse(*events, END), sse(*events)):
        found, scan = messages(body)
        assert said(found) == (blocks, stop)
        assert scan.fault is None
        assert messages(body, 1)[0] == found


# ── any stream made of these ──

WORDS: dict[str, list[bytes]] = {
    "openai": [
        sse(one)
        for body in (HI, STOP, FILTER, tool(None, "f", A, "1"), chunk({"content": [{"type": "text", "text": "x"}]}, ""))
        for one in [body]
    ]
    + [b": ping\n\n", b"\n", END.encode(), b"data: {oops\n\n", *[one.partition(b"\n\n")[2] for one in ERRORS.values()]],
    "anthropic": [sse(one) for events, _ in ANTHROPIC.values() for one in events] + [b": c\n\n", b"data: {oops\n\n"],
    "gemini": [sse(one, end=end) for events, _ in GEMINI.values() for one in events for end in ("\n", "\r\n")]
    + [b"data: {oops\r\n\r\n"],
    "ollama": [json.dumps(one).encode() + b"\n" for events, _ in OLLAMA.values() for one in events] + [b"{oops\n", b"\r\n"],
}


@pytest.mark.parametrize("dialect", WORDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_stream_of_documented_events_is_the_same_cut_anywhere(dialect: str, data: st.DataObject) -> None:
    body = b"".join(data.draw(st.lists(st.sampled_from(WORDS[dialect]), max_size=12)))
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body)))]  # a cut stream
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=6)))
    whole, parts = scan_of(dialect, wants_usage=True), scan_of(dialect, wants_usage=True)
    out = run(whole, body)
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert b"".join([*map(parts.feed, pieces), parts.close()]) == out
    assert facts(parts) == facts(whole)
    if dialect == "openai":
        asked, again = messages(body), messages(body, 5)
        assert asked[0] == again[0]
