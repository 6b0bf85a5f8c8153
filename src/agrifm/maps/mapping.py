"""From a checkpoint and a scene to a finished map: windows, tiles, files, seam audit, passport."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError, Unreadable
from agrifm.maps.engine import work
from agrifm.maps.passport import Passport, fingerprint, write_passport
from agrifm.maps.raster import Legend
from agrifm.maps.seams import Seams, audit
from agrifm.maps.tiles import EXTRAS, Job, Store
from agrifm.maps.windows import lay_out
from agrifm.scenes.scene import Layer, Scene
from agrifm.sensors import Sensor, names

FOOTPRINT = 960.0  # meters, where a checkpoint does not say how large its chips were


@dataclass(frozen=True)
class MapOptions:
    """How to map.

    Args:
        extras: any of ``probabilities``, ``confidence``, ``entropy``, ``observations``.
        window: side of a window in pixels; if left out, that of the chips the model learned from.
        memory: megabytes that the images of one tile may take; two tiles are held at a time.
        seam_limit: largest rate of transitions on window borders over the rate elsewhere.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    extras: tuple[str, ...] = ()
    window: int | None = None
    memory: float = 128.0
    seam_limit: float = 1.25
    device: str = "auto"


@dataclass(frozen=True)
class Mapped:
    """A finished map.

    Args:
        files: all that were written.
        seams: what the audit found.
        passport: beside the map.
        visible_seams: window borders show beyond the limit.
    """

    files: tuple[Path, ...]
    seams: Seams
    passport: Passport
    visible_seams: bool


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
    job = plan(Checkpoint.load(model), scene, options)
    store = Store.beside(out)
    while True:
        store.open(fingerprint(job, model), afresh=overwrite)
        try:
            work(job, store, console, workers=workers, dask=dask)
            break
        except Unreadable as error:
            if not skip_unreadable:
                raise
            console.print(f"left out: {error.where}", highlight=False)
            job, overwrite = plan(job.checkpoint, job.scene.without(error.where), options), True
    files = _write(job, store, out, console)
    seams = audit(out, job)
    passport = write_passport(out, job, model, files, seams, dataclasses.asdict(options))
    store.remove()
    return Mapped((*files, passport.path), seams, passport, seams.visible(options.seam_limit))


def plan(checkpoint: Checkpoint, scene: Scene, options: MapOptions) -> Job:
    """Everything that decides the pixels of a map.

    Raises:
        InputError: the scene has none of the model's sensors, or lacks one of their bands.
    """
    unknown = [key for key in options.extras if key not in EXTRAS]
    if unknown:
        raise InputError("extras", found=unknown[0], expected=f"any of {', '.join(EXTRAS)}", repair="correct it.")
    scene = fit_sensors(scene, checkpoint.experiment.data.sensors)
    footprint = checkpoint.experiment.data.footprint or FOOTPRINT
    window = options.window or max(1, round(footprint / scene.resolution))
    factors = [scene.factor(sensor) for sensor in scene.sensors]
    windows = lay_out(tuple(scene.grid.shape), window, factors, pixel_bytes(scene), options.memory * 1e6)
    return Job(checkpoint, scene, windows, tuple(key for key in EXTRAS if key in options.extras), options.device)


def pixel_bytes(scene: Scene) -> float:
    """Memory that one pixel of the grid takes: all dates and bands of all sensors, and their masks."""
    return sum(
        len(layer.days) * (2 * len(layer.sensor.bands) + 1) / scene.factor(layer.sensor) ** 2 for layer in scene.layers
    )


def fit_sensors(scene: Scene, sensors: Sequence[Sensor]) -> Scene:
    """The scene as a model with these sensors sees it: its bands, in its order.

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
    return replace(fitting, layers=tuple(_fit(layer, known[layer.sensor.name]) for layer in fitting.layers))


def _fit(layer: Layer, sensor: Sensor) -> Layer:
    for frame in layer.frames:
        missing = [band for band in sensor.band_ids if band not in frame.bands]
        if missing:
            raise InputError(
                f"{sensor.name} on {frame.day}",
                found=f"no band {', '.join(missing)}",
                expected=f"the model's bands {', '.join(sensor.band_ids)}",
                repair="add the band's file, or use a model that was trained without it.",
            )
    return replace(layer, sensor=sensor)


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(out, found=f"the ending '{out.suffix}'", expected="a GeoTIFF", repair="end it in .tif.")
    if out.exists() and not overwrite:
        raise InputError(
            out,
            found="a file that is there already",
            expected="a new file",
            repair="give --overwrite, or another name.",
        )
    out.parent.mkdir(parents=True, exist_ok=True)


def _write(job: Job, store: Store, out: Path, console: Console) -> tuple[Path, ...]:
    raise NotImplementedError


def summary(mapped: Mapped, job_names: Sequence[str], counts: np.ndarray, pixel: float) -> Table:
    """Pixels and hectares of each class; counted, not estimated."""
    table = Table("class", "pixels", "hectares", "share", title="mapped (pixel counts, no area estimates)")
    for name, count in zip(job_names, counts, strict=True):
        table.add_row(name, f"{count:,}", f"{count * pixel / 1e4:,.1f}", f"{count / max(1, counts.sum()):.1%}")
    return table


def options_from(values: dict[str, Any]) -> MapOptions:
    """The options of a passport."""
    return MapOptions(**{**values, "extras": tuple(values["extras"])})


_ = Legend
