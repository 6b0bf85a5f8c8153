"""Labels that their neighbors among the series contradict, as a table to correct and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas
import numpy as np
import pandas
import torch
from rich.console import Console
from rich.table import Table

from agrifm.checks.chips import survey
from agrifm.checks.survey import Survey
from agrifm.chips.spatial_split import SPLITS
from agrifm.config import Experiment, load
from agrifm.data.folder import ChipFolder
from agrifm.errors import InputError, counted, printable
from agrifm.io import whole
from agrifm.pixels.draw import LabeledPixels
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.fitting import cross_validate
from agrifm.sample import Season
from agrifm.sample_tables.confident import Contradictions, contradictions, unlearned
from agrifm.sample_tables.offset import offset_warning
from agrifm.sample_tables.reading import listed
from agrifm.sample_tables.units import Unit, find_units, refuse_without_places
from agrifm.sensors import Sensor
from agrifm.statistics.tables import cell
from agrifm.tasks.segmentation import Segmentation
from agrifm.tasks.two_classes import refuse_one_class
from agrifm.training.pixel_stage import blocks_of, draw_pixels

MOST_PIXELS = 20_000
MOST_PAIRS = 8  # of classes, in the table on the screen


@dataclass(frozen=True)
class LabelCheck:
    """Result of the check of labels.

    Args:
        classes: Names of the classes.
        units: Labeled units: samples, parcels or chips.
        suspects: Units whose labels are contradicted, worst first.
        pixels: Labeled pixels that were used.
        labeled: All labeled pixels.
        features: How the features of the pixels were computed.
        members: Members whose probabilities were averaged.
        accuracy: Share of the pixels whose label these members predict.
        unchecked: Classes whose labels mostly lie in one place, so that nothing can be said about them.
        warnings: Sentences about numbers that may be wrong.
    """

    classes: tuple[str, ...]
    units: list[Unit]
    suspects: Contradictions
    pixels: LabeledPixels
    labeled: int
    features: PixelFeatures
    members: tuple[str, ...]
    accuracy: float
    unchecked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def frame(self) -> pandas.DataFrame:
        """One row for each suspect, worst first, with an empty column ``corrected``."""
        rows = []
        for number, unit in enumerate(self.suspects.unit):
            entry = self.units[unit]
            rows.append(
                {
                    "name": printable(entry.name),
                    "chip": entry.chip,
                    "row": entry.row,
                    "column": entry.column,
                    "lon": entry.lon,
                    "lat": entry.lat,
                    "pixels": len(entry.pixels),
                    "label": self.classes[entry.given],
                    "suggested": self.classes[self.suspects.suggested[number]],
                    "label_confidence": round(float(self.suspects.given_confidence[number]), 4),
                    "suggested_confidence": round(float(self.suspects.suggested_confidence[number]), 4),
                    "corrected": "",
                }
            )
        return pandas.DataFrame(rows, columns=list(COLUMNS))

    def show(self, console: Console) -> None:
        """Print how many labels are suspect, and which pairs of classes occur most often."""
        count = len(self.suspects.unit)
        console.print(
            f"{counted(len(self.units), 'label')} ({len(self.pixels):,} of {counted(self.labeled, 'labeled pixel')}), "
            f"checked with {', '.join(self.members)} "
            f"on blocks of ground that these had not seen (accuracy {self.accuracy:.3f})",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"{counted(count, 'suspect label')} ({count / len(self.units):.1%})", highlight=False)
        pairs = Counter()
        for unit, suggested in zip(self.suspects.unit, self.suspects.suggested, strict=True):
            pairs[self.classes[self.units[unit].given], self.classes[suggested]] += 1
        table = Table("label", "looks like", "labels")
        for (given, suggested), times in pairs.most_common(MOST_PAIRS):
            table.add_row(printable(given), printable(suggested), f"{times:,}")
        if pairs:
            console.print(table)
        if self.unchecked:
            console.print(
                f"hardly checked, because most of their labels lie in one place: {listed(self.unchecked)}",
                highlight=False,
                soft_wrap=True,
            )
        for warning in self.warnings:
            console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)


COLUMNS = (
    "name", "chip", "row", "column", "lon", "lat", "pixels", "label", "suggested", "label_confidence",
    "suggested_confidence", "corrected",
)  # fmt: skip


def open_experiment(path: Path, overrides: tuple[str, ...] = ()) -> Experiment:
    """Open the experiment of a data set, given by its file or by the folder that holds ``crops.yaml``.

    Raises:
        InputError: If there is none, or its task is not a segmentation of chips.
    """
    file = path / "crops.yaml" if path.is_dir() else path
    experiment = load(file, overrides).quick()
    if experiment.data.dataset is not None or experiment.data.shards is not None:
        raise InputError(
            file,
            found="a data set of your own, or shards",
            expected="chips in a folder",
            repair="write the samples as chips, e.g. with 'agrifm samples make' or 'agrifm chips'.",
        )
    return experiment


def check_labels(
    experiment: Experiment,
    *,
    most: int = MOST_PIXELS,
    progress: Callable[[str], object] = lambda text: None,
    accepts: Callable[[list[Unit]], None] = lambda units: None,
) -> LabelCheck:
    """Find labels that classifiers contradict which were fitted without the block of ground they lie in.

    Args:
        experiment: Names the chips and the classes; all of its splits are checked.
        most: Largest number of pixels to use; of more, some are drawn at random.
        progress: Receives a line about the current step.
        accepts: Called with the labeled units before the long part; it may refuse them.

    Raises:
        InputError: If nothing is labeled, there is one class only, or there are too few blocks of ground.
    """
    task = experiment.task
    assert isinstance(task, Segmentation)
    source = _all_chips(experiment)
    with torch.inference_mode():
        experiment = _in_order(experiment)
        facts = survey(source, experiment.data.sensors, range(len(source)))
        draw = draw_pixels(experiment.with_season(Season.of(facts.spans)), source, None, most, progress)
    pixels = draw.pixels()
    units = find_units(pixels, source, experiment.data.root)
    accepts(units)
    config = experiment.pixels
    assert config is not None
    sensors = tuple(sensor.name for sensor in experiment.data.sensors)
    blocks = blocks_of(source, experiment.seed, config.folds)[pixels.sample]
    for unit in units:
        # A parcel that reaches into several blocks must not teach what its own label should be.
        blocks[unit.pixels] = blocks[unit.pixels[0]]
    known, classes = np.unique(pixels.classes, return_inverse=True)
    refuse_one_class(len(known), "labels", "add labels of another class; two can contradict each other.")
    if len(np.unique(blocks)) < 2:
        raise _too_few_blocks(blocks)
    validation = cross_validate(pixels.features(sensors), classes, blocks, config, experiment.seed, progress)
    if not validation.folds:
        raise _too_few_blocks(blocks)
    probabilities = np.zeros((len(pixels), task.outputs))
    probabilities[:, known] = validation.mean()
    units = [unit for unit in units if (validation.fold[unit.pixels] >= 0).all()]
    of_units = np.stack([probabilities[unit.pixels].mean(0) for unit in units])
    given = np.array([unit.given for unit in units])
    fold = np.array([validation.fold[unit.pixels[0]] for unit in units])
    is_class, _ = unlearned(given, fold, task.outputs)
    accuracy = float((probabilities.argmax(1) == pixels.classes)[validation.tested].mean())
    return LabelCheck(
        classes=tuple(task.names),
        units=units,
        suspects=contradictions(of_units, given, fold),
        pixels=pixels,
        labeled=draw.labeled,
        features=draw.features,
        members=validation.chosen(),
        accuracy=accuracy,
        unchecked=tuple(task.names[number] for number in known[is_class[known]]),
        warnings=_offset_warnings(facts, experiment.data.sensors),
    )


def _all_chips(experiment: Experiment) -> ChipFolder:
    """The chips of all splits as one source."""
    data = experiment.data
    names: dict[str, None] = {}
    for split in SPLITS:
        if split == "train" or data.list_file(split).is_file():
            names |= dict.fromkeys(data.split(split).names)
    return replace(data.split("train"), names=tuple(names))


def _in_order(experiment: Experiment) -> Experiment:
    """The experiment whose chips are read one by one, in order."""
    training = experiment.training.model_copy(update={"batch_size": 1, "workers": 0})
    return experiment.model_copy(update={"training": training})


def _offset_warnings(facts: Survey, sensors: Sequence[Sensor]) -> tuple[str, ...]:
    """Sentences about offsets that were left in the numbers of chips."""
    warnings = []
    for sensor in sensors:
        parts = facts.pixels.get(sensor.name)
        warning = offset_warning(np.concatenate(parts), sensor) if parts else ""
        if warning:
            warnings.append(warning)
    return tuple(warnings)


def _too_few_blocks(blocks: np.ndarray) -> InputError:
    return InputError(
        "labels",
        found=counted(len(np.unique(blocks)), "block of ground", "blocks of ground"),
        expected="several blocks, of which each is checked with the others, and every class in at least two of them",
        repair="add labels of other places.",
    )


def write_suspects(check: LabelCheck, out: Path) -> None:
    """Write the suspects as a table (``.csv``) or as points (``.gpkg``).

    Raises:
        InputError: If points are asked for where places are not known.
    """
    refuse_without_places(check.units, out)
    frame = check.frame()
    with whole(out) as unfinished:
        if out.suffix == ".csv":
            frame.map(cell).to_csv(unfinished, index=False)
            return
        points = geopandas.points_from_xy(frame["lon"], frame["lat"], crs="EPSG:4326")
        geopandas.GeoDataFrame(frame, geometry=points).to_file(unfinished, layer="suspects", driver="GPKG")
