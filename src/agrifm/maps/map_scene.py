"""From a checkpoint and a scene to a finished map: windows, tiles, files, seam audit, passport."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.data.growing_season import GrowingSeason, date_of, growing_season_of
from agrifm.data.transforms import spread_frames
from agrifm.errors import InputError, Unreadable
from agrifm.io import locked, sha256, write_whole
from agrifm.maps.files.cog import Strip
from agrifm.maps.files.writer import NODATA, Legend, build, map_files, refuse_existing
from agrifm.maps.inputs import changed, hrefs_of
from agrifm.maps.options import DEFAULTS, MapOptions
from agrifm.maps.provenance import Provenance, fingerprint, provenance_of
from agrifm.maps.runner import work
from agrifm.maps.seam_audit import Seams, audit
from agrifm.maps.store import DamagedTile, Store
from agrifm.maps.tiles import EXTRAS, MapJob, calibration_for, impossible_key
from agrifm.maps.windows import lay_out
from agrifm.rasters.grid import pixel_area
from agrifm.sample import days_since_epoch
from agrifm.scenes.scene import Layer, Scene
from agrifm.sensors import Sensor, names
from agrifm.tasks.fields import Fields

STRIP = 1024  # rows of a finished map that are counted at a time
FOOTPRINT = 960.0  # meters, where a checkpoint does not say how large its chips were


@dataclass(frozen=True)
class Mapped:
    """A finished map.

    Args:
        files: all that were written, the map of classes first, the passport last.
        hectares: of each class, by name, and of no data; counted pixels, no area estimates.
        seams: what the audit found.
        visible_seams: window borders show beyond the limit.
    """

    files: tuple[Path, ...]
    hectares: dict[str, float]
    seams: Seams
    visible_seams: bool

    def table(self) -> Table:
        """Hectares and share of each class."""
        table = Table("class", "hectares", "share", caption="pixels counted on the map, which is no estimate of areas")
        total = sum(self.hectares.values())
        for name, area in self.hectares.items():
            table.add_row(name, f"{area:,.1f}", f"{area / total:.1%}")
        return table


def map_scene(
    model: Path,
    scene: Scene,
    out: Path,
    options: MapOptions = DEFAULTS,
    *,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    workers: int = 1,
    dask: str | None = None,
    console: Console | None = None,
) -> Mapped:
    """Map a scene with a checkpoint. Stopped at any moment, the same call goes on and ends with the same files.

    Args:
        model: the checkpoint.
        scene: any of the model's sensors must be there.
        out: the GeoTIFF; other files are written beside it.
        options: what decides the pixels.
        overwrite: replace a map that is there; it stays until the new one is complete.
        skip_unreadable: leave out frames with a file that cannot be read, and note it in the passport.
        workers, dask: processes on this machine, or a scheduler, that do the work; the result is the same.
        console: where progress is shown.

    Raises:
        InputError: sensors do not fit, a file cannot be read or has changed, another map is there, the disk is full.
    """
    console = console or Console(quiet=True)
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(out, found=f"the ending '{out.suffix}'", expected="a GeoTIFF", repair="end it in .tif.")
    checkpoint = Checkpoint.load(model).averaging(flips=options.flips, others=options.ensemble)
    models = (model, *map(Path, options.ensemble))
    run = _Run(checkpoint, models, scene, out, options, console)
    with locked(out):
        completed = run.store.complete(out, (*map_files(out), Provenance.beside(out)))
        if completed:
            console.print("completed the map of a run that was stopped at its end", highlight=False)
        there = run.finished(skip_unreadable=skip_unreadable)
        if there is not None and (completed or not overwrite):
            return there
        refuse_existing(out, overwrite=overwrite)
        return run.make(overwrite=overwrite, skip_unreadable=skip_unreadable, workers=workers, dask=dask)


@dataclass(frozen=True)
class _Run:
    """One run of ``map_scene``; arguments as there."""

    checkpoint: Checkpoint
    models: tuple[Path, ...]
    scene: Scene
    out: Path
    options: MapOptions
    console: Console

    @property
    def store(self) -> Store:
        return Store.beside(self.out)

    def job(self, skipped: Iterable[str] = ()) -> MapJob:
        """What to compute when some files are left out."""
        scene = self.scene
        for href in skipped:
            if href not in scene.skipped:
                scene = scene.without(href)
        return plan(self.checkpoint, scene, self.options)

    def finished(self, *, skip_unreadable: bool) -> Mapped | None:
        """The map that is there already, if it was made of exactly what this run is given."""
        path = Provenance.beside(self.out)
        if not (self.out.is_file() and path.is_file()):
            return None
        try:
            passport = Provenance.load(path)
            job = self.job(passport.scene.skipped if skip_unreadable else ())
        except InputError:  # a passport of something else
            return None
        files = [self.out.with_name(name) for name in passport.document.files]
        whole = all(file.is_file() and sha256(file) == passport.document.files[file.name] for file in files)
        if not whole or files[0] != self.out or not passport.describes(job, self.models, self.options):
            return None
        self.console.print(f"{self.out} is finished already", highlight=False)
        seams = passport.document.seams
        hectares = _hectares(job, _blocks(self.out))
        return Mapped((*files, path), hectares, seams, seams.visible(self.options.seam_limit))

    def make(self, *, overwrite: bool, skip_unreadable: bool, workers: int, dask: str | None) -> Mapped:
        """Compute what is missing, and put the map together."""
        store, afresh = self.store, overwrite
        job = self._first_job(store, overwrite=overwrite, skip_unreadable=skip_unreadable)
        made_again: set[Path] = set()
        while True:
            request = fingerprint(job, self.models)
            store.open(request, afresh=afresh)
            try:
                work(job, store, self.console, workers=workers, dask=dask)
                return self._finish(job, store, request)
            except Unreadable as error:
                if not skip_unreadable or error.where not in hrefs_of(job.scene):
                    raise
                self.console.print(f"left out: {error.where}", highlight=False)
                job, afresh = self.job((*job.scene.skipped, error.where)), True
            except DamagedTile as error:
                if error.path in made_again:
                    raise _bad_disk(error.path) from error
                made_again.add(error.path)
                store.drop(error.path)
                self.console.print(f"computed again, as it was damaged: tile {error.path.name}", highlight=False)

    def _first_job(self, store: Store, *, overwrite: bool, skip_unreadable: bool) -> MapJob:
        """The job that a stopped run had, where it left out files and may still do so; otherwise of the whole scene."""
        skipped = store.plan().get("skipped") if skip_unreadable else None
        known = {*hrefs_of(self.scene), *self.scene.skipped}
        if not isinstance(skipped, list) or not all(isinstance(href, str) and href in known for href in skipped):
            return self.job()
        job = self.job(skipped)
        if overwrite and not store.holds(fingerprint(job, self.models)):
            return self.job()
        return job

    def _finish(self, job: MapJob, store: Store, request: dict[str, Any]) -> Mapped:
        """From finished tiles to files, audit and passport; all of them appear together, at the very end."""
        tiles, task, scene = job.windows.tiles(), job.checkpoint.experiment.task, job.scene
        days = [day for layer in scene.layers for day in layer.days]
        folder = store.empty_files()
        with self.console.status("writing the map"):
            files = build(
                folder,
                self.out,
                scene.grid,
                lambda product: store.tiles(product, tiles),
                Legend.of(task),
                names(scene.sensors),
                (min(days), max(days)),
                extras=job.extras,
                calibration=job.checkpoint.calibration,
            )
        with self.console.status("looking for seams"):
            seams = audit(folder / self.out.name, job)
        sums = {path.name: sha256(folder / path.name) for path in files}
        passport = Provenance.beside(self.out)
        values = provenance_of(sums, job, self.models, seams, self.options) | {"impossible": _impossible(job, store)}
        write_whole(folder / passport.name, json.dumps(values, indent=1))
        _refuse_changes(request, job, self.models)
        hectares = _hectares(job, store.tiles("classes", tiles))
        store.commit([path.name for path in (*files, passport)])
        store.complete(self.out, (*map_files(self.out), passport))
        if store.folder.is_dir():
            self.console.print(f"kept, as it holds files that are not of this map: {store.folder}", highlight=False)
        return Mapped((*files, passport), hectares, seams, seams.visible(self.options.seam_limit))


def _impossible(job: MapJob, store: Store) -> dict[str, dict[str, list[int]]]:
    """By sensor and day: pixels of the map that counted as not seen as no land reflects like that, of how many clear.

    Days without such pixels are left out.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for layer in job.scene.layers:
        counts = np.zeros((len(layer.days), 2), np.int64)
        for *_, part in store.tiles(impossible_key(layer.sensor.name), job.windows.tiles()):
            counts += part[0]
        days = {str(day): count for day, count in zip(layer.days, counts.tolist(), strict=True) if count[0]}
        if days:
            found[layer.sensor.name] = days
    return found


