"""From a checkpoint and a scene to a finished map: windows, tiles, files, seam audit, passport."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.data.calendars import Calendar, calendar_of, date_of
from agrifm.data.transforms import spread_frames
from agrifm.errors import InputError, Unreadable
from agrifm.maps.engine import work
from agrifm.maps.passport import fingerprint, write_passport
from agrifm.maps.raster import NODATA, Legend, finish, refuse_existing
from agrifm.maps.seams import Seams, audit
from agrifm.maps.tiles import EXTRAS, Job, Store, calibration_for
from agrifm.maps.windows import lay_out
from agrifm.sample import days_since_epoch
from agrifm.scenes.grid import pixel_area
from agrifm.scenes.scene import Layer, Scene
from agrifm.sensors import Sensor, names
from agrifm.tasks.fields import Fields

FOOTPRINT = 960.0  # meters, where a checkpoint does not say how large its chips were


@dataclass(frozen=True)
class MapOptions:
    """How to map.

    Args:
        extras: any of ``probabilities``, ``confidence``, ``entropy``, ``observations``, ``sets``.
        window: side of a window in pixels; if left out, that of the chips the model learned from.
        memory: megabytes that the images of one tile may take; two tiles are held at a time.
        seam_limit: largest rate of transitions on window borders over the rate elsewhere.
        device: ``auto``, ``cpu`` or ``cuda``.
        flips: average over the eight orientations of a square.
        ensemble: checkpoints whose probabilities are averaged with the model's.
    """

    extras: tuple[str, ...] = ()
    window: int | None = None
    memory: float = 128.0
    seam_limit: float = 1.25
    device: str = "auto"
    flips: bool = False
    ensemble: tuple[str, ...] = ()


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
    options: MapOptions = MapOptions(),
    *,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    workers: int = 1,
    dask: str | None = None,
    console: Console | None = None,
) -> Mapped:
    """Map a scene with a checkpoint. Stopped at any moment, the same call goes on and ends with the same file.

    Args:
        model: the checkpoint.
        scene: any of the model's sensors must be there.
        out: the GeoTIFF; other files are written beside it.
        options: what decides the pixels.
        overwrite: replace a map that is there.
        skip_unreadable: leave out frames with a file that cannot be read, and note it in the passport.
        workers, dask: processes on this machine, or a scheduler, that do the work; the result is the same.
        console: where progress is shown.

    Raises:
        InputError: sensors do not fit, a file cannot be read, the map is there already, the disk is full.
    """
    console = console or Console(quiet=True)
    _check_target(out, overwrite)
    store = Store.beside(out)
    for href in store.skipped() if skip_unreadable and not overwrite else ():
        scene = scene if href in scene.skipped else scene.without(href)
    checkpoint = Checkpoint.load(model).looking(flips=options.flips, others=options.ensemble)
    job, models = plan(checkpoint, scene, options), (model, *map(Path, options.ensemble))
    while True:
        store.open(fingerprint(job, models), afresh=overwrite)
        try:
            work(job, store, console, workers=workers, dask=dask)
            break
        except Unreadable as error:
            if not skip_unreadable:
                raise
            console.print(f"left out: {error.where}", highlight=False, markup=False)
            job, overwrite = plan(job.checkpoint, job.scene.without(error.where), options), True
    return _finished(job, store, models, out, options, console)


def _finished(
    job: Job, store: Store, models: Sequence[Path], out: Path, options: MapOptions, console: Console
) -> Mapped:
    """From finished tiles to files, audit and passport."""
    tiles, task, scene = job.windows.tiles(), job.checkpoint.experiment.task, job.scene
    days = [day for layer in scene.layers for day in layer.days]
    with console.status("writing the map"):
        files = finish(
            out,
            scene.grid,
            lambda product: store.tiles(product, tiles),
            Legend.of(task),
            names(scene.sensors),
            (min(days), max(days)),
            extras=job.extras,
            calibration=job.checkpoint.calibration,
        )
        counts = np.zeros(NODATA + 1, np.int64)
        for *_, part in store.tiles("classes", tiles):
            counts += np.bincount(part.ravel(), minlength=len(counts))
    with console.status("looking for seams"):
        seams = audit(out, job)
    passport = write_passport(out, job, models, files, seams, dataclasses.asdict(options))
    store.remove()
    entries = [*enumerate(task.names), (NODATA, "no data")]
    hectares = {name: float(counts[i]) * pixel_area(scene.grid) / 1e4 for i, name in entries if counts[i]}
    return Mapped((*files, passport.path), hectares, seams, seams.visible(options.seam_limit))


def plan(checkpoint: Checkpoint, scene: Scene, options: MapOptions) -> Job:
    """Everything that decides the pixels of a map.

    Raises:
        InputError: the scene has none of the model's sensors, or lacks one of their bands.
    """
    unknown = [key for key in options.extras if key not in EXTRAS]
    if unknown:
        raise InputError("extras", found=unknown[0], expected=f"any of {', '.join(EXTRAS)}", repair="correct it.")
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
    return Job(checkpoint, scene, windows, (*extras, *layers), options.device)


def in_season(scene: Scene, calendars: Sequence[Calendar]) -> Scene:
    """The scene cut to the season that is its own; as it is where there are no calendars.

    Raises:
        InputError: no calendar fits the scene's name, or no image lies in its season.
    """
    if not calendars:
        return scene
    days = days_since_epoch([str(day) for layer in scene.layers for day in layer.days])
    begin, end = map(date_of, calendar_of(calendars, scene.name).of(days, f"scene {scene.name}"))
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


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(out, found=f"the ending '{out.suffix}'", expected="a GeoTIFF", repair="end it in .tif.")
    refuse_existing(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
