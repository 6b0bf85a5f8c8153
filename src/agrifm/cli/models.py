"""Verbs about models: train, evaluate, predict, show, weights, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from agrifm.cli.shell import Ckpt, Config, Ensemble, Flips, Overrides, app, console, resumable

weights = typer.Typer(no_args_is_help=True, help="Look at and convert weight files.")
app.add_typer(weights, name="weights")


@app.command()
def train(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; runs/<name> if left out.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where a run in that folder stopped.")] = True,
    overrides: Overrides = None,
) -> None:
    """Train a model: fine-tune pre-trained weights, or start from random ones."""
    from agrifm.compat.weights import start_weights
    from agrifm.config import load
    from agrifm.training import fit

    experiment = load(config, overrides or ())
    out = out or Path("runs") / experiment.name
    with resumable():
        best = fit(experiment, out, resume=resume, weights=start_weights(experiment), console=console)
    console.print(f"best checkpoint: {best}\nnext: agrifm evaluate {best} --split test", highlight=False)


@app.command()
def evaluate(
    checkpoint: Ckpt,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    root: Annotated[Path | None, typer.Option(help="Folder of other data with the same layout.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the scores; beside the checkpoint if left out.")] = None,
    flips: Flips = False,
    ensemble: Ensemble = None,
) -> None:
    """Score a checkpoint on a split of its data, or of other data."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.training import evaluate as score
    from agrifm.training.fit import open_sources

    loaded = at_root(Checkpoint.load(checkpoint), root).looking(flips=flips, others=ensemble or ())
    looks = ("_flips" if flips else "") + ("_ensemble" if ensemble else "")
    out = out or checkpoint.parent / f"scores_{split}{looks}"
    result = score(loaded, open_sources(loaded.experiment, (split,))[split], out, console=console)
    show_scores(result)
    console.print(f"written to {out}", highlight=False)


def at_root(checkpoint, root: Path | None):
    """The checkpoint with its data in another folder of the same layout."""
    from dataclasses import replace

    if root is None:
        return checkpoint
    moved = {"root": root, "chips": None, "train": None, "val": None, "test": None}
    experiment = checkpoint.experiment
    data = experiment.data.model_copy(update=moved)
    return replace(checkpoint, experiment=experiment.model_copy(update={"data": data}))


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


@app.command()
def predict(
    checkpoint: Ckpt,
    chips: Annotated[Path, typer.Argument(help="Folder of HDF5 chips.")],
    out: Annotated[Path, typer.Argument(help="Folder of the maps.")],
    probabilities: Annotated[bool, typer.Option(help="Also write the probability of every class.")] = False,
    confidence: Annotated[bool, typer.Option(help="Also write the probability of the chosen class.")] = False,
    sets: Annotated[bool, typer.Option(help="Also write which classes are possible.")] = False,
    flips: Flips = False,
    ensemble: Ensemble = None,
) -> None:
    """Map every chip of a folder: GeoTIFF where the chip knows its place, PNG otherwise."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import Chips
    from agrifm.maps.chips import predict as write

    loaded = Checkpoint.load(checkpoint).looking(flips=flips, others=ensemble or ())
    folder = chips / "h5_samples" if (chips / "h5_samples").is_dir() else chips
    source = Chips.in_folder(folder, loaded.experiment.data.sensors, allow_missing=True)
    paths = write(loaded, source, out, probabilities=probabilities, confidence=confidence, sets=sets, console=console)
    console.print(f"{len(paths)} files written to {out}", highlight=False)


@app.command()
def show(path: Annotated[Path, typer.Argument(help="Experiment in YAML, or checkpoint.")]) -> None:
    """Show an experiment or a checkpoint in full, with the size of its model."""
    from agrifm.checkpoint import Checkpoint, build, describe
    from agrifm.config import load
    from agrifm.nn.model import count_parameters

    if path.suffix == ".safetensors":
        loaded = Checkpoint.load(path)
        for key, value in describe(loaded).items():
            console.print(f"{key}: {value}", highlight=False, markup=False)
        console.print(loaded.experiment.to_yaml(), highlight=False, markup=False)
        return
    experiment = load(path)
    console.print(experiment.to_yaml(), highlight=False, markup=False)
    known = [sensor for sensor in experiment.data.sensors if sensor.statistics is not None]
    if len(known) == len(experiment.data.sensors):
        console.print(f"weights: {count_parameters(build(experiment)):,}", highlight=False)


@weights.command("show")
def weights_show(path: Annotated[Path, typer.Argument(help="A .pth or .safetensors file.")]) -> None:
    """Say what a weights file holds, read off its tensors; nothing in it is executed."""
    from agrifm.compat.weights import describe_weights

    for key, value in describe_weights(path).items():
        console.print(f"{key:8} {value}", highlight=False, markup=False)


@weights.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(help="A .pth file.")],
    target: Annotated[Path, typer.Argument(help="A .safetensors file to write; .pth in the published layout.")],
    layout: Annotated[Literal["same", "released"], typer.Option(help="Keys of the published AgriFM.pth?")] = "same",
) -> None:
    """Write the same tensors as safetensors, or a pre-trained encoder in the layout of the published file."""
    from agrifm.compat.weights import convert

    console.print(f"{len(convert(source, target, layout))} tensors written to {target}", highlight=False)


@app.command()
def demo(
    config: Annotated[Path, typer.Argument(help="Experiment in YAML.")] = Path("configs/example.yaml"),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
) -> None:
    """The whole journey on made-up farmland: data, training, scores beside baselines, maps, a picture."""
    from agrifm.demo import run

    with resumable():
        run(config, out, console)
