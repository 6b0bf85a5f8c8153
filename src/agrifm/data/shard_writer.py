"""Write samples for pre-training into shards; see ``shards`` for what they are."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agrifm.data.records import COVERS, Record
from agrifm.data.shards import FORMAT, MANIFEST, PLAIN, Shard
from agrifm.errors import InputError


class ShardWriter:
    """Writes records into shards, one open for each sensor; the folder appears whole when the block ends without error.

    Args:
        folder: to make.
        size: samples in a shard.
        overwrite: replace a data set of that name.
        made_from: told in the manifest.

    Raises:
        InputError: the folder is there; or it holds no data set and shall be replaced.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int = 256,
        overwrite: bool = False,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.size, self.made_from = Path(folder), size, dict(made_from or {})
        self.unfinished = self.folder.with_name(f".{self.folder.name}.part")
        if self.folder.exists() and not (overwrite and (self.folder / MANIFEST).is_file()):
            raise InputError(
                folder,
                found="something of that name" + (", but no data set" if overwrite else ""),
                expected="a new folder",
                repair="name another folder, delete this one, or replace a data set with --overwrite.",
            )
        self.open: dict[str, tarfile.TarFile] = {}
        self.samples: Counter[str] = Counter()
        self.shards: list[Shard] = []

    def __enter__(self) -> ShardWriter:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir(parents=True)
        return self

    def add(self, record: Record) -> None:
        """Add one sample.

        Raises:
            InputError: its sensor's name cannot be a file's, or the record does not fit together.
        """
        where = f"record {record.name}"
        record.check(where)
        sensor, number = record.sensor, self.samples[record.sensor]
        if not PLAIN.fullmatch(sensor):
            raise InputError(
                where, found=f"sensor '{sensor}'", expected="letters, digits, _ and -", repair="rename the sensor."
            )
        if sensor not in self.open:
            name = f"{sensor}-{number // self.size:05d}.tar"
            self.open[sensor] = tarfile.open(self.unfinished / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        data = record.to_bytes()
        member = tarfile.TarInfo(f"{sensor}-{number:09d}.safetensors")
        member.size = len(data)
        self.open[sensor].addfile(member, io.BytesIO(data))
        self.samples[sensor] += 1
        if self.samples[sensor] % self.size == 0:
            self._close(sensor)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for file in self.open.values():
                file.fileobj.close()
            shutil.rmtree(self.unfinished)
            return
        for sensor in sorted(self.open):
            self._close(sensor)
        manifest = {
            "format": FORMAT,
            "classes": list(COVERS),
            "shards": [asdict(shard) for shard in sorted(self.shards, key=lambda shard: shard.name)],
            "sensors": {sensor: {"samples": self.samples[sensor]} for sensor in sorted(self.samples)},
            "made_from": self.made_from,
        }
        (self.unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.unfinished.replace(self.folder)

    def _close(self, sensor: str) -> None:
        file = self.open.pop(sensor)
        file.close()
        path = Path(str(file.name))
        with path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        samples = (self.samples[sensor] - 1) % self.size + 1
        self.shards.append(Shard(path.name, sensor, samples, path.stat().st_size, digest))
