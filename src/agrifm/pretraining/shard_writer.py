"""Writer of shards; see ``shards`` for their format."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agrifm.data.records import COVERS, Record
from agrifm.errors import InputError
from agrifm.io import locked, sha256, sync, writing
from agrifm.pretraining.shards import FORMAT, MANIFEST, PLAIN_NAME, Shard


class ShardWriter:
    """Writes records into shards, one open for each sensor; the folder appears whole when the block ends without error.

    One process writes a folder at a time. The unfinished folder of a killed process is replaced.

    Args:
        folder: Folder to make.
        size: Samples in a shard.
        overwrite: Whether to replace a data set of that name.
        made_from: Description of the inputs, which is stored in the manifest.

    Raises:
        InputError: If the folder exists, or should be replaced but holds no data set.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int = 256,
        overwrite: bool = False,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.size = size
        self.overwrite = overwrite
        self.made_from = dict(made_from or {})
        self.unfinished = self.folder.with_name(f".{self.folder.name}.part")
        self.earlier = self.folder.with_name(f".{self.folder.name}.earlier")
        self.open_shards: dict[str, tarfile.TarFile] = {}
        self.samples: Counter[str] = Counter()
        self.shards: list[Shard] = []
        self._lock = ExitStack()
        self._refuse_existing()

    def __enter__(self) -> ShardWriter:
        with ExitStack() as lock:
            lock.enter_context(locked(self.folder))
            # Another process may have finished while this one waited for its first sample.
            self._restore()
            self._refuse_existing()
            with writing(self.folder):
                shutil.rmtree(self.unfinished, ignore_errors=True)
                self.unfinished.mkdir(parents=True)
            self._lock = lock.pop_all()  # released at the end of the block
        return self

    def _refuse_existing(self) -> None:
        if not self.folder.exists():
            return
        is_data_set = (self.folder / MANIFEST).is_file()
        if not (self.overwrite and is_data_set):
            raise InputError(
                self.folder,
                found="something of that name" + (", but no data set" if self.overwrite else ""),
                expected="a new folder",
                repair="name another folder, delete this one, or replace a data set with --overwrite.",
            )

    def _restore(self) -> None:
        """Put back the data set that a process was replacing when it was killed between two renames."""
        if self.earlier.exists() and not self.folder.exists():
            self.earlier.replace(self.folder)
        shutil.rmtree(self.earlier, ignore_errors=True)

    def add(self, record: Record) -> None:
        """Add one sample.

        Raises:
            InputError: If the name of its sensor is no file name, or the parts of the record do not fit together.
        """
        where = f"record {record.name}"
        record.check(where)
        sensor = record.sensor
        if not PLAIN_NAME.fullmatch(sensor):
            raise InputError(
                where, found=f"sensor '{sensor}'", expected="letters, digits, _ and -", repair="rename the sensor."
            )
        number = self.samples[sensor]
        data = record.to_bytes()
        member = tarfile.TarInfo(f"{sensor}-{number:09d}.safetensors")
        member.size = len(data)
        with writing(self.folder):
            if sensor not in self.open_shards:
                path = self.unfinished / f"{sensor}-{number // self.size:05d}.tar"
                self.open_shards[sensor] = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.open_shards[sensor].addfile(member, io.BytesIO(data))
            self.samples[sensor] += 1
            if self.samples[sensor] % self.size == 0:
                self._close(sensor)

    def attach(self, name: str, text: str) -> None:
        """Write a text, e.g. a report, into the folder, before it appears.

        Raises:
            InputError: If the disk is full.
        """
        with writing(self.folder):
            (self.unfinished / name).write_text(text, encoding="utf-8")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            try:
                if kind is None:
                    with writing(self.folder):
                        self._finish()
            finally:
                for shard in self.open_shards.values():
                    with suppress(OSError):  # a full disk, which was refused before
                        shard.fileobj.close()
                shutil.rmtree(self.unfinished, ignore_errors=True)

    def _finish(self) -> None:
        for sensor in sorted(self.open_shards):
            self._close(sensor)
        self.shards.sort(key=lambda shard: shard.name)
        manifest = {
            "format": FORMAT,
            "classes": list(COVERS),
            "shards": [asdict(shard) for shard in self.shards],
            "sensors": {sensor: {"samples": self.samples[sensor]} for sensor in sorted(self.samples)},
            "made_from": self.made_from,
        }
        (self.unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        # All bytes reach the disk before a name points to them.
        for path in (*self.unfinished.iterdir(), self.unfinished):
            sync(path)
        if self.folder.exists():
            self.folder.replace(self.earlier)
        self.unfinished.replace(self.folder)
        sync(self.folder.parent)
        shutil.rmtree(self.earlier, ignore_errors=True)

    def _close(self, sensor: str) -> None:
        shard = self.open_shards[sensor]
        shard.close()  # stays in open_shards if the disk is full here, and is closed at the end of the block
        del self.open_shards[sensor]
        path = Path(str(shard.name))
        samples = (self.samples[sensor] - 1) % self.size + 1
        self.shards.append(Shard(path.name, sensor, samples, path.stat().st_size, sha256(path)))
