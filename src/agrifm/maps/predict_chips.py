"""Prediction of chips: one class map for each chip, with probabilities and confidence on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.data.georeference import Georeference, read_grid
from agrifm.errors import InputError
from agrifm.evaluation.scoring import outputs
from agrifm.io import plain_name, whole, writing
from agrifm.maps.files.cog import SET_SIZE
from agrifm.maps.files.writer import NODATA, Legend, write_bands, write_classes, write_png
from agrifm.maps.tiles import calibration_for
from agrifm.sample import Batch
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.segmentation import rgb


def predict(
    checkpoint: Checkpoint,
    source: SampleSource,
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

    A georeferenced chip becomes a GeoTIFF in the chip's CRS, and any other chip a PNG in the colors of the classes.
    Pixels that no sensor ever saw are no data (255). The map of ``north/x`` is written to the folder ``north``.

    Args:
        checkpoint: Model.
        source: Samples; labels are not needed.
        out: Folder of the maps.
        suffix: Suffix of the file names, after the name of the sample.
        force_png: Whether to write PNG of class numbers for all chips.
        probabilities: Whether to write ``<name>_probabilities``, with one band for each class.
        confidence: Whether to write ``<name>_confidence``, the probability of the chosen class.
        sets: Whether to write ``<name>_sets``: the number of possible classes, then 1 for each possible class.
        console: Where progress is shown.

    Raises:
        InputError: If sets are wanted of a checkpoint that is not calibrated, there are too many classes for a map, a
            georeference is invalid, two samples have one name, or output is not finite.
    """
    options = {"probabilities": probabilities, "confidence": confidence, "sets": sets}
    wanted = [key for key, on in options.items() if on]
    calibration = calibration_for(checkpoint, wanted)
    task = checkpoint.experiment.task
    legend = Legend.of(task)  # refuses too many classes before anything is computed
    written: list[Path] = []
    names = Names(out, suffix, wanted)
    grids = _grids(source, names) if isinstance(source, ChipFolder) and not force_png else {}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for batch, output in outputs(checkpoint, source, console=console):
        values = task.probabilities(output).cpu().numpy()
        for i, name in enumerate(batch.names):
            seen = seen_anywhere(batch, i, values.shape[-2:])
            classes = values[i].argmax(0).astype(np.uint8)
            classes[~seen] = NODATA
            extras = _extras(values[i], calibration, wanted)
            stem = names.take(name)
            grid = grids.get(name)
            if grid is None:
                written += _write_png(stem, classes if force_png else colorize(classes, legend.colors), extras)
            else:
                georeference, shape = grid
                place = georeference.resized(shape, *classes.shape)
                written += _write_tif(stem, classes, extras, legend, place)
    write_provenance(checkpoint.experiment, out)
    return written


class Names:
    """File names of the maps of samples: unique, and inside the folder of the maps.

    Args:
        out: Folder of the maps.
        suffix: Suffix after the name of the sample.
        extras: Additional files beside each map.
    """

    def __init__(self, out: Path, suffix: str, extras: Sequence[str]) -> None:
        self.out = out
        self.suffix = suffix
        self.endings = ["", *(f"_{key}" for key in extras)]
        self.owners: dict[Path, str] = {}
        self.taken: set[str] = set()

    def claim(self, name: str) -> Path:
        """Reserve the path of a sample's map, without its suffix.

        Raises:
            InputError: If the name leads out of the folder, or another sample has the same file.
        """
        parts = [plain_name(part, f"sample {name!r}") for part in name.split("/")]
        stem = self.out.joinpath(*parts[:-1], f"{parts[-1]}{self.suffix}")
        for ending in self.endings:
            path = stem.with_name(f"{stem.name}{ending}")
            owner = self.owners.setdefault(path, name)
            if owner != name:
                raise _same_file(name, f"{path.name}, which is written for sample {owner}")
        return stem

    def take(self, name: str) -> Path:
        """Return the path of a sample's map to write it.

        Raises:
            InputError: If the path is not available, or the map of a sample of that name was written already.
        """
        stem = self.claim(name)
        if name in self.taken:
            raise _same_file(name, f"{stem.name}, which is written for an earlier sample of this name")
        self.taken.add(name)
        stem.parent.mkdir(parents=True, exist_ok=True)
        return stem


def _same_file(name: str, found: str) -> InputError:
    return InputError(
        f"sample {name}",
        found=f"a map in the file {found}",
        expected="a unique name for each sample",
        repair="rename one of the samples, or map them into two folders.",
    )


def _grids(chips: ChipFolder, names: Names) -> dict[str, tuple[Georeference, tuple[int, int]] | None]:
    """Georeference, rows and columns of all chips; errors are found before anything is computed."""
    grids = {}
    for i, name in enumerate(chips.names):
        names.claim(name)
        grids[name] = read_grid(chips.path(i), allow_links=chips.allow_links)
    return grids


def _extras(values: np.ndarray, calibration: Calibration | None, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The wanted bands ``(n, h, w)`` by the ending of their file."""
    if calibration is not None:
        values = calibration.probabilities(values)
    bands = {"probabilities": values, "confidence": values.max(0, keepdims=True)}
    if calibration is not None and "sets" in wanted:
        bands["sets"] = calibration.bands(values)
    return {key: bands[key] for key in wanted}


def _write_png(stem: Path, classes: np.ndarray, extras: dict[str, np.ndarray]) -> list[Path]:
    """Write a map without a georeference; returns the paths."""
    written = [stem.with_name(f"{stem.name}.png")]
    write_png(written[0], classes)
    for key, bands in extras.items():
        path = stem.with_name(f"{stem.name}_{key}.npy")
        with whole(path) as unfinished:
            np.save(unfinished, bands.astype(np.float32))
        written.append(path)
    return written


def _write_tif(
    stem: Path, classes: np.ndarray, extras: dict[str, np.ndarray], legend: Legend, place: Georeference
) -> list[Path]:
    """Write a map as GeoTIFF; returns the paths."""
    written = [stem.with_name(f"{stem.name}.tif")]
    write_classes(written[0], classes, legend.names, legend.colors, place)
    descriptions = {"probabilities": legend.names, "sets": (SET_SIZE, *legend.names), "confidence": ("confidence",)}
    for key, bands in extras.items():
        path = stem.with_name(f"{stem.name}_{key}.tif")
        write_bands(path, bands.astype(np.float32), descriptions[key], place)
        written.append(path)
    return written


def colorize(classes: np.ndarray, colors: tuple[str, ...]) -> np.ndarray:
    """Convert class numbers to colors ``(h, w, 3)``; no data is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colors)] = [rgb(color) for color in colors]
    return table[classes]


def seen_anywhere(batch: Batch, index: int, size: tuple[int, int]) -> np.ndarray:
    """Mask of pixels that at least one sensor saw at least once, on the grid of the map."""
    seen = np.zeros(size, bool)
    for mask in batch.valid.values():
        once = mask[index].any(0).cpu().numpy()
        rows = np.arange(size[0]) * once.shape[0] // size[0]
        columns = np.arange(size[1]) * once.shape[1] // size[1]
        seen |= once[rows[:, None], columns]
    return seen
