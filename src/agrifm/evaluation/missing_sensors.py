"""Scores of a model early in the season, without some of its sensors, and through gaps in the series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from rich.console import Console

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.errors import counted
from agrifm.evaluation.as_of import SeasonSamples, refuse_unseen
from agrifm.evaluation.score_table import CLASS, ScoreTable, Values
from agrifm.evaluation.scoring import evaluate
from agrifm.figures import save_png
from agrifm.progress import counting
from agrifm.sensors import names

Runs = list[tuple[Values, SampleSource]]  # the keys of each row of a table, and the samples that it scores


def early_season(
    checkpoint: Checkpoint, source: SampleSource, as_of: str, *, console: Console | None = None
) -> ScoreTable:
    """Score a checkpoint with the images up to several days, separately for each growing season.

    Every labeled pixel counts on every day. Without any image, the model predicts what it expects of unseen ground.
    The column ``images`` is the mean number of images of a sample by then, of all sensors together.

    Args:
        checkpoint: The model. Growing seasons come from its experiment, or from the series if they lie within a year.
        source: Labeled samples.
        as_of: The days: ``monthly``, FIRST:LAST:STEP, or a list.
        console: Shows progress.

    Raises:
        InputError: If the text names no days, or there is no image up to any of them.
    """
    groups = SeasonSamples.of(source, checkpoint.experiment.data.seasons)
    moments: list[str] = []
    runs: Runs = []
    for group in groups:
        for moment in group.moments(as_of):
            keys = {"season": group.name, "as of": moment, "images": round(group.images(moment), 1)}
            runs.append((keys, group.as_of(moment)))
            moments.append(moment)
    refuse_unseen(groups, moments, as_of)
    return ScoreTable(("season", "as of", "images"), tuple(_score(checkpoint, runs, console)))


def first_days(table: ScoreTable, target: float) -> dict[str, dict[str, str | None]]:
    """Return, for each season and score, the first day on which it reaches a target; None if it never does."""
    reached: dict[str, dict[str, str | None]] = {}
    for row in table.rows:
        days = reached.setdefault(row["season"], dict.fromkeys(table.scores))
        for score in table.scores:
            if days[score] is None and row[score] >= target:
                days[score] = row["as of"]
    return reached


def failures(
    checkpoint: Checkpoint,
    source: SampleSource,
    *,
    sensors: bool = True,
    gaps: Sequence[int] = (),
    console: Console | None = None,
) -> tuple[ScoreTable, ScoreTable]:
    """Score a checkpoint with subsets of its sensors, and with gaps in the season without any image.

    Args:
        checkpoint: The model.
        source: Labeled samples.
        sensors: Score every subset of the sensors, instead of all of them only.
        gaps: Lengths of the gaps in months; each may begin in every month of the season.
        console: Shows progress.

    Returns:
        A table with mean and worst of each length of gap, and a table with every run behind it.
    """
    runs = _sensor_runs(checkpoint, source, every_subset=sensors)
    if gaps:
        runs += _gap_runs(checkpoint, source, gaps)
    table = ScoreTable(("missing", "from"), tuple(_score(checkpoint, runs, console)))
    summary = ScoreTable(("missing",), tuple(_summarize(table, checkpoint.experiment.task.best_score)))
    return summary, table


def _sensor_runs(checkpoint: Checkpoint, source: SampleSource, *, every_subset: bool) -> Runs:
    sensors = names(checkpoint.experiment.data.sensors)
    sizes = range(len(sensors), 0, -1) if every_subset else [len(sensors)]
    rows = tuple(range(len(source)))
    runs: Runs = []
    for size in sizes:
        for subset in combinations(sensors, size):
            missing = [name for name in sensors if name not in subset]
            keys = {"missing": " + ".join(missing) or "nothing", "from": ""}
            runs.append((keys, SampleSubset(source, rows, (), subset)))
    return runs


def _gap_runs(checkpoint: Checkpoint, source: SampleSource, gaps: Sequence[int]) -> Runs:
    runs: Runs = []
    groups = SeasonSamples.of(source, checkpoint.experiment.data.seasons)
    for group in groups:
        for months in gaps:
            missing = counted(months, "month")
            if len(groups) > 1:
                missing += f" of {group.name}"
            for start, view in group.gaps(months).items():
                runs.append(({"missing": missing, "from": start}, view))
    return runs


def _summarize(table: ScoreTable, best_score: str) -> Iterator[Values]:
    """Rows without a gap as they are; of each length of gap the mean and the worst."""
    groups: dict[str, list[Values]] = {}
    for row in table.rows:
        groups.setdefault(row["missing"], []).append(row)
    for missing, group in groups.items():
        # The first of several equally bad runs counts as the worst.
        worst = min(group, key=lambda row: row[best_score])
        worst_scores = {key: worst[key] for key in table.scores}
        if not worst["from"]:
            yield {"missing": missing, **worst_scores}
            continue
        mean_scores = {}
        for key in table.scores:
            mean_scores[key] = sum(row[key] for row in group) / len(group)
        yield {"missing": f"{missing}, mean", **mean_scores}
        yield {"missing": f"{missing}, worst (from {worst['from']})", **worst_scores}


def _score(checkpoint: Checkpoint, runs: Runs, console: Console | None) -> Iterator[Values]:
    with counting(console or Console(quiet=True), "evaluating") as step:
        for number, (keys, source) in enumerate(runs):
            step(number, len(runs))
            result = evaluate(checkpoint, source)
            scores = {key: result.summary[key] for key in checkpoint.experiment.task.shown}
            if "Fscore" in result.columns:
                for entry in result.classes:
                    scores[CLASS + entry.name] = entry.Fscore  # ty: ignore
            yield {**keys, **scores}


def write_early(
    checkpoint: Checkpoint, table: ScoreTable, target: float, out: Path
) -> dict[str, dict[str, str | None]]:
    """Write ``early_season.{csv,md,json,png}`` and return the first days that reach the target."""
    reached = first_days(table, target)
    table.write(out / "early_season", target=target, reached=reached)
    draw_curves(table, checkpoint, target, out / "early_season.png")
    write_provenance(checkpoint.experiment, out)
    return reached


def write_failures(checkpoint: Checkpoint, table: ScoreTable, runs: ScoreTable, out: Path) -> None:
    """Write ``failures.{csv,md,json}``; the JSON file also holds every run."""
    table.write(out / "failures", runs=runs.rows)
    write_provenance(checkpoint.experiment, out)


def draw_curves(table: ScoreTable, checkpoint: Checkpoint, target: float, path: Path) -> None:
    """Draw scores against dates in a panel for each season: classes in their colors, the best score in black."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    task = checkpoint.experiment.task
    seasons: dict[str, list[Values]] = {}
    for row in table.rows:
        seasons.setdefault(row["season"], []).append(row)
    figure = Figure(figsize=(6.4 * len(seasons), 4), layout="constrained")
    axes = figure.subplots(1, len(seasons), squeeze=False)
    for axis, (season, rows) in zip(axes[0], seasons.items(), strict=True):
        for name, color in zip(task.names, task.colors, strict=True):
            if CLASS + name in rows[0]:
                class_scores = [row[CLASS + name] for row in rows]
                axis.plot(class_scores, color=color, marker=".", label=name)
        best_scores = [row[task.best_score] for row in rows]
        axis.plot(best_scores, color="black", lw=2.5, label=task.best_score)
        axis.axhline(target, color="gray", ls=":", label=f"target {target:g}")
        days = [row["as of"] for row in rows]
        axis.set_xticks(range(len(days)), days, rotation=45, ha="right")
        title = season if len(seasons) > 1 else "images up to this day"
        axis.set(ylim=(0, 1), ylabel="F-score", title=title)
        axis.grid(alpha=0.3)
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    save_png(figure, path, dpi=110)
