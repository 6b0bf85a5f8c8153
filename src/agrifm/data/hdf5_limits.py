"""Memory limits for datasets in HDF5 files of unknown origin, checked before memory is allocated."""

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

HEAP = b"GCOL\x01\0\0\0"  # a heap of variable-length texts: signature, version, zeros; its size follows in 8 bytes
HEAP_HEADER = OBJECT_HEADER = 16
MOST_HEAP = 1 << 16  # bytes of a heap that are walked
PIECE = 16 << 20  # bytes that are searched at once

NOT_WRITTEN = h5py.h5d.SPACE_STATUS_NOT_ALLOCATED
COMPRESSORS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF)


def check_memory(stored: h5py.Dataset, where: str, part: float = 1.0) -> None:
    """Refuse a dataset that is too large to read, was never written, or unpacks to more than it declares.

    Args:
        stored: Dataset to check.
        where: File and key of the dataset, for messages.
        part: Memory for the selected values relative to that for all of them.

    Raises:
        InputError: If it is any of these.
    """
    value_size = stored.dtype.itemsize
    size = count(stored.shape) * value_size
    chunk_size = count(stored.chunks or (0,)) * value_size
    largest = max(size * part, chunk_size)
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
        raise _unpacks_too_much(where, f"{size / 1e9:.3g} GB in {packed} bytes of the file")
    if stored.chunks is not None:
        _check_chunks(stored, where)


def count(shape: tuple[int, ...]) -> int:
    """Return the number of values, without the integer overflow of numpy."""
    total = 1
    for length in shape:
        total *= int(length)
    return total


def _check_chunks(stored: h5py.Dataset, where: str) -> None:
    """Refuse chunks that unpack to more than a chunk holds: libhdf5 allocates as much memory as they ask for."""
    compressors = [code for code, *_ in _filters(stored) if code in COMPRESSORS]
    if not compressors:
        return
    if len(compressors) > 1:
        raise _unpacks_too_much(where, "chunks that are compressed several times")
    nominal = count(stored.chunks) * stored.dtype.itemsize
    # Data that cannot be compressed grow a little: deflate adds 5 bytes to every 16 KB.
    limit = int(nominal * 1.1) + 1024
    for chunk in _chunks(stored):
        if chunk.size > limit:
            raise _unpacks_too_much(where, f"a chunk of {chunk.size} bytes for {nominal} bytes of values")
        may_exhaust_memory = chunk.size * DEFLATE > MOST_BYTES
        if may_exhaust_memory and compressors[0] == h5py.h5z.FILTER_DEFLATE:
            _, raw = stored.id.read_direct_chunk(chunk.chunk_offset)
            if _unpacks_beyond(raw, limit):
                raise _unpacks_too_much(where, f"a chunk that unpacks to more than {nominal} bytes")


def _unpacks_too_much(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="chunks that hold as many values as the shape declares",
        repair="write the file again from its source; it is damaged, or was made to exhaust the memory.",
    )


def _filters(stored: h5py.Dataset) -> Iterator[tuple]:
    settings = stored.id.get_create_plist()
    for number in range(settings.get_nfilters()):
        yield settings.get_filter(number)


def _chunks(stored: h5py.Dataset) -> list[Any]:
    """Return offset and stored size of all chunks."""
    chunks: list[Any] = []
    if hasattr(stored.id, "chunk_iter"):
        stored.id.chunk_iter(chunks.append)
        return chunks
    # libhdf5 before 1.12.3
    for number in range(stored.id.get_num_chunks()):
        chunks.append(stored.id.get_chunk_info(number))
    return chunks


def _unpacks_beyond(raw: bytes, limit: int) -> bool:
    """Whether deflated bytes hold more than ``limit`` bytes; the result is not kept."""
    stream = zlib.decompressobj()
    total = 0
    while raw and not stream.eof and total <= limit:
        total += len(stream.decompress(raw, 1 << 20))
        raw = stream.unconsumed_tail
    return total > limit


def check_heaps(path: Path, most: int | None = None) -> None:
    """Refuse a file with a damaged heap of texts, which libhdf5 would read without end.

    Args:
        path: Path of the HDF5 file.
        most: Number of bytes at its beginning that are searched; None searches all of it.

    Raises:
        InputError: If it has one.
    """
    with refusing(path, expected="a complete HDF5 file"), path.open("rb") as file:
        place = 0
        while most is None or place < most:
            file.seek(place)
            piece = file.read(PIECE if most is None else most)
            start = piece.find(HEAP)
            while start >= 0:
                file.seek(place + start)
                if _is_endless(file.read(HEAP_HEADER + MOST_HEAP)):
                    raise InputError(
                        path,
                        found=f"a damaged list of texts at byte {place + start}",
                        expected="a complete HDF5 file",
                        repair="copy or write it again.",
                    )
                start = piece.find(HEAP, start + 1)
            if len(piece) < PIECE:
                return
            place += PIECE - len(HEAP)  # a signature may lie across the border of two pieces


def _is_endless(heap: bytes) -> bool:
    """Whether a walk over the objects of a heap stops moving on."""
    declared = int.from_bytes(heap[8:16], "little")
    end = min(declared, len(heap))
    place = HEAP_HEADER
    while place + OBJECT_HEADER <= end:
        index = int.from_bytes(heap[place : place + 2], "little")
        size = int.from_bytes(heap[place + 8 : place + 16], "little")
        padded_size = -(-size // 8) * 8
        # The size of free space, whose index is 0, includes its header.
        step = OBJECT_HEADER + padded_size if index else size
        if step == 0:
            return True
        place += step
    return False
