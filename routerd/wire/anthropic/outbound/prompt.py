"""OpenAI's `messages` as Anthropic's `system` and `messages`.

Rules (the API's own, each a 400 otherwise): all system and developer messages become `system`, in order; turns of one role in
a row are one turn; the first turn is the user's; every tool result of a turn stands in the next user turn, before any text;
thinking blocks stand first in the assistant's turn, unchanged and with their signature; text blocks are not blank; tool ids match
`[a-zA-Z0-9_-]+`. `cache_control` on a part, a message or a tool call passes through.
Thinking comes back in `reasoning_details` (the form `answer` gives it out in) or in `thinking_blocks`; `reasoning_content` alone
has no signature, which the API demands, so it stays out, as in a conversation begun with another model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from routerd.errors import BadRequest

__all__ = ["DETAILS_FORMAT", "Prompt", "read_prompt", "tool_id"]

DETAILS_FORMAT = "anthropic-claude-v1"  # `format` of an entry of reasoning_details, as OpenRouter names it

_ID_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_DATA_URI = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Prompt(msgspec.Struct):
    """What the API wants. `open_loop_thinks`: False where the turn to be continued after tool results carries no thinking."""

    system: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    open_loop_thinks: bool = True
    dropped: tuple[str, ...] = ()  # what of the messages the API has no word for


def tool_id(value: Any) -> str:
    """Return an id the API accepts; equal ids stay equal."""
    return _ID_UNFIT.sub("_", value)[:256] if isinstance(value, str) and value else "call_0"


def read_prompt(messages: Any) -> Prompt:
    """Translate a decoded `messages`. Raises BadRequest naming the place."""
    if not isinstance(messages, list):
        raise BadRequest("`messages` must be an array.", param="messages")
    system: list[dict[str, Any]] = []
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for i, message in enumerate(messages):
        at = f"messages[{i}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("system", "developer"):
            system += _contents(message, at, text_only=True)
            continue
        if role == "user":
            speaker, blocks = "user", _contents(message, at)
        elif role == "tool":
            speaker, blocks = "user", [_tool_result(message, at)]
        elif role == "assistant":
            speaker, blocks = "assistant", _assistant(message, at)
        else:
            raise _bad(at, "needs a `role` of system, developer, user, assistant or tool")
        if not blocks:
            continue
        if turns and turns[-1][0] == speaker:
            turns[-1][1].extend(blocks)
        else:
            turns.append((speaker, blocks))
    if not turns:
        raise BadRequest("`messages` holds no text, image or tool result for the model.", param="messages")
    if turns[0][0] != "user":
        raise BadRequest("The first message after the system's must be the user's for this model.", param="messages")
    if turns[-1][0] == "assistant" and turns[-1][1][-1]["type"] == "text":  # a prefill: blanks at its end are a 400
        turns[-1][1][-1]["text"] = turns[-1][1][-1]["text"].rstrip()
    return Prompt(system, [_turn(*turn) for turn in turns], _open_loop_thinks(turns), tuple(_dropped(messages)))


def _dropped(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Name what was left out: names of speakers, and thinking without a signature."""
    if any(message.get("name") and message["role"] in ("user", "assistant") for message in messages):
        yield "messages.name"
    if any(message.get("audio") for message in messages):
        yield "messages.audio"
    for message in messages:
        if (message.get("reasoning_content") or message.get("reasoning")) and not any(_thinking(message, "")):
            yield "messages.reasoning_content"
            break


