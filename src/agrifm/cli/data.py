"""Verbs about data: check, statistics, an example; the schema of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agrifm.cli.shell import Config, Overrides, app, console, refusal
from agrifm.errors import counted

if TYPE_CHECKING:
    from agrifm.checks.survey import Survey
    from agrifm.config.experiment import Task

data = typer.Typer(no_args_is_help=True, help="Check data, compute statistics, write an example.")
app.add_typer(data, name="data")


@data.command("check")
def check(
    config: Config,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds that reading one chip may take.")] = 60,
) -> None:
    """Run all checks that come before training, on every chip, and list what is wrong."""
    from agrifm.config import load
    from agrifm.training.resolve import survey_covers
    from agrifm.training.samples.data_checks import cautions, examine_watched
    from agrifm.training.samples.sources import open_sources

    experiment = load(config, overrides or ())
    if experiment.data.shards is not None:
        with console.status("reading some samples"):
            seen = {"train": survey_covers(experiment, open_sources(experiment))}
        console.print(_table(experiment.task, seen))
        console.print("no problems found in these samples; pre-training has no chips and no test split")
        return
    splits = ["train", "val"]
    if experiment.data.list_file("test").is_file():
        splits.append("test")
    with console.status("reading every chip"):
        problems, seen = examine_watched(experiment, open_sources(experiment, tuple(splits)), seconds)
    for problem in problems[:20]:
        console.print(refusal(problem), highlight=False, soft_wrap=True)
    if problems:
        console.print(f"{counted(len(problems), 'problem')} found")
        raise typer.Exit(2)
    console.print(_table(experiment.task, seen))
    for warning in cautions(experiment, seen):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    console.print("no problems found")


def _table(task: Task, seen: Mapping[str, Survey]) -> Table:
    """What is in the splits: a line for each sensor, the first of which also shows chips and labels."""
    table = Table("split", "chips", "sensor", "frames", "clear", "labels")
    for split, survey in seen.items():
        of_split = [split, str(survey.chips)]
        labels = _label_shares(task, survey)
        for sensor, frames in survey.frames.items():
            clear = sum(survey.clear[sensor]) / len(frames)
            fewest, most = min(frames), max(frames)
            counts = str(most) if fewest == most else f"{fewest} to {most}"
            table.add_row(*of_split, sensor, counts, f"{clear:.0%}", labels)
            of_split = ["", ""]
            labels = ""
    return table


def _label_shares(task: Task, survey: Survey) -> str:
    """Classes that occur, with their shares of the labeled pixels; nothing for fractions, which are no classes."""
    from agrifm.tasks.fractions import Fractions

    if isinstance(task, Fractions) or not survey.labels:
        return ""
    total = sum(survey.labels.values()) or 1
    shares = []
    for name, count in task.counts(survey.labels):
        if count:
            shares.append(f"{name} {count / total:.0%}")
    return ", ".join(shares)


@data.command("stats")
def stats(config: Config, overrides: Overrides = None) -> None:
    """Mean and deviation of each band over the valid pixels of the training split, as YAML."""
    import yaml

    from agrifm.checks.chips import survey
    from agrifm.config import load
    from agrifm.training.resolve import survey_covers
    from agrifm.training.samples.sources import open_sources

    experiment = load(config, overrides or ())
    with console.status("reading the training split"):
        if experiment.data.shards is not None:
            seen = survey_covers(experiment, open_sources(experiment))
        else:
            source = open_sources(experiment, ("train",))["train"]
            seen = survey(source, experiment.data.sensors, range(len(source)))
    plain = {}
    for sensor in experiment.data.sensors:
        found = seen.statistics(sensor)
        plain[sensor.name] = {"mean": list(found.mean), "std": list(found.std), "source": found.source}
    console.print(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100), highlight=False)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; printed if left out.")] = None,
) -> None:
    """Print the JSON schema of an experiment, from which editors complete and explain keys."""
    import json

    from agrifm.config.schema import experiment_schema
    from agrifm.io import write_whole

    text = json.dumps(experiment_schema(), indent=2)
    if out is None:
        typer.echo(text)
        return
    write_whole(out, text)
    console.print(f"written to {out}", highlight=False)
    console.print(f"first line of a configuration: # yaml-language-server: $schema={out}", highlight=False)


@data.command("example")
def example(
    out: Annotated[Path, typer.Argument(help="Folder of the data set.")] = Path("data/example"),
    seed: Annotated[int, typer.Option(help="Other seeds give other farmland.")] = 0,
    paddy: Annotated[bool, typer.Option("--paddy", help="Grow rice too, in flooded fields.")] = False,
) -> None:
    """Write a synthetic farmland: three sensors, clouds, six classes, some 80 chips."""
    from agrifm.demo import write_data

    write_data(out, seed, console, paddy=paddy)
