"""Limits of memory for datasets in HDF5 files of unknown origin, checked before memory is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from agrifm.errors import InputError, refusing

# The largest array that is read from a chip, in bytes. A hundred dates of ten bands on 512 x 512 pixels take 0.5 GB.
MOST_BYTES = 4 << 30
# Above this size the values must fill a plausible part of the file: deflate reaches a factor of 1032 at best.
SMALL_BYTES, MOST_PACKED = 256 << 20, 1100
DEFLATE = 1032

HEAP = b"GCOL\x01\0\0\0"  # where texts of any length lie in a file: signature, version, zeros; then its size in 8 bytes
HEAP_HEADER = OBJECT_HEADER = 16
PIECE = 16 << 20  # bytes that are searched at once

NOT_WRITTEN = h5py.h5d.SPACE_STATUS_NOT_ALLOCATED
PACKERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF)


def check_memory(stored: h5py.Dataset, where: str, part: float = 1.0) -> None:
    """Refuse a dataset that is too large to be read, was never written, or unpacks to more than it says.

    Args:
        stored: dataset.
        where: names it in messages.
        part: share of its values that is read.

    Raises:
        InputError: it is.
    """
    size = count(stored.shape) * stored.dtype.itemsize
    largest = max(size * part, count(stored.chunks or (0,)) * stored.dtype.itemsize)
    if largest > MOST_BYTES:
        raise InputError(
            where,
            found=f"shape {stored.shape} of {stored.dtype}, of which {largest / 1e9:.3g} GB must be read at once",
            expected=f"at most {MOST_BYTES / 1e9:.2g} GB for one chip",
            repair="cut the place into smaller chips; if it is no larger than others, the file is damaged.",
        )
    if stored.is_virtual or stored.external:
        return
    if size and stored.id.get_space_status() == NOT_WRITTEN:
        raise InputError(
            where,
            found="a dataset whose values were never written",
            expected="values",
            repair="write the file again; the program that wrote it was probably interrupted.",
        )
    packed = stored.id.get_storage_size()
    if size > SMALL_BYTES and size > MOST_PACKED * packed:
        raise _bomb(where, f"{size / 1e9:.3g} GB in {packed} bytes of the file")
    if stored.chunks is not None:
        _check_chunks(stored, where)


def count(shape: tuple[int, ...]) -> int:
    """Number of values, without the overflow that numpy has."""
    found = 1
    for length in shape:
        found *= int(length)
    return found


def _check_chunks(stored: h5py.Dataset, where: str) -> None:
    """Refuse chunks that unpack to more than a chunk holds: libhdf5 asks for as much memory as they want."""
    packers = [code for code, *_ in _filters(stored) if code in PACKERS]
    if not packers:
        return
    if len(packers) > 1:
        raise _bomb(where, "chunks that are compressed several times")
    nominal = count(stored.chunks) * stored.dtype.itemsize
    # Data that cannot be compressed grow a little: deflate adds 5 bytes to every 16 KB.
    limit = int(nominal * 1.1) + 1024
    for chunk in _chunks(stored):
        if chunk.size > limit:
            raise _bomb(where, f"a chunk of {chunk.size} bytes for {nominal} bytes of values")
        if chunk.size * DEFLATE > MOST_BYTES and packers[0] == h5py.h5z.FILTER_DEFLATE:
            _, raw = stored.id.read_direct_chunk(chunk.chunk_offset)
            if _unpacks_beyond(raw, limit):
                raise _bomb(where, f"a chunk that unpacks to more than {nominal} bytes")


def _bomb(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="chunks that hold as many values as the shape says",
        repair="write the file again from its source; it is damaged, or was made to exhaust the memory.",
    )


def _filters(stored: h5py.Dataset) -> Iterator[tuple]:
    settings = stored.id.get_create_plist()
    return (settings.get_filter(i) for i in range(settings.get_nfilters()))


def _chunks(stored: h5py.Dataset) -> list[Any]:
    """Place and stored size of all chunks."""
    found: list[Any] = []
    if hasattr(stored.id, "chunk_iter"):
        stored.id.chunk_iter(found.append)
        return found
    return [stored.id.get_chunk_info(i) for i in range(stored.id.get_num_chunks())]  # libhdf5 before 1.12.3


def _unpacks_beyond(raw: bytes, limit: int) -> bool:
    """Whether deflated bytes hold more than so many; they are not kept."""
    stream, total = zlib.decompressobj(), 0
    while raw and not stream.eof and total <= limit:
        total += len(stream.decompress(raw, 1 << 20))
        raw = stream.unconsumed_tail
    return total > limit


def check_heaps(path: Path, most: int | None = None) -> None:
    """Refuse a file with a heap of texts of which libhdf5 reads one object of no size for ever.

    Args:
        path: HDF5 file.
        most: so many bytes from its beginning are searched; all if left out.

    Raises:
        InputError: it has one.
    """
    with refusing(path, expected="a complete HDF5 file"), path.open("rb") as file:
        place = 0
        while most is None or place < most:
            file.seek(place)
            piece = file.read(PIECE if most is None else most)
            start = piece.find(HEAP)
            while start >= 0:
                file.seek(place + start)
                if _is_endless(file.read(HEAP_HEADER + (1 << 16))):
                    raise InputError(
                        path,
                        found=f"a damaged list of texts at byte {place + start}",
                        expected="a complete HDF5 file",
                        repair="copy or write it again.",
                    )
                start = piece.find(HEAP, start + 1)
            if len(piece) < PIECE:
                return
            place += PIECE - len(HEAP)  # a signature may lie across the border


def _is_endless(heap: bytes) -> bool:
    """Whether a walk over the objects of a heap does not move on."""
    end = min(int.from_bytes(heap[8:16], "little"), len(heap))
    place = HEAP_HEADER
    while place + OBJECT_HEADER <= end:
        index = int.from_bytes(heap[place : place + 2], "little")
        size = int.from_bytes(heap[place + 8 : place + 16], "little")
        # The size of free space, whose index is 0, includes its header.
        step = OBJECT_HEADER + -(-size // 8) * 8 if index else size
        if step == 0:
            return True
        place += step
    return False
