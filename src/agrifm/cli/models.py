"""Commands for models: ``train``, ``predict``, ``show``, ``export``, ``push``, ``weights`` and ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agrifm.cli.shell import (
    Ckpt,
    Config,
    Ensemble,
    Flips,
    Links,
    Overrides,
    app,
    console,
    local_checkpoint,
    resumable,
)
from agrifm.errors import counted

weights = typer.Typer(no_args_is_help=True, help="Inspect and convert weight files.")
app.add_typer(weights, name="weights")


@app.command()
def train(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume a run that was stopped in that folder.")] = True,
    quick: Annotated[
        bool, typer.Option(help="Train no network: only classifiers of single pixels, with image edges for fields.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train what an experiment describes: classifiers of single pixels, a network, or both."""
    from agrifm.config import load
    from agrifm.training.fit import fit

    experiment = load(config, overrides or ())
    if quick:
        experiment = experiment.quick()
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
    sets: Annotated[bool, typer.Option(help="Also write the prediction sets of a calibrated model.")] = False,
    flips: Flips = False,
    ensemble: Ensemble = None,
    allow_links: Links = False,
) -> None:
    """Map every chip of a folder: GeoTIFF where the chip is georeferenced, PNG otherwise."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.data.folder import ChipFolder
    from agrifm.maps.predict_chips import predict as predict_chips

    model = Checkpoint.load(checkpoint).averaging(flips=flips, others=ensemble or ())
    folder = chips / "h5_samples"
    if not folder.is_dir():
        folder = chips
    data = model.experiment.data
    source = ChipFolder.in_folder(
        folder, data.sensors, allow_missing=True, seasons=data.seasons, allow_links=allow_links
    )
    paths = predict_chips(
        model, source, out, probabilities=probabilities, confidence=confidence, sets=sets, console=console
    )
    console.print(f"{counted(len(paths), 'file')} written to {out}", highlight=False)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="Experiment in YAML, or checkpoint.", callback=local_checkpoint)],
) -> None:
    """Show an experiment or a checkpoint in full, with the size of its model."""
    from agrifm.checkpoint import Checkpoint, build, describe
    from agrifm.config import load
    from agrifm.nn.model import count_parameters

    if path.suffix == ".safetensors":
        checkpoint = Checkpoint.load(path)
        for key, value in describe(checkpoint).items():
            console.print(f"{key}: {value}", highlight=False)
        console.print(checkpoint.experiment.to_yaml(), highlight=False)
        return
    experiment = load(path)
    console.print(experiment.to_yaml(), highlight=False)
    # A network can be built once every sensor has statistics to normalize with.
    if experiment.network and all(sensor.statistics is not None for sensor in experiment.data.sensors):
        console.print(f"weights: {count_parameters(build(experiment)):,}", highlight=False)


@app.command()
def export(
    checkpoint: Ckpt,
    out: Annotated[Path, typer.Argument(help="File to write: OUT.onnx, or OUT.pt2 for PyTorch alone.")],
    dates: Annotated[
        int | None,
        typer.Option(min=1, help="Dates of a network's series. Default: those of the experiment, or 24."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Rows and columns of the finest sensor. Default: those of training."),
    ] = None,
) -> None:
    """Write a model as a file that runs without this package (ONNX or PyTorch), and compare the two."""
    from agrifm.products.export.file import export as write_file

    with console.status("writing the file, running it, and comparing it with the model"):
        written = write_file(checkpoint, out, dates, size)
    for name, shape in written.inputs.items():
        console.print(f"input {name}: {shape}", highlight=False)
    console.print(f"largest difference of probabilities from the model: {written.difference:.2g}", highlight=False)
    console.print(f"written to {out}", highlight=False)


@app.command()
def push(
    checkpoint: Ckpt,
    address: Annotated[str, typer.Argument(help="Repository on the hub: hf://ORG/NAME, or hf://ORG/NAME@BRANCH.")],
    license_: Annotated[
        str, typer.Option("--license", help="License of the weights by its name on the hub, e.g. cc-by-4.0.")
    ] = "unknown",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub, with a model card that states its facts."""
    from agrifm.products.push import push as publish

    def report(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    with console.status("uploading the model"):
        commit = publish(checkpoint, address, license_name=license_, private=private, report=report)
    console.print(f"published: {commit}\nnext: agrifm show {address}", highlight=False, soft_wrap=True)


@weights.command("show")
def weights_show(path: Annotated[Path, typer.Argument(help="A .pth or .safetensors file.")]) -> None:
    """Describe a weights file by its tensors; no code in it is executed."""
    from agrifm.compat.weights import describe_weights

    for key, value in describe_weights(path).items():
        console.print(f"{key:8} {value}", highlight=False)


@weights.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(help="A .pth file.")],
    target: Annotated[Path, typer.Argument(help="File to write: .safetensors, or .pth in the published layout.")],
    layout: Annotated[Literal["same", "released"], typer.Option(help="Layout of the keys.")] = "same",
) -> None:
    """Convert weights to safetensors, or a pre-trained encoder to the layout of the published AgriFM.pth."""
    from agrifm.compat.weights import convert

    console.print(f"{counted(len(convert(source, target, layout)), 'tensor')} written to {target}", highlight=False)


@app.command()
def demo(
    config: Annotated[
        Path | None, typer.Argument(help="Experiment in YAML. Default: the example of the package.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
    network: Annotated[
        bool, typer.Option("--network", help="Also train the network of the example, which takes several times longer.")
    ] = False,
) -> None:
    """Run the whole workflow on synthetic farmland: data, training, scores beside baselines, maps, a picture."""
    from agrifm.config import load
    from agrifm.demo import EXAMPLE, run

    with resumable():
        experiment = load(config or EXAMPLE)
        if config is None and not network:
            experiment = experiment.quick()
        run(experiment, out, console)
