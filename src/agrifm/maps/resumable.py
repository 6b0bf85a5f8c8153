"""One run that turns tiles into files: resumed after any stop, with all files appearing together at its end."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError, Unreadable
from agrifm.io import checksum, locked, write_whole
from agrifm.maps.files.writer import refuse_existing
from agrifm.maps.inputs import changed, hrefs_of
from agrifm.maps.options import EmbedOptions, MapOptions
from agrifm.maps.provenance import Provenance, fingerprint, provenance_of
from agrifm.maps.runner import work
from agrifm.maps.store import DamagedTile, Store
from agrifm.maps.tiles import TileJob, impossible_key
from agrifm.progress import Timing
from agrifm.scenes.scene import Scene

Options = TypeVar("Options", MapOptions, EmbedOptions)
Job = TypeVar("Job", bound=TileJob)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Run(ABC, Generic[Job, Options, Result]):
    """A run with its arguments.

    Args:
        checkpoint: The model.
        models: Paths of the checkpoints.
        scene: The whole scene.
        out: Main file to write.
        options: Options that decide the pixels.
        console: Where progress is shown.
    """

    checkpoint: Checkpoint
    models: tuple[Path, ...]
    scene: Scene
    out: Path
    options: Options
    console: Console
    timing: Timing = field(default_factory=Timing, init=False, compare=False)

    noun: ClassVar[str]  # what is written, in messages

    @abstractmethod
    def plan(self, scene: Scene) -> Job:
        """Collect everything that decides the pixels."""

    @abstractmethod
    def known_files(self) -> list[Path]:
        """All files that can belong to the product besides its provenance, the main file first."""

    @abstractmethod
    def write(self, job: Job, store: Store, folder: Path) -> tuple[list[Path], dict[str, Any]]:
        """Write all files except the provenance to a folder.

        Returns:
            Their final paths, the main file first, and what was measured on them, for the provenance.
        """

    @abstractmethod
    def result(self, job: Job, files: Sequence[Path], values: Mapping[str, Any]) -> Result:
        """Describe the finished product by its files and the values of its provenance."""

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Refuse to overwrite files unless the user wants it.

        Raises:
            InputError: If one exists.
        """
        refuse_existing(self.out, overwrite=overwrite)

    def prepare(self, job: Job, store: Store) -> Job:
        """Complete a job by what is derived from the scene and kept with the tiles."""
        return job

    def complete(
        self, *, overwrite: bool = False, skip_unreadable: bool = False, workers: int = 1, dask: str | None = None
    ) -> Result:
        """Compute what is missing, write the files, and return the finished product.

        Raises:
            InputError: If a file cannot be read or has changed, another product exists, or the disk is full.
        """
        with locked(self.out):
            completed = self._store.complete(self.out, (*self.known_files(), self._provenance))
            if completed:
                self.console.print(f"completed the {self.noun} of a run that was stopped at its end", highlight=False)
            finished = self._finished(skip_unreadable=skip_unreadable) if completed or not overwrite else None
            if finished is not None:
                return finished
            self.refuse_existing(overwrite=overwrite)
            return self._make(overwrite=overwrite, skip_unreadable=skip_unreadable, workers=workers, dask=dask)

    @property
    def _store(self) -> Store:
        return Store.beside(self.out)

    @property
    def _provenance(self) -> Path:
        return Provenance.beside(self.out)

    def _job(self, skipped: Iterable[str] = ()) -> Job:
        """The job without some files."""
        scene = self.scene
        for href in skipped:
            if href not in scene.skipped:
                scene = scene.without(href)
        return self.plan(scene)

    def _finished(self, *, skip_unreadable: bool) -> Result | None:
        """The existing product, if it was computed from exactly the inputs of this run."""
        if not (self.out.exists() and self._provenance.is_file()):
            return None
        try:
            provenance = Provenance.load(self._provenance)
            job = self._job(provenance.scene.skipped if skip_unreadable else ())
        except InputError:  # the provenance of another product
            return None
        files = [self.out.with_name(name) for name in provenance.document.files]
        for file in files:
            if not file.exists() or checksum(file) != provenance.document.files[file.name]:
                return None
        if files[0] != self.out or not provenance.describes(job, self.models, self.options):
            return None
        self.console.print(f"{self.out} is finished already", highlight=False)
        return self.result(job, (*files, self._provenance), provenance.values)

    def _make(self, *, overwrite: bool, skip_unreadable: bool, workers: int, dask: str | None) -> Result:
        """Compute missing tiles, and write the files."""
        store = self._store
        afresh = overwrite
        job = self._first_job(store, overwrite=overwrite, skip_unreadable=skip_unreadable)
        recomputed: set[Path] = set()
        while True:
            request = fingerprint(job, self.models)
            store.open(request, afresh=afresh)
            try:
                job = self.prepare(job, store)
                work(job, store, self.console, self.timing, workers=workers, dask=dask)
                return self._finish(job, store, request)
            except Unreadable as error:
                if not skip_unreadable or error.where not in hrefs_of(job.scene):
                    raise
                self.console.print(f"left out: {error.where}", highlight=False)
                job = self._job((*job.scene.skipped, error.where))
                afresh = True
            except DamagedTile as error:
                if error.path in recomputed:
                    raise _bad_disk(error.path) from error
                recomputed.add(error.path)
                store.drop(error.path)
                self.console.print(f"computed again because it was damaged: tile {error.path.name}", highlight=False)

    def _first_job(self, store: Store, *, overwrite: bool, skip_unreadable: bool) -> Job:
        """The job of a stopped run if it left out files and this run may do so, too; otherwise of the whole scene."""
        skipped = store.plan().get("skipped") if skip_unreadable else None
        known = {*hrefs_of(self.scene), *self.scene.skipped}
        if not isinstance(skipped, list) or not all(isinstance(href, str) and href in known for href in skipped):
            return self._job()
        job = self._job(skipped)
        if overwrite and not store.holds(fingerprint(job, self.models)):
            return self._job()
        return job

    def _finish(self, job: Job, store: Store, request: dict[str, Any]) -> Result:
        """Write files and provenance from finished tiles; all of them appear together at the very end."""
        folder = store.empty_files()
        files, measured = self.write(job, store, folder)
        sums = {path.name: checksum(folder / path.name) for path in files}
        values = provenance_of(sums, job, self.models, self.options, measured)
        values["impossible"] = _impossible(job, store)
        write_whole(folder / self._provenance.name, json.dumps(values, indent=1))
        self._refuse_changes(request, job)
        files = [*files, self._provenance]
        store.commit([path.name for path in files])
        store.complete(self.out, (*self.known_files(), self._provenance))
        if store.folder.is_dir():
            self.console.print(f"kept because it holds files of something else: {store.folder}", highlight=False)
        self.console.print(str(self.timing), highlight=False)
        return self.result(job, files, values)

    def _refuse_changes(self, before: dict[str, Any], job: Job) -> None:
        """Refuse a product whose inputs changed while it was computed.

        Raises:
            InputError: If a file changed.
        """
        now = fingerprint(job, self.models)
        files = changed(before["inputs"], now["inputs"])
        for path, old, new in zip(self.models, before["model"], now["model"], strict=True):
            if old != new:
                files.append(str(path))
        if files:
            more = f", as did {len(files) - 1} more" if len(files) > 1 else ""
            raise InputError(
                files[0],
                found=f"a file that changed while the {self.noun} was computed{more}",
                expected=f"images and models that do not change until the {self.noun} is finished",
                repair="run the same command again with --overwrite, which drops the finished tiles.",
            )


def _impossible(job: TileJob, store: Store) -> dict[str, dict[str, list[int]]]:
    """Count pixels with impossible reflectance by sensor and day, and their sum with the clear ones.

    Days without such pixels are left out.
    """
    counts_by_sensor: dict[str, dict[str, list[int]]] = {}
    for layer in job.scene.layers:
        counts = np.zeros((len(layer.days), 2), np.int64)
        for _, _, part in store.tiles(impossible_key(layer.sensor.name), job.windows.tiles()):
            counts += part[0]
        by_day = {}
        for day, (impossible, total) in zip(layer.days, counts.tolist(), strict=True):
            if impossible:
                by_day[str(day)] = [impossible, total]
        if by_day:
            counts_by_sensor[layer.sensor.name] = by_day
    return counts_by_sensor


def _bad_disk(path: Path) -> InputError:
    return InputError(
        path,
        found="a tile that was damaged twice in a row after it was written",
        expected="a reliable disk",
        repair="check the disk, or write to another one.",
    )
