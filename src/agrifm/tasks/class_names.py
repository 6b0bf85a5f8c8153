"""Names that readers take for the same: they differ in case, accents or spaces only."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

ACCENTS = 200  # combining classes from here on are accents; lower ones are letters of Indic, Arabic and other scripts


def plain_form(name: str) -> str:
    """Return the name in lower case, without accents, with single spaces."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    letters = [letter for letter in decomposed if unicodedata.combining(letter) < ACCENTS]
    composed = unicodedata.normalize("NFC", "".join(letters))
    return " ".join(composed.casefold().split())


def same_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of different names with one plain form, such as ``("maïs", "  MAÏS ")``, in the given order."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(plain_form(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]
