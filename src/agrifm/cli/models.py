"""Verbs about models: train, predict, show, weights, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agrifm.cli.shell import Ckpt, Config, Ensemble, Flips, Links, Overrides, app, console, resumable

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
    from agrifm.config import load
    from agrifm.training import fit

    experiment = load(config, overrides or ())
    out = out or Path("runs") / experiment.name
    with resumable():
        best = fit(experiment, out, resume=resume, console=console)
    console.print(f"best checkpoint: {best}\nnext: agrifm evaluate {best} --split test", highlight=False)


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
    allow_links: Links = False,
) -> None:
    """Map every chip of a folder: GeoTIFF where the chip knows its place, PNG otherwise."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import ChipFolder
    from agrifm.maps.predict_chips import predict as write

    loaded = Checkpoint.load(checkpoint).averaging(flips=flips, others=ensemble or ())
    folder = chips / "h5_samples" if (chips / "h5_samples").is_dir() else chips
    data = loaded.experiment.data
    source = ChipFolder.in_folder(
        folder, data.sensors, allow_missing=True, seasons=data.seasons, allow_links=allow_links
    )
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
            console.print(f"{key}: {value}", highlight=False)
        console.print(loaded.experiment.to_yaml(), highlight=False)
        return
    experiment = load(path)
    console.print(experiment.to_yaml(), highlight=False)
    known = [sensor for sensor in experiment.data.sensors if sensor.statistics is not None]
    if len(known) == len(experiment.data.sensors):
        console.print(f"weights: {count_parameters(build(experiment)):,}", highlight=False)


@weights.command("show")
def weights_show(path: Annotated[Path, typer.Argument(help="A .pth or .safetensors file.")]) -> None:
    """Say what a weights file holds, read off its tensors; nothing in it is executed."""
    from agrifm.compat.weights import describe_weights

    for key, value in describe_weights(path).items():
        console.print(f"{key:8} {value}", highlight=False)


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
