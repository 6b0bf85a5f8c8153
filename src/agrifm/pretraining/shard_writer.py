"""Write samples for pre-training into shards; see ``shards`` for what they are."""

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
from agrifm.pretraining.shards import FORMAT, MANIFEST, PLAIN, Shard


class ShardWriter:
    """Writes records into shards, one open for each sensor; the folder appears whole when the block ends without error.

    One process writes a folder at a time. What a killed one left unfinished is replaced.

    Args:
        folder: Folder to make.
        size: Samples in a shard.
        overwrite: Replace a data set of that name.
        made_from: Told in the manifest.

    Raises:
        InputError: If the folder is there; or it holds no data set and shall be replaced.
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
        self.overwrite = overwrite
        self.unfinished = self.folder.with_name(f".{self.folder.name}.part")
        self.earlier = self.folder.with_name(f".{self.folder.name}.earlier")
        self.open: dict[str, tarfile.TarFile] = {}
        self.samples: Counter[str] = Counter()
        self.shards: list[Shard] = []
        self._refuse_existing()
        self._held = ExitStack()

    def __enter__(self) -> ShardWriter:
        with ExitStack() as held:
            held.enter_context(locked(self.folder))
            # Another process may have finished while this one waited for its first sample.
            self._restore()
            self._refuse_existing()
            with writing(self.folder):
                shutil.rmtree(self.unfinished, ignore_errors=True)
                self.unfinished.mkdir(parents=True)
            self._held = held.pop_all()
        return self

    def _refuse_existing(self) -> None:
        if self.folder.exists() and not (self.overwrite and (self.folder / MANIFEST).is_file()):
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
            InputError: If its sensor's name cannot be a file's, or the record does not fit together.
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
            with writing(self.folder):
                self.open[sensor] = tarfile.open(self.unfinished / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        data = record.to_bytes()
        member = tarfile.TarInfo(f"{sensor}-{number:09d}.safetensors")
        member.size = len(data)
        with writing(self.folder):
            self.open[sensor].addfile(member, io.BytesIO(data))
            self.samples[sensor] += 1
            if self.samples[sensor] % self.size == 0:
                self._close(sensor)

    def attach(self, name: str, text: str) -> None:
        """Write a text, e.g. a report, that lies in the folder when it appears.

        Raises:
            InputError: If the disk is full.
        """
        with writing(self.folder):
            (self.unfinished / name).write_text(text, encoding="utf-8")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._held:
            try:
                if kind is None:
                    with writing(self.folder):
                        self._finish()
            finally:
                for file in self.open.values():
                    with suppress(OSError):  # of a full disk: it was refused before
                        file.fileobj.close()
                shutil.rmtree(self.unfinished, ignore_errors=True)

    def _finish(self) -> None:
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
        for path in (*self.unfinished.iterdir(), self.unfinished):
            sync(path)
        if self.folder.exists():
            self.folder.replace(self.earlier)
        self.unfinished.replace(self.folder)
        sync(self.folder.parent)
        shutil.rmtree(self.earlier, ignore_errors=True)

    def _close(self, sensor: str) -> None:
        file = self.open[sensor]
        file.close()
        del self.open[sensor]
        path = Path(str(file.name))
        digest = sha256(path)
        samples = (self.samples[sensor] - 1) % self.size + 1
        self.shards.append(Shard(path.name, sensor, samples, path.stat().st_size, digest))
