"""Shards: samples for pre-training in plain tar files, each read whole and in one go, from disk or object storage.

A data set is a folder of uncompressed tars of one sensor each, in WebDataset naming, and a ``manifest.json`` that
lists them with their checksums. A member ``<key>.safetensors`` is one record. Places may be local paths or any address
that fsspec opens: ``s3://`` needs the package s3fs, ``gs://`` gcsfs.
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
from agrifm.errors import InputError, Unreadable, reason, refusing
from agrifm.network.files import NotRead, read_whole
from agrifm.sample import Sample

FORMAT, MANIFEST = "agrifm-shards-1", "manifest.json"
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MOST_BYTES = 16 << 30  # of a shard, which is read whole into memory
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
        if not all(isinstance(text, str) and PLAIN.fullmatch(text) for text in texts):
            raise ValueError(f"a shard with name, sensor and checksum {texts}")
        if type(self.samples) is not int or type(self.bytes) is not int:
            raise ValueError(f"shard {self.name} of {self.samples!r} samples and {self.bytes!r} bytes")
        if not 1 <= self.samples <= self.bytes // (2 * BLOCK) or self.bytes > MOST_BYTES:
            raise ValueError(f"shard {self.name} of {self.samples} samples and {self.bytes} bytes")

    def flaw(self, data: bytes) -> str | None:
        """What is wrong with the bytes that were read, or None."""
        if len(data) != self.bytes:
            return f"truncated or overlong: {len(data)} of {self.bytes} bytes"
        same = hashlib.sha256(data).hexdigest() == self.sha256
        return None if same else "corrupt: its checksum is another than the manifest's"


@dataclass(frozen=True)
class LostShard:
    """A shard that was left out, how many samples it held, and why."""

    name: str
    samples: int
    why: str


@dataclass
class _Held:
    """The shards of each sensor that were read last, by their members; the lock lets a shard be fetched once."""

    lock: Any = field(default_factory=Lock)
    members: defaultdict[str, dict[str, list[memoryview]]] = field(default_factory=lambda: defaultdict(dict))

    def __reduce__(self) -> tuple:
        """Another process begins with nothing."""
        return _Held, ()


@dataclass(frozen=True)
class Shards:
    """The samples of a data set, sensor by sensor; a ``Source``.

    Args:
        root: Folder or address.
        shards: Shards that are used, in the order of their samples.
        lost: Shards that were left out.
        keep: Shards of each sensor held in memory; a window of a ``Stream`` should fit (``Stream.held``).
    """

    root: str
    shards: tuple[Shard, ...]
    lost: tuple[LostShard, ...] = ()
    keep: int = 3
    _held: _Held = field(default_factory=_Held, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str, *, lost: Literal["refuse", "skip"] = "refuse", keep: int = 3) -> Shards:
        """Read the manifest and check the sizes of local shards; ``count`` verifies them whole and leaves out bad ones.

        Remote shards are verified when they are read: to fetch all of them first would take as long as a pass.

        Raises:
            InputError: If the manifest is missing or of another format, a shard is bad, or none is left.
        """
        root, listed = str(path).rstrip("/"), _manifest(str(path).rstrip("/"))
        listed = sorted(listed, key=lambda shard: shard.sensor)  # stable: the order of the manifest within a sensor
        found, good, bad = cls(root, tuple(listed), (), keep), [], []
        for shard in listed:
            try:
                if not is_address(root):
                    found.fetch(shard) if lost == "skip" else found._check_size(shard)
                good.append(shard)
            except Unreadable as error:
                if lost == "refuse":
                    raise
                bad.append(LostShard(shard.name, shard.samples, error.found))
        if not good:
            raise InputError(
                root, found=f"{len(bad)} shards, all bad", expected="a good shard", repair="fetch the data set again."
            )
        return cls(root, tuple(good), tuple(bad), keep)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the shards in use: equal where the samples and their order are."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @property
    def groups(self) -> Groups:
        """By sensor: index of the first sample, and how many samples each of its shards holds."""
        sizes, groups, first = defaultdict(list), {}, 0
        for shard in self.shards:
            sizes[shard.sensor].append(shard.samples)
        for sensor, several in sizes.items():
            groups[sensor], first = (first, tuple(several)), first + sum(several)
        return groups

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        return self.record(index).sample(frames)

    def record(self, index: int) -> Record:
        """One sample as it is stored.

        Raises:
            InputError: If its shard is missing, truncated or corrupt, or the record is wrong.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = self.shards[number := bisect_right(self._ends, index)]
        member = index - self._ends[number] + shard.samples
        where = f"{self._at(shard)}: record {member}"
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
        """Fetch a whole shard and verify it; a remote one is asked for again before it counts as bad.

        Raises:
            Unreadable: If it is missing, truncated or corrupt.
        """
        try:
            return read_whole(self._at(shard), shard.flaw, shard.bytes)
        except NotRead as error:
            raise self._bad(shard, str(error)) from error

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(shard.samples for shard in self.shards))

    def _at(self, shard: Shard) -> str:
        return f"{self.root}/{shard.name}"

    def _check_size(self, shard: Shard) -> None:
        try:
            size = os.stat(self._at(shard)).st_size
        except OSError as error:
            raise self._bad(shard, f"missing: {error.strerror}") from error
        if size != shard.bytes:
            raise self._bad(shard, f"truncated or overlong: {size} of {shard.bytes} bytes")

    def _members(self, shard: Shard) -> list[memoryview]:
        """The members of a shard in their order; they stay in memory, nothing is unpacked."""
        with self._held.lock:
            held = self._held.members[shard.sensor]
            members = held.pop(shard.name, None) or self._parse(shard, self.fetch(shard))
            held[shard.name] = members  # last: the one read most recently
            while len(held) > self.keep:
                del held[next(iter(held))]
        return members

    def _parse(self, shard: Shard, data: bytes) -> list[memoryview]:
        try:
            found = list(_members_of(data))
        except Exception as error:  # of a damaged tar: errors of tar, of numbers, of text
            raise self._bad(shard, f"no tar: {reason(error)}") from error
        if len(found) != shard.samples:
            raise self._bad(shard, f"{len(found)} records where the manifest says {shard.samples}")
        return found

    def _bad(self, shard: Shard, found: str) -> Unreadable:
        without = f"delete its line in {MANIFEST}" if is_address(self.root) else "set 'data.shards.damaged: skip'"
        return Unreadable(
            self._at(shard),
            found=found,
            expected=f"the whole shard, {shard.bytes} bytes; {shard.samples} samples of {shard.sensor} are lost",
            repair=f"fetch it again and resume; or {without} and begin a new run without it.",
        )


