"""The page at /ui: one file without a build step, and the policy under which a browser runs it.

The page asks this listener and nobody else. Its policy allows the one script and the one style that stand in it, by their hash
(CSP Level 3, section 2.3.1), so text from a configuration that got into the page could not run.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Mapping

__all__ = ["page"]


def page() -> tuple[str, Mapping[str, str]]:
    """Return the page and its headers."""
    text = importlib.resources.files("routerd.server.ui").joinpath("page.html").read_text(encoding="utf-8")
    policy = [
        "default-src 'none'",
        f"script-src {_hash(text, 'script')}",
        f"style-src {_hash(text, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {
        "content-security-policy": "; ".join(policy),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return text, headers


def _hash(text: str, element: str) -> str:
    """Return the source expression that allows the content of one inline element."""
    found = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    assert found is not None, f"the page has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
