"""Chips to maps: one class map for each, with probabilities and confidence on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.data.folder import Chips, Source
from agrifm.data.h5 import Place, read_place
from agrifm.maps.cog import SET_SIZE
from agrifm.maps.raster import NODATA, rgb, write_bands, write_classes, write_png
from agrifm.maps.tiles import calibration_for
from agrifm.sample import Batch
from agrifm.tasks.calibration import Calibration
from agrifm.training.evaluate import outputs


def predict(
    checkpoint: Checkpoint,
    source: Source,
    out: Path,
    *,
    suffix: str = "",
    force_png: bool = False,
    probabilities: bool = False,
    confidence: bool = False,
    sets: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Write the class map of every sample and return the paths.

    A chip that knows its place becomes a GeoTIFF with the chip's CRS; any other a PNG in the classes' colors.
    Pixels that no sensor ever saw are no data (255).

    Args:
        checkpoint: the model.
        source: the samples; labels are not needed.
        out: folder of the maps.
        suffix: added to the sample's name.
        force_png: write PNG of class numbers, whatever the chip knows.
        probabilities: also write ``<name>_probabilities``, one band per class.
        confidence: also write ``<name>_confidence``, the probability of the chosen class.
        sets: also write ``<name>_sets``: how many classes are possible, then 1 for each that is.
        console: where progress is shown.

    Raises:
        InputError: sets of a checkpoint that is not calibrated.
    """
    wanted = [key for key, on in (("probabilities", probabilities), ("confidence", confidence), ("sets", sets)) if on]
    calibration = calibration_for(checkpoint, wanted)
    out.mkdir(parents=True, exist_ok=True)
    places = {source.path(i).stem: source.path(i) for i in range(len(source))} if isinstance(source, Chips) else {}
    task, written = checkpoint.experiment.task, []
    for batch, output in outputs(checkpoint, source, console=console):
        chances = task.probabilities(output).cpu().numpy()
        for i, name in enumerate(batch.names):
            place = read_place(places[name]) if name in places and not force_png else None
            unseen = ~seen_anywhere(batch, i, chances.shape[-2:])
            classes = chances[i].argmax(0).astype(np.uint8)
            classes[unseen] = NODATA
            extras = _extras(chances[i], calibration, wanted)
            written += _write(out / f"{name}{suffix}", classes, extras, task, place, force_png)
    write_provenance(checkpoint.experiment, out)
    return written


def _extras(chances: np.ndarray, calibration: Calibration | None, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The bands ``(n, h, w)`` that were asked for, by the ending of their file."""
    chances = calibration.probabilities(chances) if calibration else chances
    found = {"probabilities": chances, "confidence": chances.max(0, keepdims=True)}
    return {key: calibration.bands(chances) if calibration and key == "sets" else found[key] for key in wanted}


def _write(stem: Path, classes: np.ndarray, extras: dict, task, place: Place | None, plain: bool) -> list[Path]:
    if place is None:
        path = stem.with_name(stem.name + ".png")
        write_png(path, classes if plain else colorize(classes, task.colors))
        arrays = []
        for key, bands in extras.items():
            arrays.append(stem.with_name(f"{stem.name}_{key}.npy"))
            np.save(arrays[-1], bands.astype(np.float32))
        return [path, *arrays]
    path = stem.with_name(stem.name + ".tif")
    write_classes(path, classes, task.names, task.colors, place)
    for key, bands in extras.items():
        names = {"probabilities": task.names, "sets": (SET_SIZE, *task.names)}.get(key, (key,))
        write_bands(stem.with_name(f"{stem.name}_{key}.tif"), bands.astype(np.float32), names, place)
    return [path, *(stem.with_name(f"{stem.name}_{key}.tif") for key in extras)]


def colorize(classes: np.ndarray, colors: tuple[str, ...]) -> np.ndarray:
    """Class numbers to colors ``(h, w, 3)``; no data is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colors)] = [rgb(color) for color in colors]
    return table[classes]


def seen_anywhere(batch: Batch, index: int, size: tuple[int, int]) -> np.ndarray:
    """Where at least one sensor saw the ground at least once, on the grid of the map."""
    seen = np.zeros(size, bool)
    for mask in batch.valid.values():
        once = mask[index].any(0).cpu().numpy()
        rows = np.arange(size[0]) * once.shape[0] // size[0]
        columns = np.arange(size[1]) * once.shape[1] // size[1]
        seen |= once[rows[:, None], columns]
    return seen