def _members_of(data: bytes) -> Iterator[memoryview]:
    """The records in a tar; nothing is unpacked, so that their names lead nowhere."""
    last = -1
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as file:
        for member in file:
            # A negative size would lead back to members that were read already, for ever.
            if member.offset <= last or member.size < 0 or member.offset_data + member.size > len(data):
                raise tarfile.ReadError(f"member {member.name!r} has a size of {member.size} bytes")
            last = member.offset
            if member.isreg() and not member.issparse() and member.name.endswith(".safetensors"):
                yield memoryview(data)[member.offset_data : member.offset_data + member.size]


def _manifest(root: str) -> list[Shard]:
    where = f"{root}/{MANIFEST}"
    expected = f'{{"format": "{FORMAT}", "classes": [{", ".join(COVERS)}], "shards": [...]}}'
    with refusing(
        where,
        expected=expected,
        repair="name the folder that 'agrifm fractions build' wrote; if its manifest is damaged, fetch it again; "
        "if a package is missing, install it.",
    ):
        read = json.loads(read_whole(where))
        if read["format"] != FORMAT or read["classes"] != list(COVERS):
            raise ValueError(f"format {read['format']} with classes {read['classes']}")
        shards = [Shard(**line) for line in read["shards"]]
        if not shards or len({shard.name for shard in shards}) < len(shards):
            raise ValueError("no shards, or one of them twice")
        _check_counts(shards, read.get("sensors"))
        return shards


def _check_counts(shards: list[Shard], told: Any) -> None:
    """Refuse a manifest whose counts of samples contradict its shards; it need not have any."""
    counts: defaultdict[str, int] = defaultdict(int)
    for shard in shards:
        counts[shard.sensor] += shard.samples
    if told is not None and {sensor: entry["samples"] for sensor, entry in told.items()} != counts:
        raise ValueError(f"shards of {dict(counts)} samples where 'sensors' says {told}")
