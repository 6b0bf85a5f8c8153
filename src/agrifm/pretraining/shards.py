"""Shards: samples for pre-training in plain tar files, each read whole and in one go, from disk or object storage.

A data set is a folder of uncompressed tars of one sensor each, in WebDataset naming, and a ``manifest.json`` that
lists them with their checksums. A member ``<key>.safetensors`` is one record. The folder may be a local path or any
address that fsspec opens: ``s3://`` needs the package s3fs, ``gs://`` gcsfs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from agrifm.addresses import is_address
from agrifm.data.chips import FrameChoice
from agrifm.data.records import COVERS, Record
from agrifm.errors import InputError, Unreadable, counted, reason, refusing
from agrifm.network.files import NotRead, read_whole
from agrifm.sample import Sample

FORMAT, MANIFEST = "agrifm-shards-1", "manifest.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MAX_BYTES = 16 << 30  # of a shard, which is read whole into memory
BLOCK = 512  # bytes; each member of a tar takes at least one for its header and one for its content

Groups = Mapping[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Shard:
    """A line of the manifest: one tar."""

    name: str
    sensor: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        texts = (self.name, self.sensor, self.sha256)
        if not all(isinstance(text, str) and PLAIN_NAME.fullmatch(text) for text in texts):
            raise ValueError(f"a shard with name, sensor and checksum {texts}")
        if type(self.samples) is not int or type(self.bytes) is not int:
            raise ValueError(f"shard {self.name} of {self.samples!r} samples and {self.bytes!r} bytes")
        if not 1 <= self.samples <= self.bytes // (2 * BLOCK) or self.bytes > MAX_BYTES:
            raise ValueError(f"shard {self.name} of {self.samples} samples and {self.bytes} bytes")

    def flaw(self, data: bytes) -> str | None:
        """What is wrong with the bytes that were read, or None."""
        if len(data) != self.bytes:
            return f"truncated or overlong: {len(data)} of {self.bytes} bytes"
        if hashlib.sha256(data).hexdigest() != self.sha256:
            return "corrupt: its checksum differs from that in the manifest"
        return None


@dataclass(frozen=True)
class LostShard:
    """A shard that was left out: its name, its number of samples, and the reason."""

    name: str
    samples: int
    why: str


@dataclass
class _Cache:
    """The shards of each sensor that were read last, by their members; the lock lets a shard be fetched once."""

    lock: Any = field(default_factory=Lock)
    members: defaultdict[str, dict[str, list[memoryview]]] = field(default_factory=lambda: defaultdict(dict))

    def __reduce__(self) -> tuple:
        """Pickle without content: another process starts with an empty cache."""
        return _Cache, ()


@dataclass(frozen=True)
class Shards:
    """The samples of a data set, sensor by sensor; a ``SampleSource``.

    Args:
        root: Folder or address.
        shards: Shards in use, in the order of their samples.
        lost: Shards that were left out.
        keep: Shards of each sensor held in memory; those of one window of a ``Stream`` should fit.
    """

    root: str
    shards: tuple[Shard, ...]
    lost: tuple[LostShard, ...] = ()
    keep: int = 3
    _cache: _Cache = field(default_factory=_Cache, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str, *, damaged: Literal["refuse", "skip"] = "refuse", keep: int = 3) -> Shards:
        """Read the manifest and check local shards.

        Remote shards are verified when they are read: fetching all of them first would take as long as a pass.

        Args:
            path: Folder or address.
            damaged: ``refuse`` checks the sizes of local shards; ``skip`` verifies them whole and leaves out bad ones.
            keep: Shards of each sensor held in memory.

        Raises:
            InputError: If the manifest is missing or has another format, a shard is bad, or none is left.
        """
        root = str(path).rstrip("/")
        # Sorting is stable: within a sensor the order of the manifest stays.
        listed = sorted(_read_manifest(root), key=lambda shard: shard.sensor)
        data_set = cls(root, tuple(listed), (), keep)
        if is_address(root):
            return data_set
        good: list[Shard] = []
        lost: list[LostShard] = []
        for shard in listed:
            try:
                if damaged == "skip":
                    data_set.fetch(shard)
                else:
                    data_set._check_size(shard)
                good.append(shard)
            except Unreadable as error:
                if damaged == "refuse":
                    raise
                lost.append(LostShard(shard.name, shard.samples, error.found))
        if not good:
            raise InputError(
                root,
                found=f"{counted(len(lost), 'shard')}, none of them good",
                expected="a good shard",
                repair="fetch the data set again.",
            )
        return cls(root, tuple(good), tuple(lost), keep)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the shards in use; equal data sets in equal order have equal ones."""
        checksums = "\n".join(shard.sha256 for shard in self.shards)
        return hashlib.sha256(checksums.encode()).hexdigest()

    @property
    def groups(self) -> Groups:
        """By sensor, the index of its first sample and the number of samples of each of its shards."""
        sizes = defaultdict(list)
        for shard in self.shards:
            sizes[shard.sensor].append(shard.samples)
        groups = {}
        first = 0
        for sensor, of_sensor in sizes.items():
            groups[sensor] = first, tuple(of_sensor)
            first += sum(of_sensor)
        return groups

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, only the chosen frames."""
        return self.record(index).sample(frames)

    def record(self, index: int) -> Record:
        """Read one sample as it is stored.

        Raises:
            InputError: If its shard is missing, truncated or corrupt, or the record is wrong.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        shard = self.shards[number]
        member = index - self._ends[number] + shard.samples
        where = f"{self._path(shard)}: record {member}"
        record = Record.from_bytes(bytes(self._members(shard)[member]), where)
        if record.sensor != shard.sensor:
            raise InputError(
                where,
                found=f"a sample of {record.sensor}",
                expected=f"samples of {shard.sensor}, as {MANIFEST} says",
                repair="fetch the data set again, or write it again with 'agrifm fractions build'.",
            )
        return record

    def fetch(self, shard: Shard) -> bytes:
        """Fetch a whole shard and verify it; a remote one is requested again before it counts as bad.

        Raises:
            Unreadable: If it is missing, truncated or corrupt.
        """
        try:
            return read_whole(self._path(shard), shard.flaw, shard.bytes)
        except NotRead as error:
            raise self._unreadable(shard, str(error)) from error

    @cached_property
    def _ends(self) -> list[int]:
        """Index after the last sample of each shard."""
        return list(accumulate(shard.samples for shard in self.shards))

    def _path(self, shard: Shard) -> str:
        return f"{self.root}/{shard.name}"

    def _check_size(self, shard: Shard) -> None:
        try:
            size = os.stat(self._path(shard)).st_size
        except OSError as error:
            raise self._unreadable(shard, f"missing: {error.strerror}") from error
        if size != shard.bytes:
            raise self._unreadable(shard, f"truncated or overlong: {size} of {shard.bytes} bytes")

    def _members(self, shard: Shard) -> list[memoryview]:
        """The members of a shard in their order, from memory if it was read recently."""
        with self._cache.lock:
            cached = self._cache.members[shard.sensor]
            members = cached.pop(shard.name, None) or self._parse(shard, self.fetch(shard))
            cached[shard.name] = members  # last in the dictionary: the one that was used most recently
            while len(cached) > self.keep:
                del cached[next(iter(cached))]
        return members

    def _parse(self, shard: Shard, data: bytes) -> list[memoryview]:
        try:
            members = list(_records_in(data))
        except Exception as error:  # of a damaged tar: errors of tar, of numbers, of text
            raise self._unreadable(shard, f"no tar: {reason(error)}") from error
        if len(members) != shard.samples:
            raise self._unreadable(shard, f"{counted(len(members), 'record')} where the manifest says {shard.samples}")
        return members

    def _unreadable(self, shard: Shard, found: str) -> Unreadable:
        if is_address(self.root):
            leave_out = f"delete its line in {MANIFEST}"
        else:
            leave_out = "set 'data.shards.damaged: skip'"
        lost = counted(shard.samples, f"sample of {shard.sensor} is lost", f"samples of {shard.sensor} are lost")
        return Unreadable(
            self._path(shard),
            found=found,
            expected=f"the whole shard, {shard.bytes} bytes; {lost}",
            repair=f"fetch it again and resume; or {leave_out} and begin a new run without it.",
        )


