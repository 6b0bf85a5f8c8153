"""The command ``evaluate``: scores of a split, early in the season, without some sensors, through gaps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from agrifm.cli.shell import Ckpt, Ensemble, Flips, Links, app, console
from agrifm.errors import InputError, nearest
from agrifm.network.hub import results_folder

if TYPE_CHECKING:
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import SampleSource
    from agrifm.tasks.scores import Scores

DAYS = (
    "Use only images up to a day: 2018-06-30 or 06-30. Several days: a list, FIRST:LAST:DAYS, FIRST:LAST:monthly or "
    "monthly."
)
SUMMARY = ("aAcc", "mIoU", "mFscore", "kappa")


@app.command()
def evaluate(
    checkpoint: Ckpt,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    root: Annotated[Path | None, typer.Option(help="Folder of other data with the same layout.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the scores. Default: beside the checkpoint.")] = None,
    as_of: Annotated[str | None, typer.Option(help=DAYS)] = None,
    target: Annotated[float, typer.Option(help="Score whose first day is reported.", min=0, max=1)] = 0.8,
    sensors: Annotated[bool, typer.Option("--sensors", help="Score every subset of the model's sensors.")] = False,
    gaps: Annotated[str | None, typer.Option(help="Lengths of gaps without images, in months, e.g. 1,2,3.")] = None,
    flips: Flips = False,
    ensemble: Ensemble = None,
    allow_links: Links = False,
) -> None:
    """Score a checkpoint on a split of its data, or of other data."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.evaluation.as_of import as_of_day
    from agrifm.evaluation.scoring import evaluate as score
    from agrifm.training.samples.sources import open_sources

    model = Checkpoint.load(checkpoint).with_root(root, allow_links=allow_links)
    model = model.averaging(flips=flips, others=ensemble or ())
    experiment = model.experiment
    refuse_split(split, endless=experiment.data.shards is not None)
    model = model.for_split(split)
    if out is None:
        out = _default_folder(checkpoint, split, flips=flips, ensemble=bool(ensemble))
    source = open_sources(experiment, (split,))[split]
    without_parts = sensors or gaps is not None
    if as_of is not None and _names_several_days(as_of):
        if without_parts:
            raise InputError(
                f"--as-of {as_of}",
                found="several days together with --sensors or --gaps",
                expected="one day",
                repair="give one day, or run the two evaluations one after the other.",
            )
        _early_season(model, source, as_of, target, out)
        console.print(f"written to {out}", highlight=False)
        return
    if as_of is not None:
        source = as_of_day(source, experiment.data.seasons, as_of)
        out = out.with_name(f"{out.name}_{as_of}")
    if without_parts:
        _missing_sensors(model, source, sensors, _months(gaps), out)
    else:
        show_scores(score(model, source, out, console=console))
    console.print(f"written to {out}", highlight=False)


def _default_folder(checkpoint: Path, split: str, *, flips: bool, ensemble: bool) -> Path:
    """Return the folder of scores beside a checkpoint."""
    name = f"scores_{split}"
    if flips:
        name += "_flips"
    if ensemble:
        name += "_ensemble"
    return results_folder(checkpoint) / name


def _names_several_days(as_of: str) -> bool:
    """Whether ``--as-of`` is a list or a range of days."""
    return any(sign in as_of for sign in (",", ":", "monthly"))


def refuse_split(split: str, *, endless: bool) -> None:
    """Refuse names of no split, and the training split of pre-training, which has no end.

    Raises:
        InputError: If there is no such split.
    """
    valid = ("val",) if endless else ("train", "val", "test")
    if split in valid:
        return
    if endless:
        raise InputError(
            f"--split {split}",
            found="no split of a pre-training experiment that has an end",
            expected="val",
            repair="add '--split val'.",
        )
    raise InputError(f"--split {split}", found="no split", expected=" or ".join(valid), repair=nearest(split, valid))


def _months(text: str | None) -> list[int]:
    """Lengths of gaps in months, from the text of ``--gaps``."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        raise InputError(
            f"--gaps {text}",
            found="no lengths in months",
            expected="whole numbers such as 1,2,3",
            repair="separate whole numbers of months by commas.",
        )
    return [int(part) for part in parts]


def _early_season(checkpoint: Checkpoint, source: SampleSource, as_of: str, target: float, out: Path) -> None:
    """Print and write scores by date."""
    from agrifm.evaluation.missing_sensors import early_season, write_early

    table = early_season(checkpoint, source, as_of, console=console)
    console.print(table.show("scores with the images up to a day", console.width))
    for season, first_days in write_early(checkpoint, table, target, out).items():
        reached = ", ".join(f"{score} {day}" for score, day in first_days.items() if day) or "nothing"
        never = ", ".join(score for score, day in first_days.items() if not day)
        text = f"{season}: {target:g} is first reached by {reached}"
        if never:
            text += f"; never by {never}"
        console.print(text, highlight=False)


def _missing_sensors(checkpoint: Checkpoint, source: SampleSource, sensors: bool, gaps: list[int], out: Path) -> None:
    """Print and write scores without some sensors and through gaps."""
    from agrifm.evaluation.missing_sensors import failures, write_failures

    tables = failures(checkpoint, source, sensors=sensors, gaps=gaps, console=console)
    write_failures(checkpoint, *tables, out)
    console.print(tables[0].show("scores without some sensors or dates", console.width))


def show_scores(result: Any) -> None:
    """Print the table of classes, the summary, and the scores of merged classes."""
    table = Table("class", *result.columns)
    for entry in result.classes:
        cells = []
        for key in result.columns:
            value = getattr(entry, key)
            cells.append(f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
        table.add_row(entry.name, *cells)
    console.print(table)
    summary = "  ".join(f"{key} {value:.4f}" for key, value in result.summary.items())
    console.print(summary, highlight=False)
    if getattr(result, "levels", ()):
        console.print(_table_of_levels(result))


def _table_of_levels(result: Scores) -> Table:
    """Scores of each level of merged classes."""
    names = {entry.name for entry in result.classes}
    table = Table("merged classes", "classes", *SUMMARY)
    for level in result.levels:
        merged = ", ".join(entry.name for entry in level.classes if entry.name not in names)
        values = [f"{level.summary[key]:.4f}" for key in SUMMARY]
        table.add_row(merged, str(len(level.classes)), *values)
    return table
