"""Where the stages of a load put what they find: every Problem, with its place, source line and hint, and never a secret.

What a variable was replaced by must not be told. Messages quote the file's own text for such values (`Tree.shown`); as a second
line of defence, whatever came from the environment is taken out of messages and hints here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from routerd.config.tree import Origin, Path, Tree, path_text
from routerd.errors import Problem

# Shorter values are words like `8` or `yes`: replacing them would garble a message and protect nothing.
SCRUB_MIN_CHARS = 4
# So many problems are enough to show: a broken file of 10 MB must not make a report of 100 MB.
MAX_PROBLEMS = 1000
# Comparing two names costs about 10 us; half a second of it is enough to help.
MAX_LOOKS = 50_000


_LOOKALIKES = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b", "a typographic quote ({}): write \" or '"),
    **dict.fromkeys("\u00a0\u2007\u202f\u3000", "a space of another kind ({}): write a usual one"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "an invisible character ({}): delete it"),
}


def lookalike(source: str) -> str:
    """Return a hint if a line has a character that only looks like what YAML wants, as text from a web page or a chat has."""
    if source.isascii():
        return ""
    at, char = next(((at, char) for at, char in enumerate(source, 1) if char in _LOOKALIKES), (0, ""))
    return f"in column {at} is " + _LOOKALIKES[char].format(f"U+{ord(char):04X}") if char else ""


class Report:
    """The problems of one load."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self.refused: list[Path] = []  # where the schema said no
        self.unparsed = False  # a file is no YAML: what it would have said is unknown
        self._hidden: dict[str, str] = {}  # value from outside -> what to show instead
        self._looks_left = MAX_LOOKS

    def hide(self, value: str, instead: str) -> None:
        """Never show `value` in a message."""
        if len(value) >= SCRUB_MIN_CHARS:
            self._hidden[value] = instead

    def at(
        self, stage: str, code: str, origin: Origin, message: str, *, path: Path = (), hint: str = "", severity: str = "error"
    ) -> None:
        """Add a problem at a place."""
        if len(self.problems) >= MAX_PROBLEMS:
            return
        problem = self.made(stage, code, origin, message, path=path, hint=hint, severity=severity)
        if problem not in self.problems[-20:]:  # one anchor used in several places is one mistake
            self.problems.append(problem)

    def made(
        self, stage: str, code: str, origin: Origin, message: str, *, path: Path = (), hint: str = "", severity: str = "error"
    ) -> Problem:
        """Return a problem at a place, with its source line and without what was hidden; add it nowhere."""
        file = self.tree.files.get(origin.file)
        source = file.line(origin.line) if file else ""
        hint = "; ".join(filter(None, (hint, lookalike(source) if severity == "error" else "")))
        return Problem(
            stage=stage, code=code, path=path_text(path), message=self._safe(message), file=origin.file, line=origin.line,
            column=origin.column, source=source, hint=self._safe(hint), severity=severity,
        )  # fmt: skip

    def add(
        self, stage: str, code: str, path: Path, message: str, *, hint: str = "", at_key: bool = False, severity: str = "error"
    ) -> None:
        """Add a problem at a path of the tree: at its value, or at its key."""
        if stage == "schema":
            self.refused.append(path)
        if stage != "interpolate" and self.tree.is_unresolved(path):
            return  # reported already; what stands there in the meantime is not the file's
        origin = self.tree.place(path, at_key=at_key)
        self.at(stage, code, origin, message, path=path, hint=hint, severity=severity)

    def failed(self, *stages: str) -> bool:
        """Whether an error was found, in one of `stages` if any is named."""
        return any(p.severity == "error" and (not stages or p.stage in stages) for p in self.problems)

    def suggest(self, word: str, known: Collection[str]) -> str:
        """Like did_you_mean, for names that the file makes up: gives up when thousands of them were compared."""
        self._looks_left -= len(known)
        return did_you_mean(word, known) if self._looks_left >= 0 else ""

    def _safe(self, text: str) -> str:
        for value, instead in self._hidden.items():
            if value in text:
                text = text.replace(value, instead)
        return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest known word, or an empty string."""
    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = folded.get(word.lower().replace("-", "_"))
    if close is None:
        # difflib costs about 10 us a candidate: with thousands of names only those of a similar length are looked at.
        names = [name for name in names if abs(len(name) - len(word)) <= max(2, len(word) // 3)][:2000]
        close = next(iter(difflib.get_close_matches(word, names, n=1, cutoff=0.6)), None)
    return f"did you mean {close!r}?" if close is not None and close != word else ""
