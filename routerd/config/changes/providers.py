"""What changes of providers and their endpoints, and what becomes of connections, cooldowns and streams.

The matrix of the reload: health follows an endpoint's identity (URL and credential), connections its host, a stream the
generation that it began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from routerd.config.changes.leaves import Change, attached, by_name, differences, listed
from routerd.graph import Auth, Endpoint, Graph, Provider

_TOLD = ("name", "endpoints", "auth", "disabled", "direct", "budgets", "foreign_params")
_DIRECT_ONLY = ("timeouts", "retry", "failover")  # a target of a model carries its own
LEARNT_ANEW = "cooldown and load start anew"
LEARNT = f"endpoints: {LEARNT_ANEW}; connections are kept"
KEPT_10_MIN = "running streams finish; its cooldown is remembered for 10 minutes"


def diff_providers(old: Graph, new: Graph) -> Iterator[Change]:
    """Yield the changes of `providers:`. An equal difference of several providers is one sentence."""
    shared: dict[tuple[str, str], list[str]] = {}
    for name, before, after in by_name(old.providers, new.providers):
        path = f"providers.{name}"
        if before is None:
            yield Change(path=path, kind="added", text=f"adds provider {name} ({_count(after)})")
        elif after is None:
            text = f"drops provider {name} ({_count(before)})"
            yield Change(path=path, kind="removed", text=text, state=KEPT_10_MIN)
        elif before != after:
            yield from _changed(path, before, after)
            yield from _endpoints(path, before, after)
            skip = _TOLD if before.direct and after.direct else (*_TOLD, *_DIRECT_ONLY)
            for field, words in differences(before, after, skip):
                shared.setdefault((field, words), []).append(name)
    for (field, words), names in shared.items():
        path = f"providers.{names[0]}.{field}" if len(names) == 1 else "providers"
        yield Change(path=path, kind="changed", text=f"provider{'s'[: len(names) - 1]} {listed(names)}: {field} {words}")


def _changed(path: str, before: Provider, after: Provider) -> Iterator[Change]:
    name = after.name
    if before.disabled != after.disabled:
        text = f"is disabled: {after.disabled}" if after.disabled else "is used"
        yield Change(path=path, kind="changed", text=f"provider {name} {text}")
    if before.auth != after.auth:
        yield from _auth(path, name, before.auth, after.auth)
    if before.direct != after.direct:
        text = f"offers {name}/<any model>" if after.direct else f"drops {name}/<any model>: no client can name its models"
        yield Change(path=f"{path}.direct", kind="added" if after.direct else "removed", text=text)
    yield from attached(path, f"provider {name}", before.budgets, after.budgets)


def _auth(path: str, name: str, before: Auth, after: Auth) -> Iterator[Change]:
    if before.secret != after.secret:
        kind = "added" if before.secret is None else "removed" if after.secret is None else "changed"
        text = f"credential of provider {name} {kind}"
        yield Change(path=f"{path}.api_key", kind=kind, text=text, state=LEARNT)
    if before.oauth is not None and after.oauth is not None:
        for field, words in differences(before.oauth, after.oauth):
            yield Change(path=f"{path}.auth.{field}", kind="changed", text=f"provider {name}: auth.{field} {words}", state=LEARNT)
    for field, words in differences(before, after, ("secret", "prefix", "oauth")):
        yield Change(path=f"{path}.auth.{field}", kind="changed", text=f"provider {name}: auth.{field} {words}")
    if before.prefix != after.prefix:  # an operator may have put the credential there
        yield Change(path=f"{path}.auth.prefix", kind="changed", text=f"provider {name}: auth.prefix changed")


def _endpoints(path: str, before: Provider, after: Provider) -> Iterator[Change]:
    old = {endpoint.name: endpoint for endpoint in before.endpoints}
    new = {endpoint.name: endpoint for endpoint in after.endpoints}
    renamed = _renamed(old, new)
    for name, one, two in by_name(old, new):
        where = f"{path}.endpoints.{name}"
        if name in renamed:
            text = f"endpoint {name} is called {renamed[name]} now"
            yield Change(path=where, kind="changed", text=text, state="cooldown, load and connections are kept")
            yield from _details(where, old[name], new[renamed[name]])
        elif one is None:
            if name not in renamed.values():
                yield Change(path=where, kind="added", text=f"endpoint {name} added: {two.url}")
        elif two is None:
            yield Change(path=where, kind="removed", text=f"endpoint {name} removed", state=KEPT_10_MIN)
        else:
            yield from _details(where, one, two)


def _renamed(old: Mapping[str, Endpoint], new: Mapping[str, Endpoint]) -> dict[str, str]:
    """Return old name -> new name of endpoints that have nothing but another name."""
    gone = {endpoint.url: name for name, endpoint in old.items() if name not in new}
    return {gone.pop(one.url): name for name, one in new.items() if name not in old and one.url in gone}


def _details(path: str, before: Endpoint, after: Endpoint) -> Iterator[Change]:
    if before.url != after.url:
        text = f"endpoint {after.name}: {before.url} -> {after.url}"
        yield Change(path=f"{path}.url", kind="changed", text=text, state=f"{LEARNT_ANEW}; running streams finish")
    for field, words in differences(before, after, ("name", "provider", "url")):
        state = "connections are opened anew; running streams finish" if field.startswith("connections") else ""
        yield Change(path=f"{path}.{field}", kind="changed", text=f"endpoint {after.name}: {field} {words}", state=state)


def _count(provider: Provider) -> str:
    count = len(provider.endpoints)
    return f"{count} endpoint{'' if count == 1 else 's'}"
