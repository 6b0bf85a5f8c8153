"""Storage of an unfinished map: finished tiles, then finished files, then one commit that makes them the map.

Everything is in the folder ``OUT.tif.parts`` beside the map:

``plan.json``
    identity of the map; a run with another plan does not use its tiles.
``*.npz``
    finished tiles, each after a checksum over its plan, its position and its bytes.
``files/``
    finished files of the map, including its provenance.
``commit.json``
    names and checksums of those files. Once it exists the map is complete, and only renames are left.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ValidationError

from agrifm.errors import InputError
from agrifm.io import checksum, files_below, sync, whole, write_whole, writing
from agrifm.maps.inputs import changed
from agrifm.scenes.scene import Area

SEAL = hashlib.sha256().digest_size  # bytes of the checksum before a tile
NAMED = 4  # changed files that an error lists
TILES_ARE_KEPT = "the finished tiles are kept and not computed again"


class DamagedTile(Exception):
    """A finished tile whose content is not what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path))


class Commit(BaseModel):
    """Content of ``commit.json``.

    Args:
        files: Checksums by file name, the map of classes first.
    """

    files: dict[str, str]


@dataclass
class Store:
    """Folder of an unfinished map, from which a stopped run resumes.

    Args:
        folder: Folder beside the map, which is removed once the map is complete.
        plan_sum: Checksum of the plan, which is part of the checksum of every tile.
    """

    folder: Path
    plan_sum: bytes = b""

    @classmethod
    def beside(cls, target: Path) -> Store:
        """Return the store of a map."""
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
        """Read the plan of the stored tiles; empty if it is missing or damaged."""
        try:
            values = json.loads(self._plan.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(values, dict) or not isinstance(values.get("inputs", {}), dict):
            return {}
        return values

    def holds(self, fingerprint: dict[str, Any]) -> bool:
        """Whether the stored tiles belong to a map."""
        return self.plan() == json.loads(json.dumps(fingerprint))

    def open(self, fingerprint: dict[str, Any], *, afresh: bool = False) -> None:
        """Prepare the folder for the tiles of a map.

        A damaged plan is written again; the checksums of the tiles show whether they belong to it.

        Args:
            fingerprint: Identity of the map.
            afresh: Whether to drop tiles of another map.

        Raises:
            InputError: If the stored tiles belong to another map, or the disk is full or read-only.
        """
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        before = self.plan()
        now = json.loads(text)
        if before and before != now:
            if not afresh:
                raise self._of_another_map(before, now)
            self.remove()
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if before != now:
                write_whole(self._plan, text)
        self.plan_sum = hashlib.sha256(text.encode()).digest()

    def _of_another_map(self, before: dict[str, Any], now: dict[str, Any]) -> InputError:
        different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if before.get("format") != now.get("format"):
            different = ["format (another version of agrifm wrote them)"]
        elif "inputs" in different:
            different.remove("inputs")
            files = changed(before["inputs"], now["inputs"])
            if "scene" in different:  # files that only one of the scenes reads did not change
                files = [path for path in files if path in before["inputs"] and path in now["inputs"]]
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            if files:
                different.append(f"input files, changed since: {', '.join(files[:NAMED])}{more}")
        return InputError(
            self.folder,
            found=f"finished tiles of another product, which differs in: {', '.join(different)}",
            expected="tiles of the same product, to resume from",
            repair="give --overwrite to drop them, or write to another file.",
        )

    # Tiles

    def path(self, tile: Area) -> Path:
        """Path of a tile."""
        return self.folder / f"{tile.row:07d}_{tile.column:07d}.npz"

    def done(self, tile: Area) -> bool:
        """Whether a tile is finished.

        Raises:
            DamagedTile: If it exists, but not as it was written.
        """
        return self._intact(self.path(tile))

    def _intact(self, path: Path) -> bool:
        """Whether a sealed file exists; DamagedTile is raised if its content is not what was written."""
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
        """Checksum over plan, position and bytes of a tile, so that a tile is valid in its own place only."""
        return hashlib.sha256(self.plan_sum + path.name.encode() + data).digest()

    def save(self, tile: Area, arrays: dict[str, np.ndarray]) -> None:
        """Store a finished tile atomically.

        Raises:
            InputError: If the disk is full or read-only.
        """
        self._save(self.path(tile), arrays)

    def kept(self, name: str, derive: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return arrays that are kept with the tiles; they are derived once, and again if they were damaged.

        Args:
            name: Name of the file.
            derive: Function that derives them.

        Raises:
            InputError: If the disk is full or read-only.
        """
        path = self.folder / f"{name}.npz"
        try:
            if self._intact(path):
                return self._load(path)
        except DamagedTile:
            self.drop(path)
        arrays = derive()
        self._save(path, arrays)
        return arrays

    def _save(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # ty: ignore[invalid-argument-type]
        data = buffer.getvalue()
        # Looking for leftovers would list a folder that may hold millions of tiles; ``remove`` deletes them.
        with self._writing(), whole(path, tidy=False) as unfinished:
            unfinished.write_bytes(self._seal(path, data) + data)

    def drop(self, path: Path) -> None:
        """Remove a damaged tile, which may be a folder of that name, or a Zarr store that is replaced."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def tiles(self, product: str, tiles: Sequence[Area]) -> Iterator[tuple[int, int, np.ndarray]]:
        """Read row, column and bands ``(n, h, w)`` of each tile of a product.

        Raises:
            DamagedTile: If a tile cannot be read.
        """
        for tile in tiles:
            part = self._read(self.path(tile), product)
            yield tile.row, tile.column, part.reshape(-1, *part.shape[-2:])

    def _read(self, path: Path, product: str) -> np.ndarray:
        """Read one product of a tile; the archive has a checksum for each of its parts."""
        return self._load(path, (product,))[product]

    def _load(self, path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Read some or all arrays of a sealed file."""
        try:
            with path.open("rb") as file:
                file.seek(SEAL)
                with np.load(file, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in names or arrays.files}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DamagedTile(path) from error

    # The finished map

    def commit(self, names: Sequence[str]) -> None:
        """Declare the finished files to be the map. After this, no work can be lost.

        Args:
            names: Names of the files in ``files``, the map of classes first.

        Raises:
            InputError: If the disk is full.
        """
        sums = {name: checksum(self.files / name) for name in names}
        for name in names:
            for path in files_below(self.files / name):
                sync(path)
            sync(self.files / name)
        write_whole(self._commit, Commit(files=sums).model_dump_json(indent=1))

    def complete(self, target: Path, known: Sequence[Path]) -> bool:
        """Move committed files into place, including those of a run that was stopped before that.

        Args:
            target: Map of classes.
            known: All files that can belong to the map. Those that do not belong to this map are removed first, so that
                files of two maps are never mixed.

        Returns:
            Whether there were committed files.

        Raises:
            InputError: If a file cannot be renamed.
        """
        names = self._committed(target, known)
        if not names:
            self._drop_files()
            return False
        with self._writing():
            waiting = self.files / target.name
            if waiting.is_dir():
                self.drop(target)  # a folder can only be renamed to a name that is free
            elif waiting.exists():
                target.unlink(missing_ok=True)
            for path in known:
                if path.name not in names:
                    path.unlink(missing_ok=True)
            # The map of classes is the last one, so that it is never there without the other files.
            for name in reversed(names):
                if (self.files / name).exists():
                    (self.files / name).replace(target.with_name(name))
            sync(target.parent)
        self.remove()
        return True

    def _committed(self, target: Path, known: Sequence[Path]) -> list[str]:
        """Names of the committed files; empty if one is damaged, so that all are written again from the tiles."""
        try:
            commit = Commit.model_validate_json(self._commit.read_bytes())
        except (OSError, ValidationError):
            return []
        if not set(commit.files) <= {path.name for path in known} or not self._all_there(commit, target):
            return []
        return list(commit.files)

    def _all_there(self, commit: Commit, target: Path) -> bool:
        """Whether each committed file exists, before or after its rename."""
        for name, wanted in commit.files.items():
            waiting = self.files / name
            path = waiting if waiting.exists() else target.with_name(name)
            if not path.exists() or checksum(path) != wanted:
                return False
        return True

    def _drop_files(self) -> None:
        """Remove finished files, but no tiles. The commit is removed first, as it must not exist without the files."""
        with suppress(OSError):
            self._commit.unlink(missing_ok=True)
            shutil.rmtree(self.files)

    def empty_files(self) -> Path:
        """Create an empty folder for the files of the map.

        Raises:
            InputError: If it cannot be created.
        """
        self._drop_files()
        with self._writing():
            self.files.mkdir(parents=True)
        return self.files

    def remove(self) -> list[str]:
        """Remove everything that belongs to the map; the commit is removed last.

        Returns:
            Names of other files, which are kept together with the folder.
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

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Turn failures of the disk into a refusal that says that the finished tiles are kept.

        Raises:
            InputError: If there is no space left, no permission, or a file where a folder must be.
        """
        try:
            with writing(self.folder):
                yield
        except InputError as error:
            repair = f"{error.repair.rstrip('.')}; {TILES_ARE_KEPT}."
            raise InputError(self.folder, found=error.found, expected=error.expected, repair=repair) from error
