"""Commands that show how far a model or map can be trusted: ``calibrate`` and ``report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from agrifm.cli.shell import Ckpt, Ensemble, Flips, Links, app, console, local_checkpoint
from agrifm.errors import InputError
from agrifm.network.hub import results_folder


@app.command()
def calibrate(
    checkpoint: Ckpt,
    split: Annotated[str, typer.Option(help="val, or a list file of other labeled chips.")] = "val",
    coverage: Annotated[float, typer.Option(help="Share of pixels whose prediction set holds the true class.")] = 0.9,
    by_class: Annotated[bool, typer.Option("--by-class", help="Reach this coverage in every class.")] = False,
    unit: Annotated[
        Literal["chips", "pixels"], typer.Option(help="Independent unit of the calibration data.")
    ] = "chips",
    flips: Flips = False,
    ensemble: Ensemble = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data, if it has moved.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write. Default: calibrated.safetensors beside the old one.")
    ] = None,
    allow_links: Links = False,
) -> None:
    """Calibrate probabilities: fit a temperature and prediction sets, and check both on every split."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.evaluation.calibration import calibrate_checkpoint

    out = out or results_folder(checkpoint) / "calibrated.safetensors"
    if out.resolve() == checkpoint.resolve():
        raise InputError(out, found="the checkpoint itself", expected="a new file", repair="give another --out.")
    model = replace(Checkpoint.load(checkpoint).with_root(root, allow_links=allow_links), calibration=None)
    model = model.averaging(flips=flips, others=ensemble or ())
    calibration, splits = calibrate_checkpoint(
        model, out, split, coverage, by_class=by_class, unit=unit, console=console
    )
    show(splits)
    console.print(str(calibration), highlight=False)
    if calibration.shared:
        names = ", ".join(calibration.shared)
        console.print(f"too few samples, the threshold of all classes is used: {names}", highlight=False)
    if split == "val" and model.uses_network:
        console.print("val also chose the epoch, so its scores are optimistic; rely on those of test", highlight=False)
    console.print(f"written to {out}, numbers and diagram beside it", highlight=False)
    console.print(f"next: agrifm map {out} SCENE OUT.tif --confidence --sets", highlight=False)


def show(splits: dict[str, dict[str, Any]]) -> None:
    """Print the effect of the calibration on each split."""
    table = Table("split", "chips", "aAcc", "ECE", "NLL", "covered", "set size")
    for name, values in splits.items():
        before = values["before"]
        after = values["after"]
        sets = values["sets"]
        table.add_row(
            name,
            str(values["chips"]),
            f"{after['accuracy']:.3f}",
            f"{before['ECE']:.3f} → {after['ECE']:.3f}",
            f"{before['NLL']:.3f} → {after['NLL']:.3f}",
            f"{sets['chips']:.1%}",
            f"{sets['size']:.2f}",
        )
    console.print(table)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="Checkpoint, or GeoTIFF of a map.", callback=local_checkpoint)],
    out: Annotated[Path, typer.Argument(help="HTML file to write.")],
) -> None:
    """Write one HTML file with scores, curves, confusion matrix, class areas, pictures and provenance."""
    from agrifm.products.report import report as write_report

    write_report(source, out)
    console.print(f"written to {out}", highlight=False)
