"""Files that appear whole: written beside their place, then renamed. And their checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file; its folder is made, and nobody ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def sha256(path: Path) -> str:
    """Checksum of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
