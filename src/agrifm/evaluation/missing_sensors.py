"""What a model is worth early in the season, without some of its sensors, and through gaps: tables and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.evaluation.as_of import SeasonSamples, refuse_unseen
from agrifm.evaluation.scoring import evaluate
from agrifm.figures import save_png
from agrifm.io import write_whole
from agrifm.progress import counting
from agrifm.sensors import names

Values = dict[str, Any]
CLASS = "F "  # before the name of a class whose F-score a column holds


@dataclass(frozen=True)
class Rows:
    """A table of scores.

    Args:
        keys: Columns that say what was seen; the others are scores, those of classes begin with ``F``.
        rows: Each a value for every column.
    """

    keys: tuple[str, ...]
    rows: tuple[Values, ...]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the columns with scores."""
        return tuple(key for key in self.rows[0] if key not in self.keys)

    def show(self, title: str, width: int) -> Table:
        """The table for a screen so many characters wide, without keys that are the same in every row.

        Where classes do not fit, they are left to the files.
        """
        same = {key for key in self.keys if len({row[key] for row in self.rows}) == 1 < len(self.rows)}
        columns = {key.removeprefix(CLASS): self._column(key) for key in self.rows[0] if key not in same}
        needed = 2 + sum(1 + max(map(len, (key, *cells))) for key, cells in columns.items())
        hidden = [key for key in self.rows[0] if key.startswith(CLASS)] if needed > width else []
        caption = "too narrow a window for classes: see the files" if hidden else None
        table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
        shown = {key: cells for key, cells in columns.items() if CLASS + key not in hidden}
        for key in shown:
            table.add_column(key, justify="left" if key in self.keys else "right", overflow="fold")
        for cells in zip(*shown.values(), strict=True):
            table.add_row(*cells)
        return table

    def _column(self, key: str) -> list[str]:
        return [str(row[key]) if key in self.keys else _text(row[key], 2) for row in self.rows]

    def markdown(self) -> str:
        """The table for a report."""
        lines = [tuple(self.rows[0]), ["---"] * len(self.keys) + ["---:"] * len(self.scores)]
        lines += [[str(row[k]) if k in self.keys else _text(row[k]) for k in row] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def write(self, stem: Path, **more: Any) -> None:
        """Write ``stem`` as ``.csv``, ``.md`` and, with ``more``, ``.json``; what does not exist is empty or null."""
        text = io.StringIO()
        writer = csv.DictWriter(text, tuple(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in self.rows)
        plain = json.loads(json.dumps({"rows": self.rows, **more}), parse_constant=lambda _: None)
        write_whole(stem.with_suffix(".csv"), text.getvalue())
        write_whole(stem.with_suffix(".md"), self.markdown())
        write_whole(stem.with_suffix(".json"), json.dumps(plain, indent=2))


def _text(value: Any, digits: int = 3) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.{digits}f}"
    return str(value)


def early_season(checkpoint: Checkpoint, source: SampleSource, as_of: str, *, console: Console | None = None) -> Rows:
    """Score a checkpoint as it would have done on several days of the season, for each growing season apart.

    Every labeled pixel counts on every day. Where nothing was seen yet the model says what it expects of unseen
    ground; ``images`` tells how many dates a sample has by then, of all sensors together.

    Args:
        checkpoint: The model; a calendar comes from its experiment, or from the series if they lie within a year.
        source: Labeled samples.
        as_of: The days: ``monthly``, FIRST:LAST:STEP, or a list.

    Raises:
        InputError: If it names no days, or nothing was seen by any of them.
    """
    timelines = SeasonSamples.of(source, checkpoint.experiment.data.seasons)
    plans = [(line, moment) for line in timelines for moment in line.moments(as_of)]
    refuse_unseen(timelines, [moment for _, moment in plans], as_of)
    ways = [
        ({"season": line.name, "as of": moment, "images": round(line.images(moment), 1)}, line.as_of(moment))
        for line, moment in plans
    ]
    return Rows(("season", "as of", "images"), tuple(_scored(checkpoint, ways, console)))


def first_days(table: Rows, target: float) -> dict[str, dict[str, str | None]]:
    """For each season and score the first day on which it reaches a target; None if it never does."""
    seasons = dict.fromkeys(row["season"] for row in table.rows)
    return {
        season: {
            score: next((r["as of"] for r in table.rows if r["season"] == season and r[score] >= target), None)
            for score in table.scores
        }
        for season in seasons
    }


def failures(
    checkpoint: Checkpoint,
    source: SampleSource,
    *,
    sensors: bool = True,
    gaps: Sequence[int] = (),
    console: Console | None = None,
) -> tuple[Rows, Rows]:
    """Score a checkpoint with every subset of its sensors, and with gaps in the season in which none saw anything.

    Args:
        checkpoint: The model.
        source: Labeled samples.
        sensors: Try every subset; else all together only.
        gaps: Their lengths in months; each may begin in every month of the season.

    Returns:
        The table, with mean and worst of each length of gap, and every single run behind it.
    """
    every, rows = names(checkpoint.experiment.data.sensors), tuple(range(len(source)))
    subsets = [part for n in range(len(every), 0, -1) for part in combinations(every, n)] if sensors else [every]
    lost = [" + ".join(name for name in every if name not in part) or "nothing" for part in subsets]
    ways: list[tuple[Values, SampleSource]] = [
        ({"missing": name, "from": ""}, SampleSubset(source, rows, (), part))
        for name, part in zip(lost, subsets, strict=True)
    ]
    lines = SeasonSamples.of(source, checkpoint.experiment.data.seasons) if gaps else []
    for line in lines:
        for months in gaps:
            text = ("1 month" if months == 1 else f"{months} months") + (f" of {line.name}" if len(lines) > 1 else "")
            ways += [({"missing": text, "from": start}, view) for start, view in line.gaps(months).items()]
    runs = Rows(("missing", "from"), tuple(_scored(checkpoint, ways, console)))
    return Rows(("missing",), tuple(_gathered(runs, checkpoint.experiment.task.best_score))), runs


def _gathered(runs: Rows, best: str) -> Iterator[Values]:
    """Runs without a gap as they are; of each length of gap the mean and the worst."""
    for missing in dict.fromkeys(row["missing"] for row in runs.rows):
        group = [row for row in runs.rows if row["missing"] == missing]
        worst = min(group, key=lambda row: row[best])
        start, lowest = worst["from"], {key: worst[key] for key in runs.scores}
        if start:
            mean = {key: sum(row[key] for row in group) / len(group) for key in lowest}
            yield {"missing": f"{missing}, mean", **mean}
        yield {"missing": f"{missing}, worst (from {start})" if start else missing, **lowest}


def _scored(
    checkpoint: Checkpoint, ways: Sequence[tuple[Values, SampleSource]], console: Console | None
) -> Iterator[Values]:
    with counting(console or Console(quiet=True), "evaluating") as step:
        for done, (keys, source) in enumerate(ways):
            step(done, len(ways))
            result = evaluate(checkpoint, source)
            figures = {key: result.summary[key] for key in checkpoint.experiment.task.shown}
            if "Fscore" in result.columns:
                figures |= {CLASS + entry.name: entry.Fscore for entry in result.classes}  # ty: ignore
            yield {**keys, **figures}


def write_early(checkpoint: Checkpoint, table: Rows, target: float, out: Path) -> dict[str, dict[str, str | None]]:
    """Write ``early_season.{csv,md,json,png}`` and return the first days that reach the target."""
    reached = first_days(table, target)
    table.write(out / "early_season", target=target, reached=reached)
    draw(table, checkpoint, target, out / "early_season.png")
    write_provenance(checkpoint.experiment, out)
    return reached


def write_failures(checkpoint: Checkpoint, table: Rows, runs: Rows, out: Path) -> None:
    """Write ``failures.{csv,md,json}``; JSON holds every single run too."""
    table.write(out / "failures", runs=runs.rows)
    write_provenance(checkpoint.experiment, out)


def draw(table: Rows, checkpoint: Checkpoint, target: float, path: Path) -> None:
    """Draw scores against dates: one panel for each season, all classes in their colors, the best score in black."""
    from matplotlib.figure import Figure

    task = checkpoint.experiment.task
    seasons = list(dict.fromkeys(row["season"] for row in table.rows))
    figure = Figure(figsize=(6.4 * len(seasons), 4), layout="constrained")
    axes = figure.subplots(1, len(seasons), squeeze=False)
    for axis, season in zip(axes[0], seasons, strict=True):
        rows = [row for row in table.rows if row["season"] == season]
        for name, color in zip(task.names, task.colors, strict=True):
            if CLASS + name in rows[0]:
                axis.plot([row[CLASS + name] for row in rows], color=color, marker=".", label=name)
        axis.plot([row[task.best_score] for row in rows], color="black", lw=2.5, label=task.best_score)
        axis.axhline(target, color="gray", ls=":", label=f"target {target:g}")
        axis.set_xticks(range(len(rows)), [row["as of"] for row in rows], rotation=45, ha="right")
        axis.set(ylim=(0, 1), ylabel="F-score", title=season if len(seasons) > 1 else "images up to this day")
        axis.grid(alpha=0.3)
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    save_png(figure, path, dpi=110)
