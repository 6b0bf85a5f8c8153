"""Verbs about data: check, statistics, an example; the schema of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agrifm.cli.shell import Config, Overrides, app, console, refusal

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
    from agrifm.training.data_checks import cautions, examine_watched
    from agrifm.training.loaders import open_sources
    from agrifm.training.resolve import survey_covers

    experiment = load(config, overrides or ())
    if experiment.data.shards is not None:
        with console.status("reading some samples"):
            seen = {"train": survey_covers(experiment, open_sources(experiment))}
        console.print(_table(experiment.task, seen))
        console.print("no problems found in these samples; pre-training has no chips and no test split")
        return
    splits = [name for name in ("train", "val", "test") if experiment.data.list_file(name).is_file() or name != "test"]
    with console.status("reading every chip"):
        problems, seen = examine_watched(experiment, open_sources(experiment, tuple(splits)), seconds)
    for problem in problems[:20]:
        console.print(refusal(problem), highlight=False, soft_wrap=True)
    if problems:
        console.print(f"{len(problems)} problem(s) found")
        raise typer.Exit(2)
    console.print(_table(experiment.task, seen))
    for warning in cautions(experiment, seen):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    console.print("no problems found")


def _table(task, seen) -> Table:
    """What is in the splits."""
    table = Table("split", "chips", "sensor", "frames", "clear", "labels")
    for split, survey in seen.items():
        total = sum(survey.labels.values()) or 1
        counts = task.counts(survey.labels) if survey.labels else ()
        labels = ", ".join(f"{name} {n / total:.0%}" for name, n in counts if n)
        for row, (sensor, frames) in enumerate(survey.frames.items()):
            clear = sum(survey.clear[sensor]) / len(frames)
            first = (split, str(survey.chips)) if row == 0 else ("", "")
            table.add_row(*first, sensor, f"{min(frames)} to {max(frames)}", f"{clear:.0%}", "" if row else labels)
    return table


@data.command("stats")
def stats(config: Config, overrides: Overrides = None) -> None:
    """Mean and deviation of each band over the valid pixels of the training split, as YAML."""
    import yaml

    from agrifm.checks.chips import survey
    from agrifm.config import load
    from agrifm.training.loaders import open_sources
    from agrifm.training.resolve import survey_covers

    experiment = load(config, overrides or ())
    with console.status("reading the training split"):
        if experiment.data.shards is not None:
            seen = survey_covers(experiment, open_sources(experiment))
        else:
            source = open_sources(experiment, ("train",))["train"]
            seen = survey(source, experiment.data.sensors, range(len(source)))
    found = {sensor.name: seen.statistics(sensor) for sensor in experiment.data.sensors}
    plain = {name: {"mean": list(s.mean), "std": list(s.std), "source": s.source} for name, s in found.items()}
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
