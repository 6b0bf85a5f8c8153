"""Verbs about trust: calibrate a checkpoint, report on a checkpoint or a map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from agrifm.cli.shell import Ckpt, Ensemble, Flips, Links, app, console


@app.command()
def calibrate(
    checkpoint: Ckpt,
    split: Annotated[str, typer.Option(help="val, or a list file of other labeled chips.")] = "val",
    coverage: Annotated[float, typer.Option(help="Share of pixels whose class set holds the truth.")] = 0.9,
    by_class: Annotated[bool, typer.Option("--by-class", help="Ask for this share in every class alone.")] = False,
    unit: Annotated[Literal["chips", "pixels"], typer.Option(help="What counts as new ground.")] = "chips",
    flips: Flips = False,
    ensemble: Ensemble = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data, if it is no longer where it was.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new checkpoint; calibrated.safetensors beside the old.")] = None,
    allow_links: Links = False,
) -> None:
    """Make probabilities mean what they say: fit a temperature and class sets, and check both on every split."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.errors import InputError
    from agrifm.evaluation.calibration import calibrate_checkpoint

    out = out or checkpoint.with_name("calibrated.safetensors")
    if out.resolve() == checkpoint.resolve():
        raise InputError(out, found="the checkpoint itself", expected="a new file", repair="give another --out.")
    loaded = replace(Checkpoint.load(checkpoint).with_root(root, allow_links=allow_links), calibration=None)
    loaded = loaded.averaging(flips=flips, others=ensemble or ())
    found, splits = calibrate_checkpoint(loaded, out, split, coverage, by_class=by_class, unit=unit, console=console)
    show(splits)
    console.print(str(found), highlight=False)
    if found.shared:
        lacking = ", ".join(found.shared)
        console.print(f"too few samples, so with the threshold of all classes: {lacking}", highlight=False)
    if split == "val":
        console.print("val chose the epoch too, so its own figures flatter: believe those of test", highlight=False)
    console.print(f"written to {out}, numbers and diagram beside it", highlight=False)
    console.print(f"next: agrifm map {out} SCENE OUT.tif --confidence --sets", highlight=False)


def show(splits: dict[str, dict[str, Any]]) -> None:
    """Print what calibration did on each split."""
    table = Table("split", "chips", "aAcc", "ECE", "NLL", "covered", "set size")
    for name, values in splits.items():
        before, after, sets = values["before"], values["after"], values["sets"]
        moved = (f"{before[key]:.3f} → {after[key]:.3f}" for key in ("ECE", "NLL"))
        row = (str(values["chips"]), f"{after['accuracy']:.3f}", *moved, f"{sets['chips']:.1%}", f"{sets['size']:.2f}")
        table.add_row(name, *row)
    console.print(table)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="A checkpoint, or the GeoTIFF of a map.")],
    out: Annotated[Path, typer.Argument(help="The report, an HTML file.")],
) -> None:
    """Write one HTML file: scores, curves, confusion matrix, class areas, pictures, provenance."""
    from agrifm.products.report import report as write

    write(source, out)
    console.print(f"written to {out}", highlight=False)
