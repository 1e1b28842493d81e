"""Names and patterns: every name means one thing, and every pattern can be reached.

Aliases stand under a model or in `aliases:`, where one may name another. A pattern is unreachable when one of higher precedence
(more literal characters, then file order) matches all that it matches. Put a letter that no pattern has for each star of B: A
covers B exactly if A matches that. Then the literals of A are among those of B, and precedence says they are not fewer: so they
are the same in the same order, and only patterns with equal literals have to be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from routerd.config.compile.context import Build
from routerd.config.tree import Path
from routerd.graph import Client, Provider, Route

FRESH = "\ue000"  # a private-use character for "anything"; a name that really has it costs a finer check, nothing else


def compile_aliases(build: Build, routes: Mapping[str, Route]) -> dict[str, str]:
    """Return alias -> name of the route."""
    models = build.known("models")
    places: dict[str, Path] = {name: ("models", name) for name in models}
    out: dict[str, str] = {}
    for route in routes.values():
        for i, alias in enumerate(route.aliases):
            path: Path = ("models", route.name, "aliases", i)
            if route.pattern is not None:
                build.error(path, "bad-alias", "a pattern has no aliases", "write another pattern")
            elif _is_free(build, path, alias, places, at_key=False):
                out[alias] = route.name
    table = dict(build.entries("aliases"))
    for alias in table:
        _is_free(build, ("aliases", alias), alias, places, at_key=True)
    for alias, target in table.items():
        name = _follow(build, alias, target, table, out)
        if name is not None:
            out.setdefault(alias, name)
    return out


def _is_free(build: Build, path: Path, alias: str, places: dict[str, Path], *, at_key: bool) -> bool:
    if "*" in alias:
        build.error(path, "bad-alias", "an alias has no stars", "write a pattern under `models:`", at_key=at_key)
        return False
    if alias in places:
        first = places[alias]
        what = "a model" if len(first) == 2 and first[0] == "models" else "an alias"
        where = build.tree.place(first, at_key=len(first) == 2)
        shown = repr(alias) if at_key else build.tree.shown(path)
        build.error(path, "alias-collision", f"{shown} is already {what}, at {where}", "a name means one model", at_key=at_key)
        return False
    places[alias] = path
    return True


def _follow(build: Build, alias: str, target: str, table: Mapping[str, str], under: Mapping[str, str]) -> str | None:
    """Return the route that an entry of `aliases:` ends at; complain if it ends nowhere."""
    models, path, seen = build.known("models"), ("aliases", alias), {alias: None}
    while target not in models:
        if target in under and target not in table:
            return under[target]
        if target in seen:
            round_trip = list(seen)[list(seen).index(target) :]
            if alias == min(round_trip):  # told once, at its first name
                shown = round_trip if len(round_trip) <= 8 else [*round_trip[:8], "..."]
                circle = " -> ".join([*shown, target])
                build.error(path, "alias-cycle", f"these aliases go round in a circle: {circle}", "let one of them name a model")
            return None
        if target not in table:
            if len(seen) == 1:  # further down the chain it is the other entry's mistake
                _unknown_model(build, path, target, [*models, *table, *under])
            return None
        seen[target] = None
        target = table[target]
    if "*" in target:
        if len(seen) == 1:
            message = f"{build.tree.shown(path)} is a pattern; an alias names one model"
            build.error(path, "bad-alias", message, "declare the model")
        return None
    return target


def _unknown_model(build: Build, path: Path, name: str, known: Collection[str]) -> None:
    literal = build.tree.raw_text(path) is None
    hint = build.report.suggest(name, known) if literal else ""
    build.error(path, "unknown-model", f"unknown model {build.tree.shown(path)}", hint or "an alias names an entry of `models:`")


# ── patterns ──


def in_precedence(routes: Mapping[str, Route]) -> tuple[Route, ...]:
    """Return the pattern routes, the first that matches first."""
    found = [route for route in routes.values() if route.pattern is not None]
    return tuple(sorted(found, key=lambda route: -(route.pattern.literal_chars if route.pattern else 0)))


def check_reachable(build: Build, patterns: tuple[Route, ...], providers: Mapping[str, Provider]) -> None:
    """Complain about patterns that never get a request."""
    by_literals: dict[str, list[Route]] = {}
    for route in patterns:
        path: Path = ("models", route.name)
        earlier = by_literals.setdefault(route.name.replace("*", ""), [])
        sample = route.name.replace("*", FRESH)
        for other in earlier:
            if other.pattern is not None and other.pattern.match(sample) is not None:
                where = build.tree.place(("models", other.name), at_key=True)
                message = f"the pattern {route.name!r} is never reached: {other.name!r} at {where} takes all of it"
                build.error(path, "unreachable-pattern", message, "remove one of the two", at_key=True)
                break
        earlier.append(route)
        first, slash, _ = route.name.partition("/")
        if slash and first in providers and providers[first].direct:
            message = f"the pattern {route.name!r} is never reached: the provider {first!r} is `direct`"
            build.error(path, "unreachable-pattern", message, "remove the pattern, or `direct`", at_key=True)


def check_clients(build: Build, clients: Mapping[str, Client], names: Iterable[str], open_ended: Iterable[str]) -> None:
    """Warn about client patterns that allow nothing. `open_ended`: patterns of routes and of direct providers."""
    exact, patterns = frozenset(names), tuple(open_ended)
    for client in clients.values():
        for i, asked in enumerate(client.models):
            if asked.text in exact or any(overlap(asked.text, other) for other in patterns):
                continue
            if "*" in asked.text and any(asked.match(name) is not None for name in exact):
                continue
            path: Path = ("clients", client.name, "models", i)
            hint = build.report.suggest(asked.text, exact) if build.tree.raw_text(path) is None else ""
            build.warn(path, "unused-pattern", f"{build.tree.shown(path)} matches no model", hint)


def overlap(one: str, two: str) -> bool:
    """Whether some name matches both patterns. A walk over pairs of positions: at most len(one) * len(two) of them."""
    start = (0, False, 0, False)
    todo, seen = [start], {start}
    while todo:
        i, inside_i, j, inside_j = todo.pop()
        if _done(one, i, inside_i) and _done(two, j, inside_j):
            return True
        for a, next_a in _moves(one, i, inside_i):
            for b, next_b in _moves(two, j, inside_j):
                if _common(a, b):
                    state = (*next_a, *next_b)
                    if state not in seen:
                        seen.add(state)
                        todo.append(state)
    return False


def _done(text: str, at: int, inside: bool) -> bool:
    return at + inside == len(text)


def _moves(text: str, at: int, inside: bool) -> list[tuple[str, tuple[int, bool]]]:
    """Return the characters that can come next (`*`: any, `?`: any but a slash) with the position after each.

    `inside`: the star at `at` has matched a character already, so that it may match more or be over.
    """
    out: list[tuple[str, tuple[int, bool]]] = []
    if at < len(text) and text[at] == "*":
        out.append(("*" if at == len(text) - 1 else "?", (at, True)))
        if not inside:
            return out
        at += 1
        if at < len(text) and text[at] == "*":
            out.append(("*" if at == len(text) - 1 else "?", (at, True)))
            return out
    if at < len(text):
        out.append((text[at], (at + 1, False)))
    return out


def _common(a: str, b: str) -> bool:
    """Whether a character fits both moves."""
    if a == b or "*" in (a, b):
        return True
    if a == "?":
        return b != "/"
    return b == "?" and a != "/"


def check_found(build: Build, patterns: Sequence[Route], providers: Mapping[str, Provider]) -> None:
    """Warn of a provider whose models are looked for although no client can ask for them."""
    for name, provider in providers.items():
        if provider.discover is None or provider.direct:
            continue
        if not any(route.pattern is not None and overlap(route.pattern.text, f"{name}/*") for route in patterns):
            message = f"no client can ask for {name}/<id>: none of its models is listed"
            build.warn(("providers", name, "discover"), "unreachable", message, "say `direct: true` as well", at_key=True)
