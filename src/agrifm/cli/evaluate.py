"""The verb evaluate: scores of a split, early in the season, without sensors, through gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agrifm.cli.shell import Ckpt, Ensemble, Flips, Links, app, console

DAYS = "Only images up to a day: 2018-06-30 or 06-30; several: a list, FIRST:LAST:DAYS, FIRST:LAST:monthly or monthly."


@app.command()
def evaluate(
    checkpoint: Ckpt,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    root: Annotated[Path | None, typer.Option(help="Folder of other data with the same layout.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the scores; beside the checkpoint if left out.")] = None,
    as_of: Annotated[str | None, typer.Option(help=DAYS)] = None,
    target: Annotated[float, typer.Option(help="Score whose first day is looked for.", min=0, max=1)] = 0.8,
    sensors: Annotated[bool, typer.Option("--sensors", help="Every subset of the model's sensors.")] = False,
    gaps: Annotated[str | None, typer.Option(help="Gaps of so many months without any image, e.g. 1,2,3.")] = None,
    flips: Flips = False,
    ensemble: Ensemble = None,
    allow_links: Links = False,
) -> None:
    """Score a checkpoint on a split of its data, or of other data."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.evaluation import evaluate as score
    from agrifm.evaluation.as_of import as_of_day
    from agrifm.training.sources import open_sources

    loaded = Checkpoint.load(checkpoint).at(root, allow_links=allow_links).looking(flips=flips, others=ensemble or ())
    looks = ("_flips" if flips else "") + ("_ensemble" if ensemble else "")
    refuse_split(split, endless=loaded.experiment.data.shards is not None)
    experiment, out = loaded.experiment, out or checkpoint.parent / f"scores_{split}{looks}"
    source = open_sources(experiment, (split,))[split]
    several = as_of is not None and any(sign in as_of for sign in (",", ":", "monthly"))
    if as_of is not None and not several:
        source, out = as_of_day(source, experiment.data.seasons, as_of), out.with_name(f"{out.name}_{as_of}")
    if sensors or gaps is not None:
        _failures(loaded, source, sensors, gaps, None if not several else as_of, out)
    elif as_of is not None and several:
        _early_season(loaded, source, as_of, target, out)
    else:
        show_scores(score(loaded, source, out, console=console))
    console.print(f"written to {out}", highlight=False)


def refuse_split(split: str, *, endless: bool) -> None:
    """Refuse names of no split, and the training split of pre-training, which never ends."""
    from agrifm.errors import InputError, nearest

    valid = ("val",) if endless else ("train", "val", "test")
    if split not in valid:
        raise InputError(
            f"--split {split}",
            found="no split of a pre-training experiment that has an end" if endless else "no split",
            expected=" or ".join(valid),
            repair="add '--split val'." if endless else nearest(split, valid),
        )


def _early_season(checkpoint, source, as_of: str, target: float, out: Path) -> None:
    """Print and write scores against dates."""
    from agrifm.evaluation.missing_sensors import early_season, write_early

    table = early_season(checkpoint, source, as_of, console=console)
    console.print(table.show("scores with the images up to a day", console.width))
    for season, first in write_early(checkpoint, table, target, out).items():
        days = ", ".join(f"{score} {day}" for score, day in first.items() if day) or "nothing"
        never = ", ".join(score for score, day in first.items() if not day)
        text = f"{season}: {target:g} is first reached by {days}" + (f"; never by {never}" if never else "")
        console.print(text, highlight=False)


def _failures(checkpoint, source, sensors: bool, gaps: str | None, days: str | None, out: Path) -> None:
    """Print and write scores without some sensors and through gaps."""
    from agrifm.errors import InputError
    from agrifm.evaluation.missing_sensors import failures, write_failures

    parts = [part.strip() for part in (gaps or "").split(",") if part.strip()]
    if days is not None or not all(part.isdigit() for part in parts):
        raise InputError(
            f"--gaps {gaps}" if days is None else f"--as-of {days}",
            found="no lengths in months" if days is None else "several days beside --sensors or --gaps",
            expected="e.g. 1,2,3" if days is None else "one day, or these tables apart",
            repair="write it like that.",
        )
    found = failures(checkpoint, source, sensors=sensors, gaps=[int(part) for part in parts], console=console)
    write_failures(checkpoint, *found, out)
    console.print(found[0].show("what is left when sensors fail", console.width))


def show_scores(result) -> None:
    """Print the per-class table and the summary."""
    table = Table("class", *result.columns)
    for entry in result.classes:
        values = (getattr(entry, key) for key in result.columns)
        table.add_row(entry.name, *(f"{x:,}" if isinstance(x, int) else f"{x:.4f}" for x in values))
    console.print(table)
    console.print("  ".join(f"{key} {value:.4f}" for key, value in result.summary.items()), highlight=False)
    if levels := getattr(result, "levels", ()):
        finest, keys = {entry.name for entry in result.classes}, ("aAcc", "mIoU", "mFscore", "kappa")
        table = Table("counted as one", "classes", *keys)
        for level in levels:
            merged = ", ".join(entry.name for entry in level.classes if entry.name not in finest)
            table.add_row(merged, str(len(level.classes)), *(f"{level.summary[key]:.4f}" for key in keys))
        console.print(table)