def _turn(role: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    first = "tool_result" if role == "user" else "thinking"
    if len(blocks) > 1:  # a stable sort: results first, thinking first, everything else in its order
        blocks.sort(key=lambda block: not block["type"].endswith(first))
    return {"role": role, "content": blocks}


def _open_loop_thinks(turns: list[tuple[str, list[dict[str, Any]]]]) -> bool:
    if len(turns) < 2 or turns[-1][0] != "user" or not any(b["type"] == "tool_result" for b in turns[-1][1]):
        return True
    return any(block["type"].endswith("thinking") for block in turns[-2][1])


def _bad(at: str, why: str) -> BadRequest:
    return BadRequest(f"`{at}` {why}.", param="messages")


def _contents(message: dict[str, Any], at: str, *, text_only: bool = False) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        blocks = [{"type": "text", "text": content}] if content.strip() else []
    elif isinstance(content, list):
        blocks = list(_parts(content, at, text_only))
    else:
        raise _bad(at, "has a `content` that is neither text nor an array")
    return _marked(blocks, message)


def _marked(blocks: list[dict[str, Any]], source: dict[str, Any]) -> list[dict[str, Any]]:
    """Pass a message's own cache mark on to its last block."""
    if blocks and isinstance(source.get("cache_control"), dict):
        blocks[-1].setdefault("cache_control", source["cache_control"])
    return blocks


def _parts(parts: list[Any], at: str, text_only: bool) -> Iterator[dict[str, Any]]:
    for k, part in enumerate(parts):
        where = f"{at}.content[{k}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "refusal"):
            text = part.get(kind)
            if not isinstance(text, str):
                raise _bad(where, f"has no `{kind}`")
            block = {"type": "text", "text": text} if text.strip() else None
        elif kind in ("image_url", "file") and not text_only:
            block = _image(part, where) if kind == "image_url" else _file(part, where)
        else:
            raise _bad(where, "is of a type that this model cannot take" if kind else "needs a `type`")
        if block is not None:
            yield from _marked([block], part)


def _image(part: dict[str, Any], at: str) -> dict[str, Any]:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise _bad(at, "has no `image_url.url`")
    if url[:5].lower() != "data:":
        return {"type": "image", "source": _url(url, at)}
    media_type, data = _data_uri(url, at)
    media_type = "image/jpeg" if media_type == "image/jpg" else media_type
    if media_type not in _IMAGE_TYPES:
        raise _bad(at, "must be a JPEG, PNG, GIF or WebP image for this model")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _file(part: dict[str, Any], at: str) -> dict[str, Any]:
    file = part.get("file")
    if not isinstance(file, dict):
        raise _bad(at, "has no `file`")
    data = file.get("file_data") or file.get("url")
    if not isinstance(data, str):
        raise _bad(at, "needs `file.file_data` for this model: file ids of another provider mean nothing to it")
    block: dict[str, Any] = {"type": "document"}
    if data[:5].lower() != "data:" and data[:8].lower().startswith(("http://", "https://")):
        block["source"] = _url(data, at)
    else:
        media_type, raw = _data_uri(data, at) if data[:5].lower() == "data:" else ("application/pdf", data)
        if media_type != "application/pdf":
            raise _bad(at, "must be a PDF for this model")
        block["source"] = {"type": "base64", "media_type": media_type, "data": raw}
    if isinstance(file.get("filename"), str) and file["filename"]:
        block["title"] = file["filename"][:500]
    return block


def _url(url: str, at: str) -> dict[str, str]:
    if not url[:8].lower().startswith(("http://", "https://")):
        raise _bad(at, "needs an http(s) URL or a data URI")
    return {"type": "url", "url": url}


def _data_uri(uri: str, at: str) -> tuple[str, str]:
    head = _DATA_URI.match(uri, 0, 300)
    if head is None or ";base64" not in head[2].lower():
        raise _bad(at, "needs a data URI in base64")
    return head[1].strip().lower(), "".join(uri[head.end() :].split())


def _tool_result(message: dict[str, Any], at: str) -> dict[str, Any]:
    if not isinstance(message.get("tool_call_id"), str):
        raise _bad(at, "needs a `tool_call_id`")
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": tool_id(message["tool_call_id"])}
    content = _contents({**message, "cache_control": None}, at)
    if content:
        block["content"] = content
    if isinstance(message.get("cache_control"), dict):
        block["cache_control"] = message["cache_control"]
    return block


def _assistant(message: dict[str, Any], at: str) -> list[dict[str, Any]]:
    blocks = list(_thinking(message, at))
    blocks += _contents(message, at, text_only=True)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        blocks.append({"type": "text", "text": refusal})
    calls = message.get("tool_calls")
    if calls is None:
        return blocks
    if not isinstance(calls, list):
        raise _bad(f"{at}.tool_calls", "must be an array")
    for k, call in enumerate(calls):
        where = f"{at}.tool_calls[{k}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _bad(where, "needs a `function` with a `name`")
        block = {
            "type": "tool_use",
            "id": tool_id(call.get("id")),
            "name": function["name"],
            "input": _input(function.get("arguments"), where),
        }
        blocks += _marked([block], call)
    return blocks


def _input(arguments: Any, at: str) -> Any:
    """Return the arguments as they were written: numbers of any length survive."""
    if arguments is None or isinstance(arguments, dict):
        return arguments or {}
    try:
        text = arguments.strip().encode() if isinstance(arguments, str) else b"0"
        if text:
            _decode_object(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _bad(at, "has `arguments` that are no JSON object") from None
    return msgspec.Raw(text or b"{}")


def _thinking(message: dict[str, Any], at: str) -> Iterator[dict[str, Any]]:
    blocks = message.get("thinking_blocks")
    if isinstance(blocks, list) and blocks:
        for block in blocks:
            if not isinstance(block, dict) or block.get("type") not in ("thinking", "redacted_thinking"):
                raise _bad(f"{at}.thinking_blocks", "holds something other than thinking")
            if block.get("data") or block.get("signature"):
                yield block
        return
    details = message.get("reasoning_details")
    for entry in details if isinstance(details, list) else ():
        if not isinstance(entry, dict) or entry.get("format") not in (DETAILS_FORMAT, None):
            continue  # another vendor's reasoning, unreadable here
        if entry.get("type") == "reasoning.text" and isinstance(entry.get("signature"), str) and entry["signature"]:
            text = entry.get("text")
            yield {"type": "thinking", "thinking": text if isinstance(text, str) else "", "signature": entry["signature"]}
        elif entry.get("type") == "reasoning.encrypted" and isinstance(entry.get("data"), str):
            yield {"type": "redacted_thinking", "data": entry["data"]}
