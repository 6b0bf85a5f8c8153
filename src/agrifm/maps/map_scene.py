"""From a checkpoint and a scene to a finished map: windows, tiles, files, seam audit, provenance."""

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
from agrifm.maps.windows import FINEST, lay_out
from agrifm.rasters.grid import pixel_area
from agrifm.sample import days_since_epoch
from agrifm.scenes.scene import Layer, Scene
from agrifm.sensors import Sensor, names
from agrifm.tasks.fields import Fields

STRIP = 1024  # rows of a finished map that are counted at a time
FOOTPRINT = 960.0  # side of a window in meters if a checkpoint does not state the size of its chips
PIXEL_WINDOWS = (64, 256)  # smallest and largest side in pixels of the windows of a model that sees single pixels


@dataclass(frozen=True)
class Mapped:
    """A finished map.

    Args:
        files: Written files, the map of classes first and the provenance last.
        hectares: Hectares of each class by name, and of no data; counted pixels, no area estimates.
        seams: Result of the seam audit.
        visible_seams: Whether window borders are visible beyond the limit.
    """

    files: tuple[Path, ...]
    hectares: dict[str, float]
    seams: Seams
    visible_seams: bool

    def table(self) -> Table:
        """Table of hectares and share of each class."""
        table = Table("class", "hectares", "share", caption="counted pixels of the map, not an area estimate")
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
    """Map a scene with a checkpoint. Stopped at any moment, the same call resumes and ends with the same files.

    Args:
        model: Checkpoint.
        scene: Scene with at least one of the model's sensors.
        out: GeoTIFF to write; other files are written beside it.
        options: Options that decide the pixels.
        overwrite: Whether to replace an existing map, which is kept until the new one is complete.
        skip_unreadable: Whether to leave out frames with a file that cannot be read; the provenance lists them.
        workers: Processes on this machine; the result does not depend on it.
        dask: Address of a dask scheduler whose workers compute the map instead.
        console: Where progress is shown.

    Returns:
        The written files, areas and the seam audit.

    Raises:
        InputError: If sensors do not fit, a file cannot be read or has changed, another map exists, or the disk is
            full.
    """
    console = console or Console(quiet=True)
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            out, found=f"the ending '{out.suffix}'", expected="a GeoTIFF", repair="give a name that ends in .tif."
        )
    checkpoint = Checkpoint.load(model).averaging(flips=options.flips, others=options.ensemble)
    models = (model, *map(Path, options.ensemble))
    run = _Run(checkpoint, models, scene, out, options, console)
    with locked(out):
        completed = run.store.complete(out, (*map_files(out), Provenance.beside(out)))
        if completed:
            console.print("completed the map of a run that was stopped at its end", highlight=False)
        finished = run.finished(skip_unreadable=skip_unreadable)
        if finished is not None and (completed or not overwrite):
            return finished
        refuse_existing(out, overwrite=overwrite)
        return run.make(overwrite=overwrite, skip_unreadable=skip_unreadable, workers=workers, dask=dask)