def _hectares(job: MapJob, pieces: Iterable[Strip]) -> dict[str, float]:
    """Hectares of each class that occurs, by name, and of no data."""
    counts = np.zeros(NODATA + 1, np.int64)
    for *_, part in pieces:
        counts += np.bincount(part.ravel(), minlength=len(counts))
    entries = [*enumerate(job.checkpoint.experiment.task.names), (NODATA, "no data")]
    return {name: float(counts[i]) * pixel_area(job.scene.grid) / 1e4 for i, name in entries if counts[i]}


def _blocks(path: Path) -> Iterator[Strip]:
    """The pixels of a map of classes, in strips."""
    with rasterio.open(path) as file:
        for row in range(0, file.height, STRIP):
            rows = min(STRIP, file.height - row)
            yield row, 0, file.read(1, window=((row, row + rows), (0, file.width)))


def _refuse_changes(before: dict[str, Any], job: MapJob, models: Sequence[Path]) -> None:
    """Refuse a map whose files changed while it was made.

    Raises:
        InputError: names them.
    """
    now = fingerprint(job, models)
    files = changed(before["inputs"], now["inputs"])
    files += [str(path) for path, old, new in zip(models, before["model"], now["model"], strict=True) if old != new]
    if files:
        raise InputError(
            files[0],
            found=f"a file that changed while the map was made{f', as did {len(files) - 1} more' if files[1:] else ''}",
            expected="images and models that stay as they are until the map is finished",
            repair="run the same command again with --overwrite, which drops the tiles made so far.",
        )


