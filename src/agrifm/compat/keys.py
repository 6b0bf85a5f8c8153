"""A cursor over a foreign configuration: keys are taken by name, and what nobody took is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Self

from agrifm.errors import InputError, nearest

REQUIRED: Any = object()


@dataclass(frozen=True)
class Note:
    """What a reader should know about one key.

    Args:
        key: Full path of the key.
        kind: ``changed``: results may differ from the original's; ``derived``: chosen here, because the original
            does not say; ``harmless``: has no effect on results.
        text: Why.
    """

    key: str
    kind: Literal["changed", "derived", "harmless"]
    text: str


class Keys:
    """One level of a configuration. Used in a ``with`` block, which ends with every key taken or an error.

    Args:
        values: Keys of this level.
        source: File, for messages.
        path: Path of this level from the top, e.g. ``model.neck``.
        notes: Shared by all levels; grows.

    ``asked`` holds the keys that were asked for so far: the valid ones.
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
            InputError: names the first of them and the nearest key that is known here.
        """
        for key in self.left():
            repair = nearest(key, self.asked) if self.asked else "delete it."
            raise self.wrong(key, expected="a key that is known here", repair=repair, found="an unknown key")

    def left(self) -> list[str]:
        """Keys that nobody asked for yet."""
        return [key for key in self.values if key not in self.asked]

    def name(self, key: str) -> str:
        """Full path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def note(self, key: str, kind: Literal["changed", "derived", "harmless"], text: str) -> None:
        """Tell something about a key; the same words once."""
        note = Note(self.name(key), kind, text)
        if note not in self.notes:
            self.notes.append(note)

    def wrong(self, key: str, *, expected: str, repair: str, found: str | None = None) -> InputError:
        """The error for a key."""
        found = repr(self.values.get(key))[:80] if found is None else found
        return InputError(f"{self.source}: {self.name(key)}", found=found, expected=expected, repair=repair)

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key, or the default.

        Raises:
            InputError: If it is required and missing.
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
        """A number of at least ``least``; an int where ``whole``."""
        value = self.take(key, default)
        kinds = int if whole else (int, float)
        if value is default and default is not REQUIRED:
            return value
        if isinstance(value, bool) or not isinstance(value, kinds) or value < least:
            what = "a whole number" if whole else "a number"
            raise self.wrong(key, expected=f"{what} of at least {least}", repair="correct the value.")
        return value

    def triple(self, key: str, default: Any = REQUIRED) -> tuple[int, int, int]:
        """Three whole numbers: frames, rows, columns."""
        frames, rows, columns = self.numbers(key, 3, default)
        return frames, rows, columns

    def numbers(self, key: str, count: int, default: Any = REQUIRED) -> tuple[int, ...]:
        """``count`` whole numbers of at least 1."""
        value = self.take(key, default)
        good = isinstance(value, list | tuple) and len(value) == count
        if not good or not all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in value):
            raise self.wrong(
                key, expected=f"{count} whole numbers of at least 1", repair="correct the value.", found=repr(value)
            )
        return tuple(value)

    def only(self, key: str, allowed: Iterable[Any], repair: str) -> None:
        """Take a key that may be absent and can only have the values we have.

        Raises:
            InputError: If it has another value.
        """
        options = list(allowed)
        if self.take(key, options[0]) not in options:
            raise self.wrong(key, expected=" or ".join(map(repr, options)), repair=repair)

    def harmless(self, why: str, *keys: str) -> None:
        """Take keys that change no result here."""
        for key in keys:
            if key in self.values:
                self.note(key, "harmless", why)
            self.take(key, None)

    def inside(self, key: str, *types: str) -> Keys:
        """The keys below a key; ``types`` are what its ``type`` may be."""
        return self._level(key, self.take(key), types)

    def each(self, key: str, *types: str) -> list[Keys]:
        """The entries of a list of dictionaries; one dictionary alone, or None, will do."""
        value = self.take(key, None)
        entries = [] if value is None else [value] if isinstance(value, Mapping) else value
        if not isinstance(entries, list | tuple):
            raise self.wrong(key, expected="a list of dict(type=..., ...)", repair="write a list.")
        return [self._level(f"{key}[{i}]", entry, types) for i, entry in enumerate(entries)]

    def _level(self, key: str, value: Any, types: tuple[str, ...]) -> Keys:
        if not isinstance(value, Mapping):
            raise self.wrong(key, found=repr(value)[:80], expected="dict(...)", repair="write a dictionary.")
        level = Keys(value, self.source, self.name(key), self.notes)
        if types and level.kind() not in types:
            repair = nearest(level.kind(), types) if len(types) > 1 else f"write '{types[0]}': no other is translated."
            raise level.wrong("type", expected=f"one of {', '.join(types)}", repair=repair)
        return level

    def kind(self) -> str:
        """The name in ``type``, without a registry's prefix."""
        value = self.take("type")
        return (value if isinstance(value, str) else getattr(value, "__name__", repr(value))).rsplit(".", 1)[-1]
