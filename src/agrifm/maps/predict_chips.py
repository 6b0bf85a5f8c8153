"""Chips to maps: one class map for each, with probabilities and confidence on request."""

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

    A chip that knows its place becomes a GeoTIFF with the chip's CRS; any other a PNG in the classes' colors.
    Pixels that no sensor ever saw are no data (255). The map of ``north/x`` lies in the folder ``north``.

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
        InputError: sets of a checkpoint that is not calibrated, more classes than a map can hold, a chip whose place
            is none, two samples with one name, or output that is not finite.
    """
    wanted = [key for key, on in (("probabilities", probabilities), ("confidence", confidence), ("sets", sets)) if on]
    calibration = calibration_for(checkpoint, wanted)
    task, written = checkpoint.experiment.task, []
    Legend(task.names, task.colors)  # refuses what a map cannot hold before anything is computed
    names = Names(out, suffix, wanted)
    grids = _grids(source, names) if isinstance(source, ChipFolder) and not force_png else {}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for batch, output in outputs(checkpoint, source, console=console):
        chances = task.probabilities(output).cpu().numpy()
        for i, name in enumerate(batch.names):
            seen = seen_anywhere(batch, i, chances.shape[-2:])
            classes = chances[i].argmax(0).astype(np.uint8)
            classes[~seen] = NODATA
            extras = _extras(chances[i], calibration, wanted)
            grid = grids.get(name)
            place = None if grid is None else grid[0].resized(grid[1], *classes.shape)
            written += _write(names.take(name), classes, extras, task, place, force_png)
    write_provenance(checkpoint.experiment, out)
    return written


class Names:
    """Where the maps of samples go; no two of them to one file, and none out of the folder.

    Args:
        out: folder of the maps.
        suffix: added to the sample's name.
        extras: what else is written beside each map.
    """

    def __init__(self, out: Path, suffix: str, extras: Sequence[str]) -> None:
        self.out, self.suffix, self.endings = out, suffix, ("", *(f"_{key}" for key in extras))
        self.owners: dict[Path, str] = {}
        self.taken: set[str] = set()

    def claim(self, name: str) -> Path:
        """Path of a sample's map without its ending.

        Raises:
            InputError: the name leads out of the folder, or a file of another sample has it.
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
        """The same for a sample whose map is written now.

        Raises:
            InputError: also if the map of a sample of that name was written already.
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
        expected="a name of its own for each sample",
        repair="rename one of the samples, or map them into two folders.",
    )


def _grids(chips: ChipFolder, names: Names) -> dict[str, tuple[Georeference, tuple[int, int]] | None]:
    """Where all chips lie, and their rows and columns: what is wrong is found before anything is computed."""
    found = {}
    for i, name in enumerate(chips.names):
        names.claim(name)
        found[name] = read_grid(chips.path(i), allow_links=chips.allow_links)
    return found


def _extras(chances: np.ndarray, calibration: Calibration | None, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The bands ``(n, h, w)`` that were asked for, by the ending of their file."""
    chances = calibration.probabilities(chances) if calibration else chances
    found = {"probabilities": chances, "confidence": chances.max(0, keepdims=True)}
    return {key: calibration.bands(chances) if calibration and key == "sets" else found[key] for key in wanted}


def _write(stem: Path, classes: np.ndarray, extras: dict, task, place: Georeference | None, plain: bool) -> list[Path]:
    if place is None:
        path = stem.with_name(stem.name + ".png")
        write_png(path, classes if plain else colorize(classes, task.colors))
        arrays = []
        for key, bands in extras.items():
            arrays.append(stem.with_name(f"{stem.name}_{key}.npy"))
            with whole(arrays[-1]) as unfinished:
                np.save(unfinished, bands.astype(np.float32))
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
