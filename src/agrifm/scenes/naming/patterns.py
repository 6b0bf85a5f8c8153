"""Patterns of file names as users write them: ``{tile}/{date}_{band}_{res}.jp2`` with ``*`` and ``?``.

They are matched here rather than by ``re``, which may try a number of ways that is exponential in the number of
wildcards. Here no state is tried twice, and the order of trials (and so the result) is that of a regular expression.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from agrifm.errors import InputError, nearest
from agrifm.scenes.naming.dates import DATE, TIME, date_spans, parse_day

LONGEST = 200  # parts of a pattern
STEPS = 200_000  # tried for one name; reached only by patterns that repeat parts between many wildcards

PARTS = MappingProxyType(
    {
        "date": DATE,
        "band": r"[^/]+?",
        "res": r"R?(?P<value>\d+(?:\.\d+)?)m?",
        "tile": r"[A-Za-z0-9]+",
        "sensor": r"[A-Za-z0-9]+",
        "any": r"[^/]*?",
    }
)
_DATE = re.compile(DATE)
_TIME = re.compile(TIME, re.IGNORECASE)
_RES = re.compile(PARTS["res"], re.IGNORECASE)
_ALPHANUMERIC = re.compile(PARTS["tile"])
_SEGMENT = re.compile(r"[^/]*")

Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Token:
    """One element of a pattern: ``text`` itself, a wildcard, a part, or a part that stands further ahead already."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class NamePattern:
    """A pattern that matches whole paths, from any folder on."""

    tokens: tuple[Token, ...]
    source: str

    @classmethod
    def of(cls, pattern: str) -> NamePattern:
        """Read a pattern.

        Raises:
            InputError: If an unknown part, no date, or a way out of the folder.
        """
        text = normalized(pattern).removeprefix("./")
        _stays_inside(pattern, text)
        tokens: list[Token] = []
        for piece in re.split(r"(\{[^{}]*\}|\*|\?)", text):
            token = _token(piece, pattern, tokens)
            # Two wildcards in a row match what one does.
            if token is not None and not (token.kind in ("*", "any") and tokens and tokens[-1].kind in ("*", "any")):
                tokens.append(token)
        if len(tokens) > LONGEST:
            raise InputError(
                "pattern",
                found=f"{len(tokens)} parts",
                expected=f"at most {LONGEST}",
                repair="shorten the pattern; '*' stands for any letters.",
            )
        if not any(token.kind == "date" for token in tokens):
            raise InputError(
                f"pattern '{pattern}'",
                found="no {date}",
                expected="a date in every name: YYYYMMDD, YYYY-MM-DD or YYYYDDD",
                repair="write e.g. --set pattern='{date}_{band}_{res}.jp2', or --set pattern='{date}.tif' for files "
                "with several bands.",
            )
        return cls(tuple(tokens), pattern)

    def match(self, path: str) -> dict[str, str] | None:
        """The parts of a path, or None."""
        return _Trial(self, normalized(path)).run()

    def matches(self, path: str) -> list[dict[str, str]]:
        """The parts of a path for each date in it that the pattern may mean, the preferred one first."""
        text = normalized(path)
        first = self.match(path)
        if first is None:
            return []
        found = {parse_day(first["date"]): first}
        for start, _, day in date_spans(text):
            other = None if day in found else _Trial(self, text, start).run()
            if other is not None:
                found[day] = other
        return list(found.values())


def normalized(text: str) -> str:
    """Composed characters: some systems store names decomposed, so that equal names differ."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _lower(text: str) -> str:
    """Small letters, one for each letter, so that positions stay."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _stays_inside(pattern: str, text: str) -> None:
    if text.startswith("/") or ".." in text.split("/"):
        raise InputError(
            f"pattern '{pattern}'",
            found="a way out of the scene's folder",
            expected="a pattern for paths below that folder",
            repair="name the outer folder as the scene, and write the pattern from there on.",
        )


