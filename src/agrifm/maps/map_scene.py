"""From a checkpoint and a scene to a finished map: windows, tiles, files, seam audit, provenance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasterio
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.data.growing_season import GrowingSeason, date_of, growing_season_of
from agrifm.data.transforms import spread_frames
from agrifm.errors import InputError
from agrifm.maps.files.cog import Strip
from agrifm.maps.files.writer import NODATA, Legend, build, map_files
from agrifm.maps.options import DEFAULTS, MapOptions
from agrifm.maps.resumable import Run
from agrifm.maps.seam_audit import Seams, audit
from agrifm.maps.store import Store
from agrifm.maps.tiles import EXTRAS, MapJob, calibration_for
from agrifm.maps.windows import FINEST, Windows, lay_out
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
    run = _MapRun(checkpoint, models, scene, out, options, console)
    return run.complete(overwrite=overwrite, skip_unreadable=skip_unreadable, workers=workers, dask=dask)


@dataclass(frozen=True)
class _MapRun(Run[MapJob, MapOptions, Mapped]):
    """One run of ``map_scene``."""

    noun: ClassVar[str] = "map"

    def plan(self, scene: Scene) -> MapJob:
        return plan(self.checkpoint, scene, self.options)

    def known_files(self) -> list[Path]:
        return map_files(self.out)

    def write(self, job: MapJob, store: Store, folder: Path) -> tuple[list[Path], dict[str, Any]]:
        tiles = job.windows.tiles()
        with self.timing.during("writing"), self.console.status("writing the map"):
            files = build(
                folder,
                self.out,
                job.scene.grid,
                lambda product: store.tiles(product, tiles),
                Legend.of(job.checkpoint.experiment.task),
                names(job.scene.sensors),
                interval_of(job.scene),
                extras=job.extras,
                calibration=job.checkpoint.calibration,
            )
        with self.timing.during("auditing"), self.console.status("auditing window borders"):
            seams = audit(folder / self.out.name, job)
        return files, {"seams": seams.to_dict()}

    def result(self, job: MapJob, files: Sequence[Path], values: Mapping[str, Any]) -> Mapped:
        seams = TypeAdapter(Seams).validate_python(values["seams"])
        hectares = _hectares(job, _blocks(self.out))
        return Mapped(tuple(files), hectares, seams, seams.visible(self.options.seam_limit))


def interval_of(scene: Scene) -> tuple[dt.date, dt.date]:
    """First and last day of the images of a scene."""
    days = [day for layer in scene.layers for day in layer.days]
    return min(days), max(days)


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


def plan(checkpoint: Checkpoint, scene: Scene, options: MapOptions) -> MapJob:
    """Collect everything that decides the pixels of a map.

    Raises:
        InputError: If the scene has none of the model's sensors, or one of their bands is missing.
    """
    Legend.of(checkpoint.experiment.task)  # refuses more classes than a map can hold before anything is computed
    calibration_for(checkpoint, options.extras)
    scene = scene_for(checkpoint, scene)
    windows = windows_on(scene, checkpoint, options.window, options.memory)
    extras = tuple(key for key in EXTRAS if key in options.extras)
    layers = ("fields",) if isinstance(checkpoint.experiment.task, Fields) else ()
    return MapJob(checkpoint, scene, windows, options.device, (*extras, *layers))


def scene_for(checkpoint: Checkpoint, scene: Scene) -> Scene:
    """Select the season, the sensors and the dates of a scene that a model reads.

    Raises:
        InputError: If the scene has none of the model's sensors, or one of their bands is missing.
    """
    data = checkpoint.experiment.data
    return fit_sensors(in_season(scene, data.seasons), data.sensors, data.frames)


def windows_on(
    scene: Scene, checkpoint: Checkpoint, window: int | None, memory: float, output_bytes: int = 0
) -> Windows:
    """Lay out the windows of a model on a scene.

    Args:
        scene: The scene, with the model's sensors only.
        checkpoint: The model.
        window: Side of a window in pixels; None takes that of the training chips, or a small one
            for models of single pixels, which need no overlap.
        memory: Memory for one tile in megabytes.
        output_bytes: Memory that one pixel takes besides its images.
    """
    factors = [scene.factor(sensor) for sensor in scene.sensors]
    sees_neighbors = checkpoint.sees_neighbors
    if window is None:
        footprint = checkpoint.experiment.data.footprint or FOOTPRINT
        window = max(1, round(footprint / scene.resolution)) if sees_neighbors else _pixel_window(factors)
    size = (scene.grid.shape[0], scene.grid.shape[1])
    pixel_bytes = scene.pixel_bytes + output_bytes
    # Overlapping windows fade out toward their borders, where neighborhoods are not complete. Others do not overlap, so
    # that they need the pixels beside them: one of the coarsest sensor.
    margin = max(factors) if checkpoint.uses_context and not sees_neighbors else 0
    return lay_out(size, window, factors, pixel_bytes, memory * 1e6, overlap=sees_neighbors, margin=margin)


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
