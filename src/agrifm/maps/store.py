"""Where a map waits until it is whole: finished tiles, then finished files, then one step that makes them the map.

Everything lies in ``OUT.tif.parts`` beside the map:

``plan.json``
    what the tiles belong to; a run with another plan does not go on from them.
``*.npz``
    finished tiles, each behind a checksum over its plan, its place and its bytes.
``files/``
    the finished files of the map, its passport among them.
``commit.json``
    names and checksums of those files. From here on the map is complete: whoever comes next only renames.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ValidationError

from agrifm.errors import InputError
from agrifm.io import disk_refusal, sha256, sync, write_whole
from agrifm.maps.inputs import changed
from agrifm.scenes.scene import Area

SEAL = hashlib.sha256().digest_size  # bytes before a tile
NAMED = 4  # changed files that an error names
KEPT = "the finished tiles are kept and not computed again"


class DamagedTile(Exception):
    """A finished tile that no longer holds what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path))


class Commit(BaseModel):
    """What ``commit.json`` holds.

    Args:
        files: checksums by name, the map of classes first.
    """

    files: dict[str, str]


@dataclass
class Store:
    """The folder in which a map waits; a run that was stopped goes on from it.

    Args:
        folder: beside the map, gone once the map is whole.
        plan_sum: checksum of the plan, part of every tile's.
    """

    folder: Path
    plan_sum: bytes = b""

    @classmethod
    def beside(cls, target: Path) -> Store:
        """The store of a map."""
        return cls(target.with_name(target.name + ".parts"))

    @property
    def files(self) -> Path:
        """Folder of the finished files."""
        return self.folder / "files"

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def _commit(self) -> Path:
        return self.folder / "commit.json"

    def plan(self) -> dict[str, Any]:
        """What the tiles here belong to; nothing where there is no plan, or a damaged one."""
        try:
            values = json.loads(self._plan.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        known = isinstance(values, dict) and isinstance(values.get("inputs", {}), dict)
        return values if known else {}

    def holds(self, fingerprint: dict[str, Any]) -> bool:
        """Whether the tiles here are those of a map."""
        return self.plan() == json.loads(json.dumps(fingerprint))

    def open(self, fingerprint: dict[str, Any], *, afresh: bool = False) -> None:
        """Get ready to keep tiles of a map.

        A damaged plan is written again: the tiles' own checksums tell whether they belong to it.

        Args:
            fingerprint: of the map.
            afresh: drop tiles of another map.

        Raises:
            InputError: the tiles there belong to another map, or the disk is full or read-only.
        """
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        before, now = self.plan(), json.loads(text)
        if before and before != now:
            if not afresh:
                raise self._of_another_map(before, now)
            self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if before != now:
                write_whole(self._plan, text)
        except OSError as error:
            raise self._unwritable(error) from error
        self.plan_sum = hashlib.sha256(text.encode()).digest()

    def _of_another_map(self, before: dict[str, Any], now: dict[str, Any]) -> InputError:
        different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if before.get("format") != now.get("format"):
            different = ["format (another version of agrifm wrote them)"]
        elif "inputs" in different:
            different.remove("inputs")
            files = changed(before["inputs"], now["inputs"])
            if "scene" in different:  # its other files are no changed ones
                files = [path for path in files if path in before["inputs"] and path in now["inputs"]]
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            if files:
                different.append(f"input files, changed since: {', '.join(files[:NAMED])}{more}")
        return InputError(
            self.folder,
            found=f"finished tiles of a map that differs in: {', '.join(different)}",
            expected="tiles of the same map, to go on from",
            repair="give --overwrite to drop them, or write to another file.",
        )

    # Tiles

    def path(self, tile: Area) -> Path:
        """The file of a tile."""
        return self.folder / f"{tile.row:07d}_{tile.column:07d}.npz"

    def done(self, tile: Area) -> bool:
        """Whether a tile is finished.

        Raises:
            DamagedTile: it is there, but not as it was written.
        """
        path = self.path(tile)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DamagedTile(path) from error
        if data[:SEAL] != self._seal(path, data[SEAL:]):
            raise DamagedTile(path)
        return True

    def _seal(self, path: Path, data: bytes) -> bytes:
        """Checksum over plan, place and bytes of a tile: it fits nowhere else."""
        return hashlib.sha256(self.plan_sum + path.name.encode() + data).digest()

    def save(self, tile: Area, arrays: dict[str, np.ndarray]) -> None:
        """Keep a finished tile; it appears whole.

        Raises:
            InputError: the disk is full or read-only.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # ty: ignore[invalid-argument-type]
        path, data = self.path(tile), buffer.getvalue()
        unfinished = path.with_suffix(".part")
        try:
            with unfinished.open("wb") as file:
                file.write(self._seal(path, data) + data)
            sync(unfinished)
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def drop(self, path: Path) -> None:
        """Remove a damaged tile, which may also be a folder of that name."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def tiles(self, product: str, tiles: Sequence[Area]) -> Iterator[tuple[int, int, np.ndarray]]:
        """Row, column and bands ``(n, h, w)`` of each tile of a product.

        Raises:
            DamagedTile: a tile can no longer be read.
        """
        for tile in tiles:
            part = self._read(self.path(tile), product)
            yield tile.row, tile.column, part.reshape(-1, *part.shape[-2:])

    def _read(self, path: Path, product: str) -> np.ndarray:
        """One product of a tile; the archive has a checksum for each of its parts."""
        try:
            with path.open("rb") as file:
                file.seek(SEAL)
                with np.load(file, allow_pickle=False) as arrays:
                    return arrays[product]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DamagedTile(path) from error

    # The finished map

    def commit(self, names: Sequence[str]) -> None:
        """Declare the finished files to be the map; from here on nothing can be lost.

        Args:
            names: of files in ``files``, the map of classes first.

        Raises:
            InputError: the disk is full.
        """
        sums = {name: sha256(self.files / name) for name in names}
        for name in names:
            sync(self.files / name)
        write_whole(self._commit, Commit(files=sums).model_dump_json(indent=1))

    def complete(self, target: Path, known: Sequence[Path]) -> bool:
        """Make committed files the map, also those of a run that was stopped in between.

        Args:
            target: the map of classes.
            known: every file that can belong to the map. Those that do not belong to this one go first, so that no two
                maps are ever mixed.

        Returns:
            Whether there were any.

        Raises:
            InputError: a file cannot be renamed.
        """
        names = self._committed(target, known)
        if not names:
            self._drop_files()
            return False
        try:
            if (self.files / target.name).exists():
                target.unlink(missing_ok=True)
            for path in known:
                if path.name not in names:
                    path.unlink(missing_ok=True)
            for name in reversed(names):
                if (self.files / name).exists():
                    (self.files / name).replace(target.with_name(name))
            sync(target.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        self.remove()
        return True

    def _committed(self, target: Path, known: Sequence[Path]) -> list[str]:
        """Names of the committed files; none where a part is damaged: the files are then made again from the tiles."""
        try:
            commit = Commit.model_validate_json(self._commit.read_bytes())
        except (OSError, ValidationError):
            return []
        if not set(commit.files) <= {path.name for path in known} or not self._all_there(commit, target):
            return []
        return list(commit.files)

    def _all_there(self, commit: Commit, target: Path) -> bool:
        """Whether each file waits to be renamed, or was renamed already."""
        for name, wanted in commit.files.items():
            waiting, renamed = self.files / name, target.with_name(name)
            path = waiting if waiting.exists() else renamed
            if not path.is_file() or sha256(path) != wanted:
                return False
        return True

    def _drop_files(self) -> None:
        """Remove finished files, but no tiles. The commit goes first: without files it must not stand."""
        with suppress(OSError):
            self._commit.unlink(missing_ok=True)
            shutil.rmtree(self.files)

    def empty_files(self) -> Path:
        """An empty folder for the files of the map.

        Raises:
            InputError: it cannot be made.
        """
        self._drop_files()
        try:
            self.files.mkdir(parents=True)
        except OSError as error:
            raise self._unwritable(error) from error
        return self.files

    def remove(self) -> list[str]:
        """Drop everything that is the map's; the commit goes last.

        Returns:
            Names of other files, which stay, and the folder with them.
        """
        if not self.folder.is_dir():
            return []
        own = [*self.folder.glob("*.npz"), *self.folder.glob("*.part"), *self.folder.glob(".plan.*.part.json")]
        for path in (*own, self._plan):
            if not path.is_dir():
                path.unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)
        for path in (*self.folder.glob(".commit.*.part.json"), self._commit):
            path.unlink(missing_ok=True)
        foreign = sorted(os.listdir(self.folder))
        if not foreign:
            self.folder.rmdir()
        return foreign

    def _unwritable(self, error: OSError) -> Exception:
        """What to say when a tile or file cannot be written; other errors stay what they are."""
        refusal = disk_refusal(self.folder, error)
        if refusal is None:
            return error
        repair = refusal.repair.rstrip(".")
        return InputError(refusal.where, found=refusal.found, expected=refusal.expected, repair=f"{repair}; {KEPT}.")
