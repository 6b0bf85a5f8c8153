"""A run of training as the viewer shows it: curves, pixel classifiers, scores and reliability, from its files."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from agrifm.checkpoint import Checkpoint, describe
from agrifm.errors import InputError, printable, refusing
from agrifm.io import size_of
from agrifm.training.history import HISTORY, read_history
from agrifm.viewer.chips import ChipSet

BEST = "best.safetensors"
MEMBERS = "members.csv"
SCORES = "scores.json"
ALL_EPOCHS = 10**9
LARGEST = 32 * 2**20  # bytes of a file of scores
EVALUATED = "scores as 'agrifm evaluate' writes them"
CALIBRATED = "numbers as 'agrifm calibrate' writes them"


class ClassRow(BaseModel):
    """Scores of a class; a score that does not exist is None."""

    name: str
    IoU: float | None = None
    Fscore: float | None = None
    Precision: float | None = None
    Recall: float | None = None
    pixels: int | None = None


class ScoreFile(BaseModel):
    """Scores of a split."""

    summary: dict[str, float | None]
    classes: list[ClassRow] = []
    confusion: list[list[int]] | None = None


class Reliabilities(BaseModel):
    """Bins and errors of probabilities."""

    bins: list[tuple[float, float, float]]
    ECE: float
    Brier: float
    NLL: float


class Calibrated(BaseModel):
    """A split before and after calibration."""

    before: Reliabilities
    after: Reliabilities
    pixels: int


@dataclass(frozen=True)
class Run:
    """A folder that ``agrifm train`` wrote.

    Args:
        folder: The folder.
        checkpoint: Its best checkpoint.
        chips: Chips that it learned from, if they are on this machine.
        note: Why the chips are not shown.
    """

    folder: Path
    checkpoint: Checkpoint
    chips: ChipSet | None
    note: str

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open the best checkpoint of a run, and its chips.

        Raises:
            InputError: If the checkpoint is missing or damaged.
        """
        checkpoint = Checkpoint.load(folder / BEST)
        try:
            return cls(folder, checkpoint, ChipSet.of(checkpoint.experiment), "")
        except InputError as error:
            return cls(folder, checkpoint, None, f"Its chips are not shown. {error.sentence}")

    @property
    def title(self) -> str:
        """Name of the experiment."""
        return printable(self.checkpoint.experiment.name)

    def describe(self) -> dict[str, Any]:
        """Return everything that the page shows; files are read anew, so that a run in progress can be followed.

        Raises:
            InputError: If a file beside the checkpoint is damaged.
        """
        task = self.checkpoint.experiment.task
        facts = {name: printable(str(value)) for name, value in describe(self.checkpoint).items()}
        return {
            "title": self.title,
            "folder": printable(str(self.folder)),
            "facts": facts,
            "best": task.best_score,
            "epoch": self.checkpoint.epoch,
            "history": _history(self.folder),
            "members": _members(self.folder / MEMBERS),
            "scores": _scores(self.folder),
            "calibrations": _calibrations(self.folder),
            "chips": None if self.chips is None else str(self.chips),
            "note": self.note,
        }

    def __str__(self) -> str:
        return f"run {self.title}"


def _history(folder: Path) -> dict[str, list[float | None]]:
    """Return loss and scores by name, one value for each epoch; empty if no network was trained."""
    rows = read_history(folder / HISTORY, ALL_EPOCHS)
    columns: dict[str, list[float | None]] = {}
    for name in rows[0] if rows else ():
        columns[printable(name)] = [_number(row.get(name, "")) for row in rows]
    return columns


def _number(text: str) -> float | None:
    """Return a number that JSON can hold; None for text and for values that are not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _members(path: Path) -> list[dict[str, Any]]:
    """Return the pixel classifiers with their scores in cross-validation."""
    if not path.is_file():
        return []
    with refusing(path, expected="pixel classifiers as 'agrifm train' writes them"):
        rows = list(csv.DictReader(_text(path).splitlines()))
    members = []
    for row in rows:
        member: dict[str, Any] = {"name": printable(row.get("classifier") or "")}
        for key in ("accuracy", "mFscore", "seconds"):
            member[key] = _number(row.get(key) or "")
        member["chosen"] = row.get("chosen") == "1"
        members.append(member)
    return members


def _scores(folder: Path) -> list[dict[str, Any]]:
    """Return the scores of every evaluation beside the checkpoint."""
    found = []
    for path in sorted(folder.glob(f"scores_*/{SCORES}")):
        with refusing(path, expected=EVALUATED, repair="evaluate again."):
            values = ScoreFile.model_validate_json(_text(path)).model_dump()
        for row in values["classes"]:
            row["name"] = printable(row["name"])
        found.append({"name": path.parent.name.removeprefix("scores_").replace("_", " "), **values})
    return found


def _calibrations(folder: Path) -> list[dict[str, Any]]:
    """Return reliability before and after calibration, of every calibrated checkpoint in the folder."""
    found = []
    for checkpoint in sorted(folder.glob("*.safetensors")):
        path = checkpoint.with_suffix(".json")
        if not path.is_file():
            continue
        with refusing(path, expected=CALIBRATED, repair="calibrate again."):
            document = TypeAdapter(Mapping[str, Any]).validate_json(_text(path))
            splits = TypeAdapter(dict[str, Calibrated]).validate_python(document["splits"])
        for name, values in splits.items():
            found.append({"name": f"{printable(checkpoint.name)}, {printable(name)}", **values.model_dump()})
    return found


def _text(path: Path) -> str:
    """Return the text of a file of moderate size."""
    repair = "write it again with the command that made it."
    if size_of(path, expected="a text file", repair=repair) > LARGEST:
        raise InputError(path, found=f"more than {LARGEST >> 20} MB", expected="a table of scores", repair=repair)
    return path.read_text(encoding="utf-8")
