"""HDF5 files of unknown origin: opened, searched and read within limits of place, time and memory.

Links out of the file, virtual datasets and values in external files are refused unless they are allowed: a chip from a
stranger could otherwise reveal any HDF5 file of the reader, and values missing behind a link read as the fill value.
``hdf5_limits`` checks sizes before memory is allocated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # ty: ignore[missing-module-member]

from agrifm.data.hdf5_limits import check_heaps, check_memory, count
from agrifm.errors import InputError, refusing
from agrifm.io import size_of

MOST_VALUES = 4096  # of an attribute
MOST_HOPS = 16  # soft links that lead to soft links
HEAD = 1 << 16  # bytes at the beginning of a file, where h5py writes most of the metadata
MOST_NAMES = 40  # of objects that are listed
KINDS = {"i": "whole numbers", "u": "whole numbers without sign", "f": "floating-point numbers", "b": "true or false"}

# Called with a path before a file is opened and with None after it was closed; see ``checks.child_process``.
watcher: Callable[[Path | None], None] | None = None


@dataclass(frozen=True)
class ChipFile:
    """An HDF5 file that is open for reading.

    Args:
        file: Open file of h5py.
        path: Path of the file.
        allow_links: Follow links to other files.
    """

    file: h5py.File
    path: Path
    allow_links: bool = False
    _datasets: dict[str, h5py.Dataset | None] = field(default_factory=dict, repr=False)

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    def __getitem__(self, key: str) -> h5py.Dataset:
        stored = self.find(key)
        if stored is None:
            raise KeyError(key)
        return stored

    def where(self, key: str) -> str:
        """How errors name a dataset."""
        return f"{self.path}: {key}"

    def datasets(self) -> list[str]:
        """Names of the first objects in the file."""
        with refusing(self.path, expected="a complete HDF5 file"):
            return sorted(islice(self.file, MOST_NAMES))

    def names(self) -> str:
        """Names of the first objects, for messages."""
        return ", ".join(self.datasets()) or "(none)"

    def find(self, key: str) -> h5py.Dataset | None:
        """Return a dataset, or None if nothing has that name.

        Raises:
            InputError: If the name belongs to another kind of object, leads nowhere or out of the file, or the object
                is damaged.
        """
        if key not in self._datasets:
            with refusing(self.where(key), expected="a dataset"):
                self._datasets[key] = self._look_up(key)
        return self._datasets[key]

    def _look_up(self, key: str) -> h5py.Dataset | None:
        stored = self._walk(key)
        if stored is None:
            return None
        if not isinstance(stored, h5py.Dataset):
            raise InputError(
                self.where(key),
                found=f"a {type(stored).__name__.lower()}",
                expected="a dataset",
                repair="write the values as a dataset of this name.",
            )
        _ = stored.shape, stored.dtype  # damaged datasets raise here
        self._check_storage(key, stored)
        return stored

    def _walk(self, key: str) -> Any:
        """Follow the name from the root, link by link: h5py itself would open other files on the way."""
        place: Any = self.file
        parts = deque(key.split("/"))
        hops = 0
        while parts:
            part = parts.popleft().encode()
            if part in (b"", b"."):
                continue
            if not isinstance(place, h5py.Group) or not place.id.links.exists(part):
                if hops:
                    raise self._bad_link(key, "a link that leads nowhere")
                return None
            kind = place.id.links.get_info(part).type
            if kind == h5l.TYPE_SOFT:
                target = place.id.links.get_val(part).decode()
                parts.extendleft(reversed(target.split("/")))
                if target.startswith("/"):
                    place = self.file
                hops += 1
                if hops > MOST_HOPS:
                    raise self._bad_link(key, "links that lead to each other")
                continue
            if kind != h5l.TYPE_HARD and not self.allow_links:
                raise self._bad_link(key, "a link to another file")
            place = place[part.decode()]
        return place

    def _check_storage(self, key: str, stored: h5py.Dataset) -> None:
        """Refuse values in other files unless they are allowed and present: missing ones read as the fill value."""
        if not (stored.is_virtual or stored.external):
            return
        if not self.allow_links:
            raise self._bad_link(key, "values that lie in other files")
        missing = _missing_virtual_source(stored) or _missing_external_file(stored)
        if missing is not None:
            raise InputError(
                self.where(key),
                found=f"values that should lie in {missing}, which is missing or too short",
                expected="all files that the chip refers to",
                repair="restore that file: without it the values would read as the fill value.",
            )

    def _bad_link(self, key: str, found: str) -> InputError:
        return InputError(
            self.where(key),
            found=found,
            expected="values in the file itself",
            repair="copy the values into the file; links to other files that you trust are followed with "
            "'data.allow_links: true', or --allow-links on the command line.",
        )

    def numbers(self, key: str, kinds: str) -> h5py.Dataset:
        """Return a dataset that holds numbers of some kinds, as numpy names them.

        Raises:
            InputError: If it holds something else.
        """
        stored = self[key]
        if stored.dtype.kind not in kinds or stored.shape is None:
            raise InputError(
                self.where(key),
                found=f"{stored.dtype} of shape {stored.shape}",
                expected=" or ".join(text for kind, text in KINDS.items() if kind in kinds),
                repair="write the numbers as a plain numeric dataset.",
            )
        return stored

    def read(
        self, key: str, stored: h5py.Dataset, take: Callable[[h5py.Dataset], Any] = lambda x: x[()], part: float = 1.0
    ) -> np.ndarray:
        """Read values of a dataset in the byte order of this machine.

        Args:
            key: Name of the dataset, for messages.
            stored: Dataset to read.
            take: Function that selects the values; all of them by default.
            part: Memory for the selected values relative to that for all of them.

        Raises:
            InputError: If they are too many, were never written, or cannot be read.
        """
        with refusing(
            self.where(key),
            expected="a complete HDF5 file",
            repair="copy or write it again; it was probably cut off or damaged.",
        ):
            check_memory(stored, self.where(key), part)
            values = np.asarray(take(stored))
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def text(self, name: str) -> str | None:
        """Return an attribute of the file that holds one text; None if it has no such attribute.

        Raises:
            InputError: If it holds something else.
        """
        where = self.where(f"attribute '{name}'")
        value = attribute(self.file, name, where)
        if value is None:
            return None
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.ravel()[0]
        if isinstance(value, bytes):
            with refusing(where, expected="text in UTF-8"):
                value = value.decode()
        if not isinstance(value, str):
            raise InputError(where, found=str(value)[:200], expected="text", repair="write it as text.")
        return str(value)


@contextmanager
def open_chip(path: Path, *, allow_links: bool = False, whole: bool = False) -> Generator[ChipFile]:
    """Open a chip for reading.

    Args:
        path: Path of the HDF5 file.
        allow_links: Follow links to other files, virtual datasets and external storage.
        whole: Search all of the file for damage, because most of it will be read.

    Raises:
        InputError: If the file is missing, truncated or no HDF5 file.
    """
    size = size_of(
        path,
        expected="one HDF5 file for every name in the list",
        repair="restore the file, or delete its line from the list.",
    )
    check_heaps(path, None if whole else HEAD)
    if watcher is not None:
        watcher(path)
    try:
        try:
            file = h5py.File(path, "r")
        except Exception as error:
            raise InputError(
                path,
                found=f"a file of {size} bytes that does not open: {error}",
                expected="a complete HDF5 file",
                repair="copy or write it again; it was probably cut off.",
            ) from error
        with file:
            yield ChipFile(file, path, allow_links)
    finally:
        if watcher is not None:
            watcher(None)


def attribute(holder: h5py.File | h5py.Dataset, name: str, where: str) -> Any:
    """Return an attribute of moderate size, or None.

    Raises:
        InputError: If it is too large or damaged.
    """
    with refusing(where, expected="a small attribute of text or numbers"):
        if name not in holder.attrs:
            return None
        shape = holder.attrs.get_id(name).shape
        if shape is None or count(shape) > MOST_VALUES:
            raise InputError(
                where,
                found=f"an attribute of shape {shape}",
                expected=f"1 to {MOST_VALUES} values",
                repair="write it again; the file is damaged.",
            )
        return holder.attrs[name]


def _missing_virtual_source(stored: h5py.Dataset) -> str | None:
    """Return the first source of a virtual dataset that is missing."""
    if not stored.is_virtual:
        return None
    folder = Path(stored.file.filename).parent
    for source in stored.virtual_sources():
        if source.file_name == ".":
            is_present = source.dset_name in stored.file
        else:
            is_present = _holds(folder / source.file_name, source.dset_name)
        if not is_present:
            return f"{source.file_name}: {source.dset_name}"
    return None


def _holds(path: Path, name: str) -> bool:
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return name in file


def _missing_external_file(stored: h5py.Dataset) -> str | None:
    """Return the first external file of a dataset that is missing; the last one if they are too short together."""
    parts = stored.external or ()
    available = 0
    for name, offset, size in parts:
        path = Path(name)  # relative to the working folder, as libhdf5 looks for it
        if not path.is_file():
            return str(name)
        available += min(size, max(0, path.stat().st_size - offset))
    if parts and available < stored.nbytes:
        return str(parts[-1][0])
    return None
