"""Errors of this project: where, what was found, what was expected and how to repair it."""

from __future__ import annotations

import unicodedata
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec

LONGEST = 1_000  # characters of one part of an error that are shown

# Unicode categories of characters that could control a terminal: control, format, surrogates, line separators.
CONTROL_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # format characters that Persian and Indic words need


class InputError(ValueError):
    """Input that cannot be used, described so that the reader can repair it.

    Control characters in the parts are shown as escapes, because parts quote files of unknown origin.

    Args:
        where: File and field within it, e.g. ``chips/a.h5: S2``.
        found: What was found there.
        expected: What was expected there.
        repair: What to do about it, as an imperative sentence.
    """

    def __init__(self, where: object, *, found: str, expected: str, repair: str) -> None:
        self.where = printable(str(where), lines=True)
        self.found = printable(found, lines=True)
        self.expected = printable(expected, lines=True)
        self.repair = printable(repair, lines=True)
        super().__init__(
            f"{self.where}\n  found:    {self.found}\n  expected: {self.expected}\n  repair:   {self.repair}"
        )

    @property
    def sentence(self) -> str:
        """The four parts in one line."""
        text = f"{self.where}: found {self.found}, expected {self.expected}; {self.repair}"
        return " ".join(text.split())

    def __reduce__(self) -> tuple:
        """Keep the four parts when the error crosses a process border (data-loader workers)."""
        return _rebuild, (type(self), self.where, self.found, self.expected, self.repair)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which Slurm and Kubernetes send, handled like Ctrl-C."""

    received = False


class RenamedKeyWarning(FutureWarning):
    """A configuration uses an earlier name of a key."""


class Unreadable(InputError):
    """One file among many that cannot be read; ``where`` is its path or address."""


def _rebuild(kind: type[InputError], where: str, found: str, expected: str, repair: str) -> InputError:
    return kind(where, found=found, expected=expected, repair=repair)


@contextmanager
def refusing(
    where: object,
    *,
    expected: str,
    repair: str = "restore the file from its source; it is damaged, or of another kind.",
    kind: type[InputError] = InputError,
) -> Generator[None]:
    """Turn whatever a library raises while it reads a file into one error that names the file.

    Libraries raise almost anything on damaged files: ``OSError``, ``KeyError``, ``RuntimeError``, ``RecursionError``.
    Wrap only the calls of the library, so that mistakes of this project are not blamed on the file.

    Args:
        where: File and field within it.
        expected: What was expected there.
        repair: What to do about it.
        kind: Class of the error to raise.

    Raises:
        InputError: If the library raises an exception. An ``InputError`` passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise kind(where, found=f"it cannot be read: {reason(error)}", expected=expected, repair=repair) from error


def refuse_missing_library(where: object, library: str, purpose: str, repair: str) -> None:
    """Refuse work for which an optional library is not installed.

    Args:
        where: What needs it.
        library: Name by which it is imported.
        purpose: What it does, e.g. ``which reads Parquet``.
        repair: How to install it, or what to do without it.

    Raises:
        InputError: If it is missing.
    """
    if find_spec(library) is None:
        raise InputError(where, found=f"no {library}, {purpose}", expected="this optional library", repair=repair)


def reason(error: BaseException) -> str:
    """Return the message of an exception in one line, or the name of its class if it has no message."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return printable(lines[0])[:300] if lines else type(error).__name__


def printable(text: str, *, lines: bool = False) -> str:
    """Return text with control characters as escapes; very long text is shortened.

    Args:
        text: Text of unknown origin, e.g. the name of a file or class.
        lines: Keep line feeds.
    """
    characters = []
    for character in text[:LONGEST]:
        is_kept = not _is_control(character) or (lines and character == "\n")
        characters.append(character if is_kept else _escape(character))
    shown = "".join(characters)
    return shown if len(text) <= LONGEST else f"{shown}... ({len(text)} characters)"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in CONTROL_CATEGORIES and character not in JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for a misspelled name, or the list of valid ones."""
    options = sorted(valid)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid names are {', '.join(options)}."


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, or with a longer phrase: ``1 chip``, ``1,200 chips``.

    Args:
        count: The number.
        singular: Words that follow 1.
        plural: Words that follow every other number; by default the singular with an ``s``.
    """
    words = f"{singular}s" if plural is None else plural
    return f"{count:,} {singular if count == 1 else words}"