@dataclass(frozen=True)
class _Run:
    """One run of ``map_scene``, with its arguments."""

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
        """The job without some files."""
        scene = self.scene
        for href in skipped:
            if href not in scene.skipped:
                scene = scene.without(href)
        return plan(self.checkpoint, scene, self.options)

    def finished(self, *, skip_unreadable: bool) -> Mapped | None:
        """The existing map, if it was computed from exactly the inputs of this run."""
        path = Provenance.beside(self.out)
        if not (self.out.is_file() and path.is_file()):
            return None
        try:
            provenance = Provenance.load(path)
            job = self.job(provenance.scene.skipped if skip_unreadable else ())
        except InputError:  # the provenance of another map
            return None
        files = [self.out.with_name(name) for name in provenance.document.files]
        for file in files:
            if not file.is_file() or sha256(file) != provenance.document.files[file.name]:
                return None
        if files[0] != self.out or not provenance.describes(job, self.models, self.options):
            return None
        self.console.print(f"{self.out} is finished already", highlight=False)
        seams = provenance.document.seams
        hectares = _hectares(job, _blocks(self.out))
        return Mapped((*files, path), hectares, seams, seams.visible(self.options.seam_limit))

    def make(self, *, overwrite: bool, skip_unreadable: bool, workers: int, dask: str | None) -> Mapped:
        """Compute missing tiles, and write the map."""
        store = self.store
        afresh = overwrite
        job = self._first_job(store, overwrite=overwrite, skip_unreadable=skip_unreadable)
        recomputed: set[Path] = set()
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
                job = self.job((*job.scene.skipped, error.where))
                afresh = True
            except DamagedTile as error:
                if error.path in recomputed:
                    raise _bad_disk(error.path) from error
                recomputed.add(error.path)
                store.drop(error.path)
                self.console.print(f"computed again because it was damaged: tile {error.path.name}", highlight=False)

    def _first_job(self, store: Store, *, overwrite: bool, skip_unreadable: bool) -> MapJob:
        """The job of a stopped run if it left out files and this run may do so, too; otherwise of the whole scene."""
        skipped = store.plan().get("skipped") if skip_unreadable else None
        known = {*hrefs_of(self.scene), *self.scene.skipped}
        if not isinstance(skipped, list) or not all(isinstance(href, str) and href in known for href in skipped):
            return self.job()
        job = self.job(skipped)
        if overwrite and not store.holds(fingerprint(job, self.models)):
            return self.job()
        return job

    def _finish(self, job: MapJob, store: Store, request: dict[str, Any]) -> Mapped:
        """Write files, audit and provenance from finished tiles; all of them appear together at the very end."""
        tiles = job.windows.tiles()
        scene = job.scene
        days = [day for layer in scene.layers for day in layer.days]
        folder = store.empty_files()
        with self.console.status("writing the map"):
            files = build(
                folder,
                self.out,
                scene.grid,
                lambda product: store.tiles(product, tiles),
                Legend.of(job.checkpoint.experiment.task),
                names(scene.sensors),
                (min(days), max(days)),
                extras=job.extras,
                calibration=job.checkpoint.calibration,
            )
        with self.console.status("auditing window borders"):
            seams = audit(folder / self.out.name, job)
        sums = {path.name: sha256(folder / path.name) for path in files}
        provenance = Provenance.beside(self.out)
        values = provenance_of(sums, job, self.models, seams, self.options)
        values["impossible"] = _impossible(job, store)
        write_whole(folder / provenance.name, json.dumps(values, indent=1))
        _refuse_changes(request, job, self.models)
        hectares = _hectares(job, store.tiles("classes", tiles))
        store.commit([path.name for path in (*files, provenance)])
        store.complete(self.out, (*map_files(self.out), provenance))
        if store.folder.is_dir():
            self.console.print(f"kept because it holds files of something else: {store.folder}", highlight=False)
        return Mapped((*files, provenance), hectares, seams, seams.visible(self.options.seam_limit))


def _impossible(job: MapJob, store: Store) -> dict[str, dict[str, list[int]]]:
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


def _hectares(job: MapJob, pieces: Iterable[Strip]) -> dict[str, float]:
    """Hectares of each class of the map by name, and of no data."""
    counts = np.zeros(NODATA + 1, np.int64)
    for *_, part in pieces:
        counts += np.bincount(part.ravel(), minlength=len(counts))
    hectares_per_pixel = pixel_area(job.scene.grid) / 1e4
    hectares = {}
    for value, name in [*enumerate(job.checkpoint.experiment.task.names), (NODATA, "no data")]:
        if counts[value]:
            hectares[name] = float(counts[value]) * hectares_per_pixel
    return hectares


def _blocks(path: Path) -> Iterator[Strip]:
    """Read a map of classes in strips."""
    with rasterio.open(path) as file:
        for row in range(0, file.height, STRIP):
            end = min(row + STRIP, file.height)
            yield row, 0, file.read(1, window=((row, end), (0, file.width)))


