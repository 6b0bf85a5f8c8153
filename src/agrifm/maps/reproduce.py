"""Make a map again from its passport, and compare it with what it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pydantic import TypeAdapter
from rasterio.windows import Window
from rich.console import Console

from agrifm.errors import InputError
from agrifm.io import sha256
from agrifm.maps.mapping import MapOptions, map_scene
from agrifm.maps.passport import Passport, inputs, processor, versions


@dataclass(frozen=True)
class Reproduction:
    """How a map made again compares.

    Args:
        identical: every file, byte for byte.
        files: name and verdict of each.
        notes: what has changed since: versions, processor, input files.
    """

    identical: bool
    files: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "identical, byte for byte" if self.identical else "DIFFERENT"
        return "\n".join([*(f"{name}: {text}" for name, text in self.files.items()), f"the map is {verdict}"])


def reproduce(
    path: Path,
    checkpoint: Path | None = None,
    out: Path | None = None,
    *,
    workers: int = 1,
    console: Console | None = None,
) -> Reproduction:
    """Make the map of a passport again and compare.

    Args:
        path: of the passport.
        checkpoint: the model, if it is no longer where it was.
        out: folder in which the new map stays; a temporary one if left out.
        workers: processes on this machine.
        console: where progress is shown.

    Raises:
        InputError: passport or model are missing or of another kind.
    """
    passport = Passport.load(path)
    model = checkpoint or Path(passport.values["model"]["path"])
    _check_model(passport.values["model"], model)
    for other in passport.values.get("ensemble", ()):
        _check_model(other, Path(other["path"]))
    options = TypeAdapter(MapOptions).validate_python(passport.values["options"])
    sums = passport.values["files"]
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agrifm-")))
        if folder.resolve() == path.parent.resolve():
            raise InputError(
                folder, found="the folder of the first map", expected="another one", repair="give another --out."
            )
        map_scene(model, passport.scene, folder / next(iter(sums)), options, workers=workers, console=console)
        files = {name: _verdict(path.parent / name, folder / name, sha) for name, sha in sums.items()}
        identical = all(sha256(folder / name) == sha for name, sha in sums.items())
    return Reproduction(identical, files, tuple(_changes(passport)))


def _check_model(noted: dict[str, str], path: Path) -> None:
    wanted = noted["sha256"]
    if not path.is_file() or sha256(path) != wanted:
        raise InputError(
            path,
            found="no such file" if not path.is_file() else "another model than the one the map was made with",
            expected=f"the file with sha256 {wanted[:16]}...",
            repair="name the right one with --checkpoint; those of an ensemble must lie where they lay.",
        )


def _changes(passport: Passport) -> Iterator[str]:
    values: dict[str, Any] = passport.values
    for name, now in versions().items():
        if values["versions"].get(name) != now:
            yield f"{name} {now} instead of {values['versions'].get(name)}"
    if values["machine"]["processor"] != processor():
        yield f"processor {processor()} instead of {values['machine']['processor']}: sums may round differently"
    now = inputs(passport.scene)
    for href, before in values["inputs"].items():
        if before is not None and now[href] != before:
            yield f"{href} is {'gone' if now[href] is None else 'no longer the same file'}"


def _verdict(first: Path, second: Path, sha: str) -> str:
    if sha256(second) == sha:
        return "identical"
    if not first.is_file() or first.suffix not in (".tif", ".tiff"):
        return "different"
    if sha256(first) != sha:
        return "different; the first one was changed after it was made"
    different = total = 0
    with rasterio.open(first) as a, rasterio.open(second) as b:
        for row in range(0, a.height, 1024):
            window = Window(0, row, a.width, min(1024, a.height - row))  # ty: ignore[too-many-positional-arguments]
            differs = (a.read(window=window) != b.read(window=window)).any(0)
            different, total = different + int(np.count_nonzero(differs)), total + differs.size
    return f"different in {different:,} of {total:,} pixels"
