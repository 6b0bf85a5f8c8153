"""Patterns of file names as users write them: ``{tile}/{date}_{band}_{res}.jp2`` with ``*`` and ``?``.

Regular expressions would match them too, but may take time that is exponential in the number of wildcards. The matcher
here tries no state twice. The order of trials, and so the result, is that of a regular expression.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from agrifm.errors import InputError, counted, nearest
from agrifm.scenes.naming.dates import DATE, TIME, date_spans, parse_day

MAX_TOKENS = 200
MAX_STEPS = 200_000  # for one name; reached only by patterns that repeat parts between many wildcards

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

Values = tuple[tuple[str, str], ...]  # named parts and their texts


@dataclass(frozen=True)
class Token:
    """Element of a pattern.

    Args:
        kind: ``text``, a wildcard, the name of a part, or ``again`` for a part that occurs earlier in the pattern.
        text: Text itself, or name of the part that occurs again.
    """

    kind: str
    text: str = ""


@dataclass(frozen=True)
class NamePattern:
    """Pattern that matches whole paths, starting at any folder.

    Args:
        tokens: Elements in order.
        source: Pattern as the user wrote it.
    """

    tokens: tuple[Token, ...]
    source: str

    @classmethod
    def of(cls, pattern: str) -> NamePattern:
        """Parse a pattern.

        Raises:
            InputError: If it has an unknown part or no date, is too long, or leads out of the folder.
        """
        text = normalized(pattern).removeprefix("./")
        _refuse_way_out(pattern, text)
        tokens: list[Token] = []
        for piece in re.split(r"(\{[^{}]*\}|\*|\?)", text):
            if not piece:
                continue
            token = _parse_token(piece, pattern, tokens)
            # Two wildcards in a row match what one does.
            repeats_wildcard = tokens and tokens[-1].kind in ("*", "any") and token.kind in ("*", "any")
            if not repeats_wildcard:
                tokens.append(token)
        if len(tokens) > MAX_TOKENS:
            raise InputError(
                "pattern",
                found=counted(len(tokens), "part"),
                expected=f"at most {MAX_TOKENS}",
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
        """Return the named parts of a path; None if it does not match."""
        return _Matcher(self, normalized(path)).run()

    def matches(self, path: str) -> list[dict[str, str]]:
        """Return the named parts of a path for each date that the pattern may mean, the preferred one first."""
        preferred = self.match(path)
        if preferred is None:
            return []
        by_day = {parse_day(preferred["date"]): preferred}
        text = normalized(path)
        for start, _, day in date_spans(text):
            if day in by_day:
                continue
            match = _Matcher(self, text, date_at=start).run()
            if match is not None:
                by_day[day] = match
        return list(by_day.values())


def normalized(text: str) -> str:
    """Compose characters: some systems store names decomposed, so that equal names differ."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _lower(text: str) -> str:
    """Convert to lower case, one letter for each letter, so that positions stay."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    letters = []
    for letter in text:
        small = letter.lower()
        letters.append(small if len(small) == 1 else letter)
    return "".join(letters)


def _refuse_way_out(pattern: str, text: str) -> None:
    if text.startswith("/") or ".." in text.split("/"):
        raise InputError(
            f"pattern '{pattern}'",
            found="a way out of the scene's folder",
            expected="a pattern for paths below that folder",
            repair="name the outer folder as the scene, and write the pattern from there on.",
        )


def _parse_token(piece: str, pattern: str, before: list[Token]) -> Token:
    if piece in ("*", "?"):
        return Token(piece)
    if not piece.startswith("{"):
        return Token("text", _lower(piece))
    name = piece[1:-1]
    if name not in PARTS:
        raise InputError(
            f"pattern '{pattern}'",
            found=f"the part {piece}",
            expected=", ".join(f"{{{name}}}" for name in PARTS),
            repair=nearest(name, PARTS),
        )
    if name != "any" and any(token.kind == name for token in before):
        return Token("again", name)
    return Token(name)


class _Matcher:
    """Matches one pattern against one path, by trial with memory of the states that failed.

    Args:
        pattern: Pattern to match.
        path: Path of a file below the scene's folder.
        date_at: Position at which the date must stand; None allows any.
    """

    def __init__(self, pattern: NamePattern, path: str, date_at: int | None = None) -> None:
        self.pattern = pattern
        self.path = path
        self.lower_path = _lower(path)
        self.date_at = date_at
        self.repeated_parts = {token.text for token in pattern.tokens if token.kind == "again"}
        self.failed_states: set[tuple] = set()
        self.steps = 0

    def run(self) -> dict[str, str] | None:
        """Return the named parts, or None; the pattern begins at the innermost folder where that is possible."""
        starts = [0]
        starts += [match.end() for match in re.finditer("/", self.path)]
        for start in reversed(starts):
            values = self._match_from(0, start, ())
            if values is not None:
                return dict(values)
        return None

    def _match_from(self, index: int, at: int, values: Values) -> Values | None:
        """Match the tokens from ``index`` on with the path from ``at`` on."""
        if index == len(self.pattern.tokens):
            return values if at == len(self.path) else None
        # Whether the remainder matches depends on the position, and on the parts that it repeats.
        state = (index, at, tuple(value for value in values if value[0] in self.repeated_parts))
        if state in self.failed_states:
            return None
        for end, new_values in self._ends(self.pattern.tokens[index], at, values):
            self._count_step()
            result = self._match_from(index + 1, end, (*values, *new_values))
            if result is not None:
                return result
        self.failed_states.add(state)
        return None

    def _count_step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise InputError(
                f"pattern '{self.pattern.source}'",
                found=f"too many ways to match {self.path}",
                expected="few wildcards between parts that are repeated",
                repair="write each part once, and replace wildcards by what stands there.",
            )

    def _ends(self, token: Token, at: int, values: Values) -> Iterator[tuple[int, Values]]:
        """Yield where a token that begins at ``at`` may end, in order of preference, and the parts that it gives."""
        if token.kind == "text":
            if self.lower_path.startswith(token.text, at):
                yield at + len(token.text), ()
        elif token.kind == "again":
            text = _lower(dict(values)[token.text])
            if self.lower_path.startswith(text, at):
                yield at + len(text), ()
        elif token.kind == "date":
            yield from self._date_ends(at)
        elif token.kind == "res":
            yield from self._resolution_ends(at)
        else:
            yield from self._wildcard_ends(token.kind, at)

    def _wildcard_ends(self, kind: str, at: int) -> Iterator[tuple[int, Values]]:
        allowed = _ALPHANUMERIC if kind in ("tile", "sensor") else _SEGMENT
        match = allowed.match(self.path, at)
        last = match.end() if match else at
        may_be_empty = kind in ("*", "any")
        first = at if may_be_empty else at + 1
        if kind == "?":
            last = min(last, first)
        ends = range(first, last + 1)
        shortest_first = kind in ("any", "band")
        if not shortest_first:
            ends = ends[::-1]
        for end in ends:
            values = () if kind in ("*", "?", "any") else ((kind, self.path[at:end]),)
            yield end, values

    def _date_ends(self, at: int) -> Iterator[tuple[int, Values]]:
        if self.date_at not in (None, at):
            return
        match = _DATE.match(self.path, at)
        if match is None or parse_day(match["date"]) is None:
            return
        date = ("date", match["date"])
        time = _TIME.match(self.path, match.end())
        if time is not None and time[0]:
            yield time.end(), (date, ("time", time["time"]))
        yield match.end(), (date,)

    def _resolution_ends(self, at: int) -> Iterator[tuple[int, Values]]:
        longest = _RES.match(self.path, at)
        if longest is None:
            return
        for end in range(longest.end(), at, -1):
            match = _RES.fullmatch(self.path, at, end)
            if match:
                yield end, (("res", match["value"]),)