def _refuse_changes(before: dict[str, Any], job: MapJob, models: Sequence[Path]) -> None:
    """Refuse a map whose inputs changed while it was computed.

    Raises:
        InputError: If a file changed.
    """
    now = fingerprint(job, models)
    files = changed(before["inputs"], now["inputs"])
    files += [str(path) for path, old, new in zip(models, before["model"], now["model"], strict=True) if old != new]
    if files:
        more = f", as did {len(files) - 1} more" if len(files) > 1 else ""
        raise InputError(
            files[0],
            found=f"a file that changed while the map was computed{more}",
            expected="images and models that do not change until the map is finished",
            repair="run the same command again with --overwrite, which drops the finished tiles.",
        )


def _bad_disk(path: Path) -> InputError:
    return InputError(
        path,
        found="a tile that was damaged twice in a row after it was written",
        expected="a reliable disk",
        repair="check the disk, or write the map to another one.",
    )


def plan(checkpoint: Checkpoint, scene: Scene, options: MapOptions) -> MapJob:
    """Collect everything that decides the pixels of a map.

    Raises:
        InputError: If the scene has none of the model's sensors, or one of their bands is missing.
    """
    Legend.of(checkpoint.experiment.task)  # refuses more classes than a map can hold before anything is computed
    calibration_for(checkpoint, options.extras)
    data = checkpoint.experiment.data
    scene = fit_sensors(in_season(scene, data.seasons), data.sensors, data.frames)
    factors = [scene.factor(sensor) for sensor in scene.sensors]
    members = (checkpoint, *checkpoint.others)
    sees_neighbors = any(member.experiment.model.has_pyramid for member in members)
    window = options.window
    if window is None:
        footprint = data.footprint or FOOTPRINT
        window = max(1, round(footprint / scene.resolution)) if sees_neighbors else _pixel_window(factors)
    size = (scene.grid.shape[0], scene.grid.shape[1])
    budget = options.memory * 1e6
    windows = lay_out(size, window, factors, scene.pixel_bytes, budget, overlap=sees_neighbors)
    extras = tuple(key for key in EXTRAS if key in options.extras)
    layers = ("fields",) if isinstance(checkpoint.experiment.task, Fields) else ()
    return MapJob(checkpoint, scene, windows, (*extras, *layers), options.device)


def _pixel_window(factors: Sequence[int]) -> int:
    """Side of the windows of a model that sees single pixels: small, but whole pixels of most coarse sensors."""
    smallest, largest = PIXEL_WINDOWS
    return min(max(smallest, FINEST * max(factors)), largest)


def in_season(scene: Scene, calendars: Sequence[GrowingSeason]) -> Scene:
    """Cut a scene to its growing season; without seasons, the scene is returned unchanged.

    Raises:
        InputError: If no season fits the scene's name, or no image lies in its season.
    """
    if not calendars:
        return scene
    days = days_since_epoch([str(day) for layer in scene.layers for day in layer.days])
    first, last = growing_season_of(calendars, scene.name).of(days, f"scene {scene.name}")
    begin = date_of(first)
    end = date_of(last)
    layers = []
    for layer in scene.layers:
        frames = tuple(frame for frame in layer.frames if begin <= frame.day <= end)
        if frames:
            layers.append(Layer(layer.sensor, frames))
    return replace(scene, layers=tuple(layers))


def fit_sensors(scene: Scene, sensors: Sequence[Sensor], frames: int | None = None) -> Scene:
    """Select the sensors and bands of a model in its order, and as many dates as it takes.

    Raises:
        InputError: If none of the sensors is present, or a band is missing.
    """
    known = {sensor.name: sensor for sensor in sensors}
    fitting = scene.only(tuple(known))
    if not fitting.layers:
        raise InputError(
            scene.name,
            found=f"sensors {', '.join(names(scene.sensors))}",
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