def _bad_disk(path: Path) -> InputError:
    return InputError(
        path,
        found="a tile that does not keep what is written to it, twice in a row",
        expected="a disk that keeps files",
        repair="check the disk, or write the map to another one.",
    )


def plan(checkpoint: Checkpoint, scene: Scene, options: MapOptions) -> MapJob:
    """Everything that decides the pixels of a map.

    Raises:
        InputError: the scene has none of the model's sensors, or lacks one of their bands.
    """
    Legend.of(checkpoint.experiment.task)  # refuses more classes than a map can hold before anything is computed
    calibration_for(checkpoint, options.extras)
    data = checkpoint.experiment.data
    scene = fit_sensors(in_season(scene, data.seasons), data.sensors, data.frames)
    footprint = data.footprint or FOOTPRINT
    window = options.window or max(1, round(footprint / scene.resolution))
    factors = [scene.factor(sensor) for sensor in scene.sensors]
    windows = lay_out(
        (scene.grid.shape[0], scene.grid.shape[1]), window, factors, scene.pixel_bytes, options.memory * 1e6
    )
    extras = tuple(key for key in EXTRAS if key in options.extras)
    layers = ("fields",) if isinstance(checkpoint.experiment.task, Fields) else ()
    return MapJob(checkpoint, scene, windows, (*extras, *layers), options.device)


def in_season(scene: Scene, calendars: Sequence[GrowingSeason]) -> Scene:
    """The scene cut to the season that is its own; as it is where there are no calendars.

    Raises:
        InputError: no calendar fits the scene's name, or no image lies in its season.
    """
    if not calendars:
        return scene
    days = days_since_epoch([str(day) for layer in scene.layers for day in layer.days])
    begin, end = map(date_of, growing_season_of(calendars, scene.name).of(days, f"scene {scene.name}"))
    layers = [(layer, tuple(frame for frame in layer.frames if begin <= frame.day <= end)) for layer in scene.layers]
    return replace(scene, layers=tuple(Layer(layer.sensor, frames) for layer, frames in layers if frames))


def fit_sensors(scene: Scene, sensors: Sequence[Sensor], frames: int | None = None) -> Scene:
    """The scene as a model with these sensors sees it: its bands, in its order, and as many dates as it takes.

    Raises:
        InputError: none of the sensors is there, or a band lacks.
    """
    scene_names, known = names(scene.sensors), {sensor.name: sensor for sensor in sensors}
    fitting = scene.only(tuple(known))
    if not fitting.layers:
        raise InputError(
            scene.name,
            found=f"sensors {', '.join(scene_names)}",
            expected=f"at least one of the model's: {', '.join(known)}",
            repair="add images of one of these sensors, or use a model that was trained with yours.",
        )
    return replace(fitting, layers=tuple(_fit(layer, known[layer.sensor.name], frames) for layer in fitting.layers))


def _fit(layer: Layer, sensor: Sensor, frames: int | None) -> Layer:
    days = {layer.days[i] for i in spread_frames(frames)(len(layer.days))}
    for frame in layer.frames:
        missing = [band for band in sensor.band_ids if band not in frame.bands]
        if missing:
            raise InputError(
                f"{sensor.name} on {frame.day}",
                found=f"no band {', '.join(missing)}",
                expected=f"the model's bands {', '.join(sensor.band_ids)}",
                repair="add the band's file, or use a model that was trained without it.",
            )
    return Layer(sensor, tuple(frame for frame in layer.frames if frame.day in days))
