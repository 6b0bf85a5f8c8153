"""The command ``fractions build``: samples with land-cover shares for pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.scenes import Settings, Skip, opened
from agrifm.cli.shell import Overwrite, app, console, resumable

fractions = typer.Typer(no_args_is_help=True, help="Build samples for pre-training.")
app.add_typer(fractions, name="fractions")

DEFAULT_SIZES = ("48", "Modis=16")


@fractions.command("build")
def build(
    scenes: Annotated[list[Path], typer.Argument(help="Scenes, as for 'agrifm scene show'; one or more.")],
    landcover: Annotated[str, typer.Argument(help="Land-cover raster, or a VRT over tiles.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards to write.")],
    classes: Annotated[str, typer.Option(help="worldcover, glc_fcs30d, cdl, mcd12q1, or a YAML file.")] = "worldcover",
    size: Annotated[
        list[str] | None,
        typer.Option(help="Pixels along a chip, or SENSOR=pixels. Can be repeated. Default: 48, Modis=16."),
    ] = None,
    cells: Annotated[int, typer.Option(help="Cells along a chip.", min=1)] = 8,
    min_clear: Annotated[float, typer.Option(help="Smallest mean clear share of the dates.", min=0, max=1)] = 0.2,
    max_unknown: Annotated[
        float, typer.Option(help="Largest share of a chip with unknown land cover.", min=0, max=1)
    ] = 0.5,
    samples: Annotated[int | None, typer.Option(help="Number of samples. Default: all.", min=1)] = None,
    balance: Annotated[
        float,
        typer.Option(
            help="0 keeps the frequencies; 1 makes every dominant cover and biome equally frequent.", min=0, max=1
        ),
    ] = 0.5,
    biome: Annotated[str | None, typer.Option(help="Biome of these scenes. Default: by latitude.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of the dates. Default: the one with the most dates.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choice.")] = 0,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut scenes into samples with land-cover shares, and write them as shards with a report."""
    from agrifm.pretraining.crosswalk import Crosswalk
    from agrifm.pretraining.fractions import build as build_samples
    from agrifm.pretraining.views import FractionPlan

    plan = FractionPlan(_sizes(size or ()), cells, min_clear, max_unknown, samples, balance, biome, year, seed)
    crosswalk = Crosswalk.read(classes)
    with resumable():
        opened_scenes = [opened(scene, settings, skip_unreadable) for scene in scenes]
        outcomes = build_samples(opened_scenes, landcover, out, crosswalk, plan, overwrite=overwrite, console=console)
    outcomes.show(console)
    console.print(f"written to {out}, report {out / 'report.json'}", highlight=False)


def _sizes(texts: Sequence[str]) -> dict[str, int]:
    """Pixels along a chip by sensor; ``""`` stands for all others."""
    from agrifm.errors import InputError

    sizes = {}
    for text in (*DEFAULT_SIZES, *texts):
        sensor, _, number = text.rpartition("=")
        if not (number.isdecimal() and len(number) < 6):
            raise InputError(
                f"--size {text}",
                found="no number of pixels",
                expected="48, or Modis=16",
                repair="write a whole number, and the name of a sensor before it.",
            )
        sizes[sensor] = int(number)
    return sizes
