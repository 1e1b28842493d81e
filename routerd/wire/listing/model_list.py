"""Lists of models in every shape that providers answer with: ids, which of them chat, and how the next page is asked for.

The list stands in `data` (OpenAI and most others; llama.cpp gives `models` as well), in `models` (Gemini, Ollama), or is the
whole answer (Together). A model is named by `id`, `model` or `name`; Gemini's `models/` in front is no part of its name. All else
may be missing. Pages: Anthropic's `has_more` and `last_id`, Gemini's `nextPageToken`, Cohere's `next_page_token`, and a `page=1`
in the configured path (one with fewer than `per_page` is the last).
Whether a model chats is told from what the list says of it, else from its name; in doubt it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec

__all__ = ["Listed", "Page", "list_path", "next_path", "read_page"]

MAX_ID_CHARS = 256  # what a client may ask for is no longer
# The largest pages that each takes: Anthropic's API reference (List Models), Gemini's (models.list), Cohere's.
_PATHS = {
    "anthropic": "v1/models?limit=1000", "gemini": "models?pageSize=1000", "ollama": "api/tags",
    "cohere": "v1/models?page_size=1000",
}  # fmt: skip
_CHAT_TYPES = frozenset({"chat", "text", "llm", "vlm", "model", "text-generation", "image-text-to-text", "conversational"})
_OTHER_TYPES = frozenset(
    {
        "embedding", "embeddings", "image", "audio", "rerank", "reranker", "moderation", "asr", "tts", "video", "upscale",
        "inpaint", "transcribe", "transcription", "language", "code", "music", "text-to-image", "text-to-speech", "text-to-video",
        "automatic-speech-recognition", "feature-extraction", "sentence-similarity", "fill-mask", "text-classification",
    }
)  # fmt: skip
_OTHER_NAMES = re.compile(
    r"(?:^|[/_.:@-])(?:[a-z0-9]*embed(?:ding|dings|qa)?|whisper[a-z]*|tts|transcribe|transcription|dall-?e|moderation|reranker?|realtime|"
    r"sora|imagen|veo|lyria|aqa|babbage|davinci|bge|minilm|e5|gte|stable-diffusion|sdxl|flux|gpt-image|chatgpt-image|gpt-audio|"
    r"gpt-3\.5-turbo-instruct|speech|ocr)(?=$|[/_.:@0-9-])",
    re.IGNORECASE,
)


class Listed(NamedTuple):
    """One model of a list."""

    id: str
    chats: bool


class Page(NamedTuple):
    """One answer. `more`: query parameters of the next page; empty: none is told of. `rows`: how many entries it had."""

    models: tuple[Listed, ...]
    more: Mapping[str, str]
    rows: int = 0


def list_path(dialect: str, offers: Mapping[str, str]) -> str:
    """Return where the list is, below the base URL."""
    return offers.get("model") or _PATHS.get(dialect, "models")


def next_path(path: str, page: Page) -> str:
    """Return the path of the page after `page`, which came from `path`; empty: there is none."""
    where, _, query = path.partition("?")
    asked = dict(parse_qsl(query))
    if page.more:
        asked.update(page.more)
    elif asked.get("page", "").isdecimal() and page.models and page.rows >= _number(asked.get("per_page", "")):
        asked["page"] = str(int(asked["page"]) + 1)
    else:
        return ""
    return f"{where}?{urlencode(asked)}"


def read_page(body: bytes) -> Page:
    """Read one answer. Raises ValueError: it is no list of models."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("the answer is not JSON") from exc
    fields: Mapping[str, Any] = answer if isinstance(answer, dict) else {"data": answer}
    rows = next((rows for key in ("data", "models") if isinstance(rows := fields.get(key), list)), None)
    if rows is None:
        raise ValueError("the answer holds no list of models")
    return Page(tuple(dict.fromkeys(_models(rows))), _more(fields), len(rows))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _models(rows: list[Any]) -> Iterator[Listed]:
    for row in rows:
        model: Mapping[str, Any] = row if isinstance(row, dict) else {"id": row}
        name = next((text for key in ("id", "model", "name") if isinstance(text := model.get(key), str) and text), "")
        name = name.removeprefix("models/")
        if 0 < len(name) <= MAX_ID_CHARS and name.isprintable():
            yield Listed(name, _chats(model, name))


def _more(fields: Mapping[str, Any]) -> Mapping[str, str]:
    last = fields.get("last_id")
    if fields.get("has_more") is True and isinstance(last, str) and last:
        return {"after_id": last}
    for told, asked in (("nextPageToken", "pageToken"), ("next_page_token", "page_token")):
        token = fields.get(told)
        if isinstance(token, str) and token:
            return {asked: token}
    return {}


def _chats(model: Mapping[str, Any], name: str) -> bool:
    """Tell whether a model answers chat requests, by the first of these that says something."""
    for said in _statements(model):
        if said is not None:
            return said
    return _OTHER_NAMES.search(name) is None


def _statements(model: Mapping[str, Any]) -> Iterator[bool | None]:
    capabilities = model.get("capabilities")
    yield _holds(model.get("supportedGenerationMethods"), "generateContent")  # Gemini
    yield _holds(model.get("endpoints"), "chat")  # Cohere
    yield _holds(capabilities, "completion", "chat")  # llama.cpp, Ollama
    if isinstance(capabilities, dict) and isinstance(capabilities.get("completion_chat"), bool):  # Mistral
        yield capabilities["completion_chat"]
    architecture, details = model.get("architecture"), model.get("details")
    if isinstance(architecture, dict):  # OpenRouter
        yield _holds(architecture.get("output_modalities"), "text")
    if isinstance(details, dict) and "bert" in str(details.get("family", "")):  # Ollama
        yield False
    for key in ("type", "task", "pipeline_tag"):  # Together, Venice, LM Studio; DeepInfra; model cards
        kind = str(model.get(key, "")).lower()
        if kind in _OTHER_TYPES:
            yield False
        elif kind in _CHAT_TYPES and kind != "model":
            yield True


def _holds(values: Any, *wanted: str) -> bool | None:
    """Tell whether a list holds one of these texts; None: it is no list, or an empty one."""
    return any(value in wanted for value in values) if isinstance(values, list) and values else None