def _token(piece: str, pattern: str, before: list[Token]) -> Token | None:
    if piece in ("*", "?"):
        return Token(piece)
    if not piece.startswith("{"):
        return Token("text", _lower(piece)) if piece else None
    name = piece[1:-1]
    if name not in PARTS:
        raise InputError(
            f"pattern '{pattern}'",
            found=f"the part {piece}",
            expected=", ".join(f"{{{name}}}" for name in PARTS),
            repair=nearest(name, PARTS),
        )
    again = name != "any" and any(token.kind == name for token in before)
    return Token("again", name) if again else Token(name)


class _Trial:
    """Match one pattern against one path.

    Args:
        pattern: Pattern to match.
        path: Path of a file, below the scene's folder.
        date_at: Where the date must stand; anywhere if None.
    """

    def __init__(self, pattern: NamePattern, path: str, date_at: int | None = None) -> None:
        self.pattern, self.path, self.date_at = pattern, path, date_at
        self.lower = _lower(path)
        self.repeated = {token.text for token in pattern.tokens if token.kind == "again"}
        self.failed: set[tuple] = set()
        self.steps = 0

    def run(self) -> dict[str, str] | None:
        """The parts, or None; the pattern begins at the innermost folder where that is possible."""
        starts = [0, *(match.end() for match in re.finditer("/", self.path))]
        for start in reversed(starts):
            values = self._from(0, start, ())
            if values is not None:
                return dict(values)
        return None

    def _from(self, index: int, at: int, values: Values) -> Values | None:
        """Match the tokens from one on."""
        if index == len(self.pattern.tokens):
            return values if at == len(self.path) else None
        # Whether the rest fails depends on the place, and on parts that it repeats.
        state = (index, at, tuple(value for value in values if value[0] in self.repeated) if self.repeated else ())
        if state in self.failed:
            return None
        token = self.pattern.tokens[index]
        for end, value in self._ends(token, at, values):
            self._count()
            found = self._from(index + 1, end, (*values, *value))
            if found is not None:
                return found
        self.failed.add(state)
        return None

    def _count(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise InputError(
                f"pattern '{self.pattern.source}'",
                found=f"too many ways to match {self.path}",
                expected="few wildcards between parts that are repeated",
                repair="write each part once, and replace wildcards by what stands there.",
            )

    def _ends(self, token: Token, at: int, values: Values) -> Iterator[tuple[int, Values]]:
        """Where a token that begins at a place may end, in the order of preference, and what it says."""
        if token.kind == "text":
            if self.lower.startswith(token.text, at):
                yield at + len(token.text), ()
        elif token.kind == "again":
            value = _lower(dict(values)[token.text])
            if self.lower.startswith(value, at):
                yield at + len(value), ()
        elif token.kind == "date":
            yield from self._dates(at)
        elif token.kind == "res":
            yield from self._sizes(at)
        else:
            yield from self._wild(token.kind, at)

    def _wild(self, kind: str, at: int) -> Iterator[tuple[int, Values]]:
        form = _ALPHANUMERIC if kind in ("tile", "sensor") else _SEGMENT
        match = form.match(self.path, at)
        last = match.end() if match else at
        first = at if kind in ("*", "any") else at + 1
        if kind == "?":
            last = min(last, first)
        shortest_first = kind in ("any", "band")
        ends = range(first, last + 1) if shortest_first else range(last, first - 1, -1)
        for end in ends:
            yield end, () if kind in ("*", "?", "any") else ((kind, self.path[at:end]),)

    def _dates(self, at: int) -> Iterator[tuple[int, Values]]:
        match = _DATE.match(self.path, at) if self.date_at in (None, at) else None
        if match is None or parse_day(match["date"]) is None:
            return
        date = ("date", match["date"])
        after = _TIME.match(self.path, match.end())
        if after is not None and after[0]:
            yield after.end(), (date, ("time", after["time"]))
        yield match.end(), (date,)

    def _sizes(self, at: int) -> Iterator[tuple[int, Values]]:
        longest = _RES.match(self.path, at)
        for end in range(longest.end() if longest else at, at, -1):
            match = _RES.fullmatch(self.path, at, end)
            if match:
                yield end, (("res", match["value"]),)
