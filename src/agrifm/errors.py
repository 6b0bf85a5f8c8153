"""The one way this project refuses input: what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Input that cannot be used, told so that the reader can repair it.

    Args:
        where: file, and field within it, e.g. ``chips/a.h5: S2``.
        found: what stands there.
        expected: what should stand there.
        repair: what to do about it, as an imperative sentence.
    """

    def __init__(self, where: object, *, found: str, expected: str, repair: str) -> None:
        self.where, self.found, self.expected, self.repair = str(where), found, expected, repair
        super().__init__(f"{where}\n  found:    {found}\n  expected: {expected}\n  repair:   {repair}")

    def __reduce__(self) -> tuple:
        """Keep the four parts when the error crosses a process border (data-loader workers)."""
        return _rebuild, (type(self), self.where, self.found, self.expected, self.repair)


class Unreadable(InputError):
    """One file among many that cannot be read; ``where`` is its path or address."""


def _rebuild(kind: type[InputError], where: str, found: str, expected: str, repair: str) -> InputError:
    return kind(where, found=found, expected=expected, repair=repair)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for a misspelled name, or the list of valid ones."""
    options = sorted(valid)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid names are {', '.join(options)}."
