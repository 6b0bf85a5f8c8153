"""HDF5 files of unknown origin: opened, searched and read within limits of place, time and memory.

Links out of the file, virtual data sets and values in external files are refused unless they are allowed: a chip from
a stranger could otherwise show any HDF5 file of the reader, and what is missing behind a link counts as the fill value.
``h5_limits`` checks sizes before memory is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
HEAD = 1 << 16  # bytes at the beginning of a file, where those written by h5py keep most of their metadata
MOST_NAMES = 40  # of objects that are listed

# Called with a path before a file is opened and with None after it was closed; see ``watch``.
watcher: Callable[[Path | None], None] | None = None


@dataclass(frozen=True)
class ChipFile:
    """An HDF5 file that is open for reading.

    Args:
        file: of h5py.
        path: where it lies.
        allow_links: follow links to other files.
    """

    file: h5py.File
    path: Path
    allow_links: bool = False
    _found: dict[str, h5py.Dataset | None] = field(default_factory=dict, repr=False)

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    def __getitem__(self, key: str) -> h5py.Dataset:
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        return found

    def where(self, key: str) -> str:
        """How errors name a dataset."""
        return f"{self.path}: {key}"

    def datasets(self) -> list[str]:
        """Names of the first objects in the file."""
        with refusing(self.path, expected="a complete HDF5 file"):
            return sorted(name for name, _ in zip(self.file, range(MOST_NAMES), strict=False))

    def names(self) -> str:
        """The same for messages."""
        return ", ".join(self.datasets()) or "(none)"

    def find(self, key: str) -> h5py.Dataset | None:
        """A dataset, or None where nothing has that name.

        Raises:
            InputError: the name stands for something else, leads nowhere or out of the file, or the object is damaged.
        """
        if key not in self._found:
            with refusing(self.where(key), expected="a dataset"):
                self._found[key] = self._look_up(key)
        return self._found[key]

    def _look_up(self, key: str) -> h5py.Dataset | None:
        found = self._walk(key)
        if found is None:
            return None
        if not isinstance(found, h5py.Dataset):
            raise InputError(
                self.where(key),
                found=f"a {type(found).__name__.lower()}",
                expected="a dataset",
                repair="write the values as a dataset of this name.",
            )
        _ = found.shape, found.dtype  # damaged ones raise here
        self._check_storage(key, found)
        return found

    def _walk(self, key: str) -> Any:
        """Follow the name from the root, link by link: h5py itself would open other files on the way."""
        place: Any = self.file
        parts, hops = deque(key.split("/")), 0
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
                place = self.file if target.startswith("/") else place
                hops += 1
                if hops > MOST_HOPS:
                    raise self._bad_link(key, "links that lead to each other")
                continue
            if kind != h5l.TYPE_HARD and not self.allow_links:
                raise self._bad_link(key, "a link to another file")
            place = place[part.decode()]
        return place

    def _check_storage(self, key: str, stored: h5py.Dataset) -> None:
        """Refuse values in other files unless they are allowed and there: what is missing would be the fill value."""
        if not (stored.is_virtual or stored.external):
            return
        if not self.allow_links:
            raise self._bad_link(key, "values that lie in other files")
        missing = _missing_source(stored)
        if missing is not None:
            raise InputError(
                self.where(key),
                found=f"values that should lie in {missing}, which is missing or too short",
                expected="all files that the chip refers to",
                repair="restore that file: without it the values would count as the fill value.",
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
        """A dataset that was written and holds numbers of some kinds, as numpy names them.

        Raises:
            InputError: it was not, or holds something else.
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
        """Values of a dataset in the byte order of this machine.

        Args:
            key: of the dataset, for messages.
            stored: dataset.
            take: selects the values; all of them if left out.
            part: share of the values that is selected.

        Raises:
            InputError: they are too many, were never written, or cannot be read.
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
        """An attribute of the file that holds one text; None where there is none of that name.

        Raises:
            InputError: it holds something else.
        """
        value = attribute(self.file, name, self.where(f"attribute '{name}'"))
        if value is None:
            return None
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.ravel()[0]
        if isinstance(value, bytes):
            with refusing(self.where(f"attribute '{name}'"), expected="text in UTF-8"):
                value = value.decode()
        if not isinstance(value, str):
            raise InputError(
                self.where(f"attribute '{name}'"), found=str(value)[:200], expected="text", repair="write it as text."
            )
        return str(value)


KINDS = {"i": "whole numbers", "u": "whole numbers without sign", "f": "floating-point numbers", "b": "true or false"}


@contextmanager
def open_chip(path: Path, *, allow_links: bool = False, whole: bool = False) -> Generator[ChipFile]:
    """Open a chip for reading.

    Args:
        path: HDF5 file.
        allow_links: follow links to other files, virtual data sets and external storage.
        whole: most of the file will be read, so that all of it may be searched for damage.

    Raises:
        InputError: the file is missing, truncated or no HDF5 file.
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
    """An attribute of moderate size, or None.

    Raises:
        InputError: it is too large or damaged.
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


def _missing_source(stored: h5py.Dataset) -> str | None:
    """The first file or dataset that a dataset refers to and that is not there."""
    folder = Path(stored.file.filename).parent
    for source in stored.virtual_sources() if stored.is_virtual else ():
        if source.file_name == ".":
            there = source.dset_name in stored.file
        else:
            path = folder / source.file_name
            there = path.is_file() and h5py.is_hdf5(path)
            if there:
                with h5py.File(path, "r") as file:
                    there = source.dset_name in file
        if not there:
            return f"{source.file_name}: {source.dset_name}"
    parts, found = stored.external or (), 0
    for name, offset, size in parts:
        path = Path(name)  # libhdf5 looks for it from the working folder
        if not path.is_file():
            return str(name)
        found += min(size, max(0, path.stat().st_size - offset))
    return str(parts[-1][0]) if parts and found < stored.nbytes else None
