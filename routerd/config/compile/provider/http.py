"""What may go to an upstream as URL or header, checked before a request fails on it.

Base URLs: http or https, a host, no user, query or fragment (RFC 3986 section 3). Header names are tokens, values have no control
characters (RFC 9110 section 5); headers that frame the message are not for a file to set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from routerd.config.compile.context import Build
from routerd.config.tree import Path

_URL = re.compile(r"(?i:(https?))://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_URL_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_FRAMING = frozenset({"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def base_url(build: Build, path: Path, text: str, *, whole: bool = False) -> str:
    """Return the URL without a slash at its end; complain if it is none to build on. `whole`: nothing is added to it."""
    wrong, hint = _url_fault(text, whole=whole)
    if wrong:
        build.error(path, "bad-url", wrong, hint)
    scheme, _, rest = text.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def api_url(build: Build, path: Path, text: str) -> str:
    """Return a base URL of OpenAI's API that no preset vouches for; warn where it ends at the host, as few of them do."""
    found = _URL.fullmatch(text)
    if found is not None and found.group(2) and not found.group(3):
        hint = f"write {text}/v1; or {text}/ if nothing is missing"
        build.warn(path, "no-path", "the base URL ends at the host; nearly all servers have OpenAI's API below /v1", hint)
    return base_url(build, path, text)


def _url_fault(text: str, *, whole: bool) -> tuple[str, str]:
    found = _URL.fullmatch(text)
    if found is None:
        return "a base URL begins with http:// or https://", "for example https://api.example.com/v1"
    _, authority, path, query, fragment = found.groups()
    if "@" in authority:
        return "a base URL must not hold a user or password", "use api_key and auth"
    host = _HOST.fullmatch(authority)
    if host is None or (host.group(1) and not 0 < int(host.group(1)) < 65536):
        hint = "" if authority.isascii() else "write the host in its ASCII form (xn--...)"
        return "the host or port of the base URL is not valid", hint
    if query or fragment:
        return "a base URL must not have a query or fragment", "for a credential use `auth: {type: query, name: ...}`"
    if not _URL_PATH.fullmatch(path):
        return "the path of the base URL has characters that need percent-encoding", ""
    if not whole and path.rstrip("/").endswith(("/chat/completions", "/completions", "/embeddings")):
        return "a base URL ends before the operation", "write it up to /v1; routerd adds /chat/completions"
    return "", ""


def headers(build: Build, path: Path, given: Mapping[str, str], auth_name: str) -> dict[str, str]:
    """Return the headers; complain about names, values and collisions. `auth_name`: the header of the credential, if any."""
    seen: dict[str, str] = {}
    for name, value in given.items():
        here = (*path, name)
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            build.error(here, "bad-header", f"{name!r} is not a header name", at_key=True)
        elif lower in _FRAMING:
            build.error(here, "bad-header", f"the header {name!r} cannot be set here", at_key=True)
        elif lower in seen:
            build.error(here, "bad-header", f"the header {name!r} is also given as {seen[lower]!r}", at_key=True)
        elif lower == auth_name.lower():
            build.error(here, "bad-header", f"the header {name!r} is set by api_key", "keep one of the two", at_key=True)
        if not _VALUE.fullmatch(value):
            what = "a line break" if re.search("[\r\n]", value) else "a character that is not printable ASCII"
            build.error(here, "bad-header", f"the value of {name!r} has {what}")
        seen[lower] = name
    return dict(given)


def token(build: Build, path: Path, name: str) -> None:
    """Complain about a header name that is none, or that is not free."""
    if not _TOKEN.fullmatch(name) or name.lower() in _FRAMING:
        build.error(path, "bad-header", f"{build.tree.shown(path)} cannot be the header of a credential")


def header_text(build: Build, path: Path, text: str) -> None:
    """Complain about a text that cannot stand in a header's value."""
    if not _VALUE.fullmatch(text):
        build.error(path, "bad-header", "the text has a character that a header cannot carry")


def origin(build: Build, path: Path, text: str) -> None:
    """Complain about a CORS origin that no browser sends."""
    if text != "*" and not _ORIGIN.fullmatch(text):
        hint = "without the slash at the end" if _ORIGIN.fullmatch(text.rstrip("/")) else "for example https://app.example, or *"
        build.error(path, "bad-origin", f"{build.tree.shown(path)} is not an origin", hint)