def _records_in(data: bytes) -> Iterator[memoryview]:
    """The records in a tar; nothing is unpacked, so the names of members cannot lead to other files."""
    last = -1
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as file:
        for member in file:
            start = member.offset_data
            end = start + member.size
            # A negative size would lead back to earlier members, in an endless loop.
            if member.offset <= last or member.size < 0 or end > len(data):
                raise tarfile.ReadError(f"member {member.name!r} has a size of {member.size} bytes")
            last = member.offset
            if member.isreg() and not member.issparse() and member.name.endswith(".safetensors"):
                yield memoryview(data)[start:end]


def _read_manifest(root: str) -> list[Shard]:
    where = f"{root}/{MANIFEST}"
    expected = f'{{"format": "{FORMAT}", "classes": [{", ".join(COVERS)}], "shards": [...]}}'
    with refusing(
        where,
        expected=expected,
        repair="name the folder that 'agrifm fractions build' wrote; if its manifest is damaged, fetch it again; "
        "if a package is missing, install it.",
    ):
        manifest = json.loads(read_whole(where))
        if manifest["format"] != FORMAT or manifest["classes"] != list(COVERS):
            raise ValueError(f"format {manifest['format']} with classes {manifest['classes']}")
        shards = [Shard(**line) for line in manifest["shards"]]
        names = {shard.name for shard in shards}
        if not shards or len(names) < len(shards):
            raise ValueError("no shards, or one of them twice")
        _check_counts(shards, manifest.get("sensors"))
        return shards


def _check_counts(shards: list[Shard], stated: Any) -> None:
    """Refuse a manifest whose counts of samples, which are optional, contradict its shards."""
    counts: defaultdict[str, int] = defaultdict(int)
    for shard in shards:
        counts[shard.sensor] += shard.samples
    if stated is not None and {sensor: entry["samples"] for sensor, entry in stated.items()} != counts:
        raise ValueError(f"shards of {dict(counts)} samples where 'sensors' says {stated}")
