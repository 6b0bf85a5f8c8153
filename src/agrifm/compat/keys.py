"""A reader of foreign configurations: keys are taken by name, and keys that nobody takes are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Self

from agrifm.errors import InputError, nearest

REQUIRED: Any = object()
Kind = Literal["changed", "derived", "harmless"]


@dataclass(frozen=True)
class Note:
    """A remark on a key for the reader of a translation.

    Args:
        key: Full path of the key.
        kind: ``changed`` if results may differ from those of the original, ``derived`` if the value was chosen here
            because the original does not say, ``harmless`` if the key has no effect on results.
        text: The reason.
    """

    key: str
    kind: Kind
    text: str


class Keys:
    """One level of a configuration. It is used in a ``with`` block, at whose end every key must have been taken.

    Args:
        values: Keys of this level.
        source: The file, for messages.
        path: Path of this level from the top, e.g. ``model.neck``.
        notes: Notes, which all levels share and extend.

    Attributes:
        asked: Keys that were asked for so far, which are the valid ones.
    """

    def __init__(self, values: Mapping[str, Any], source: str, path: str = "", notes: list[Note] | None = None) -> None:
        self.values, self.source, self.path = values, source, path
        self.notes: list[Note] = [] if notes is None else notes
        self.asked: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.finish()

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            InputError: If there are any; it names the first of them and the nearest valid key.
        """
        for key in self.left():
            repair = nearest(key, self.asked) if self.asked else "delete it."
            raise self.wrong(key, expected="a key that is known here", repair=repair, found="an unknown key")

    def left(self) -> list[str]:
        """Return the keys that nobody asked for yet."""
        return [key for key in self.values if key not in self.asked]

    def name(self, key: str) -> str:
        """Return the full path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def note(self, key: str, kind: Kind, text: str) -> None:
        """Add a note on a key, once."""
        note = Note(self.name(key), kind, text)
        if note not in self.notes:
            self.notes.append(note)

    def wrong(self, key: str, *, expected: str, repair: str, found: str | None = None) -> InputError:
        """Return the error for a key; by default, what was found is its value."""
        found = repr(self.values.get(key))[:80] if found is None else found
        return InputError(f"{self.source}: {self.name(key)}", found=found, expected=expected, repair=repair)

    def check(self, key: str, valid: bool, *, expected: str, repair: str, found: str | None = None) -> None:
        """Raise the error for a key unless its value is valid."""
        if not valid:
            raise self.wrong(key, expected=expected, repair=repair, found=found)

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """Return the value of a key, or the default.

        Raises:
            InputError: If the key is required and missing.
        """
        self.asked.add(key)
        if key in self.values:
            return self.values[key]
        if default is REQUIRED:
            close = get_close_matches(key, self.left(), n=1, cutoff=0.5)
            repair = f"rename '{close[0]}' to '{key}'." if close else f"add {self.name(key)}."
            raise self.wrong(key, found="nothing", expected="a value: this key is required", repair=repair)
        return default

    def number(self, key: str, default: Any = REQUIRED, *, least: float = 0, whole: bool = False) -> Any:
        """Take a number of at least ``least``, which is an integer if ``whole``."""
        value = self.take(key, default)
        if key not in self.values:
            return value
        types = int if whole else (int, float)
        valid = isinstance(value, types) and not isinstance(value, bool) and value >= least
        expected = f"{'a whole number' if whole else 'a number'} of at least {least}"
        self.check(key, valid, expected=expected, repair="correct the value.")
        return value

    def triple(self, key: str, default: Any = REQUIRED) -> tuple[int, int, int]:
        """Take three whole numbers: frames, rows, columns."""
        frames, rows, columns = self.numbers(key, 3, default)
        return frames, rows, columns

    def numbers(self, key: str, count: int, default: Any = REQUIRED) -> tuple[int, ...]:
        """Take ``count`` whole numbers of at least 1."""
        value = self.take(key, default)
        valid = is_list(value) and len(value) == count and all(map(is_positive, value))
        expected = f"{count} whole numbers of at least 1"
        self.check(key, valid, expected=expected, repair="correct the value.", found=repr(value))
        return tuple(value)

    def only(self, key: str, *allowed: Any, repair: str = "") -> Any:
        """Take a key that has one of the values that are supported here; the first is the default.

        Raises:
            InputError: If it has another value.
        """
        value = self.take(key, allowed[0])
        expected = " or ".join(map(repr, allowed))
        self.check(key, value in allowed, expected=expected, repair=repair or f"write {expected}.")
        return value

    def harmless(self, why: str, *keys: str) -> None:
        """Take keys that change no result here."""
        for key in keys:
            if key in self.values:
                self.note(key, "harmless", why)
            self.take(key, None)

    def inside(self, key: str, *types: str) -> Keys:
        """Return the keys below a key; ``types`` are the valid values of its ``type``."""
        return self._level(key, self.take(key), types)

    def each(self, key: str, *types: str) -> list[Keys]:
        """Return the entries of a list of dictionaries. A single dictionary is a list of one, None an empty list."""
        value = self.take(key, None)
        if value is None:
            value = []
        elif isinstance(value, Mapping):
            value = [value]
        self.check(key, is_list(value), expected="a list of dict(type=..., ...)", repair="write a list.")
        return [self._level(f"{key}[{i}]", entry, types) for i, entry in enumerate(value)]

    def _level(self, key: str, value: Any, types: tuple[str, ...]) -> Keys:
        found = repr(value)[:80]
        self.check(key, isinstance(value, Mapping), expected="dict(...)", repair="write a dictionary.", found=found)
        level = Keys(value, self.source, self.name(key), self.notes)
        if types and level.kind() not in types:
            repair = nearest(level.kind(), types) if len(types) > 1 else f"write '{types[0]}': no other is translated."
            raise level.wrong("type", expected=f"one of {', '.join(types)}", repair=repair)
        return level

    def kind(self) -> str:
        """Take ``type``, and return its name without the prefix of a registry."""
        value = self.take("type")
        name = value if isinstance(value, str) else getattr(value, "__name__", repr(value))
        return name.rsplit(".", 1)[-1]


def is_list(value: Any) -> bool:
    """Whether a value is a list or a tuple, which configurations use alike."""
    return isinstance(value, list | tuple)


def is_positive(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
