"""OpenRouter: a starter with every model that its list names, or without the list when it cannot be had.

Source: openrouter.ai/docs/api-reference/list-available-models (`data[].id`, `name`, `pricing.prompt` and `completion`
in dollars a token, as text; -1 where it depends).
"""

from __future__ import annotations

import fnmatch
import json
import urllib.request
from collections.abc import Sequence
from typing import Any

__all__ = ["URL", "VARIABLE", "fetched", "from_openrouter"]

URL = "https://openrouter.ai/api/v1"
VARIABLE = "OPENROUTER_API_KEY"
TIMEOUT_S = 10.0
LARGEST_BYTES = 16 << 20


def fetched(url: str, key: str) -> list[dict[str, Any]]:
    """Return the list of models; OSError or ValueError when it cannot be had."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/models", headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        told = json.loads(answer.read(LARGEST_BYTES))
    listed = told.get("data") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no list of models")
    return [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]


def from_openrouter(listed: Sequence[dict[str, Any]], match: str) -> dict[str, Any]:
    """Return the document: the listed models that match, and all others as openrouter/<id>."""
    provider = {"preset": "openrouter", "api_key": f"${{{VARIABLE}:-}}", "optional": True, "direct": True}
    models = {}
    for one in listed:
        if fnmatch.fnmatchcase(one["id"], match) and "*" not in one["id"]:
            body: dict[str, Any] = {"description": str(one.get("name") or one["id"])}
            if price := _price(one.get("pricing")):
                body["price"] = price
            models[one["id"]] = body | {"chain": [f"openrouter/{one['id']}"]}
    return {"version": 1, "providers": {"openrouter": provider}, "models": models}


def _price(pricing: Any) -> dict[str, float]:
    """Return the price of a million tokens."""
    found: dict[str, float] = {}
    for ours, theirs in (("input_usd_per_mtok", "prompt"), ("output_usd_per_mtok", "completion")):
        try:
            cost = float(pricing[theirs])
        except (KeyError, TypeError, ValueError):
            return {}
        if not 0 <= cost < 1:
            return {}
        found[ours] = round(cost * 1e6, 6)
    return found
