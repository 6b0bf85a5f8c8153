"""Verbs about land-cover fractions: samples for pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.scenes import Settings, Skip, opened
from agrifm.cli.shell import Overwrite, app, console

fractions = typer.Typer(no_args_is_help=True, help="Make samples for pre-training.")
app.add_typer(fractions, name="fractions")

DEFAULT_SIZES = ("48", "Modis=16")


@fractions.command("build")
def build(
    scenes: Annotated[list[Path], typer.Argument(help="Scenes, as for 'agrifm scene show'; one or more.")],
    landcover: Annotated[str, typer.Argument(help="Land-cover raster, or a VRT over tiles.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards.")],
    classes: Annotated[str, typer.Option(help="worldcover, glc_fcs30d, cdl, mcd12q1, or a YAML file.")] = "worldcover",
    size: Annotated[
        list[str] | None, typer.Option(help="Pixels along a chip, or SENSOR=pixels; may be repeated (48, Modis=16).")
    ] = None,
    cells: Annotated[int, typer.Option(help="Cells along a chip.", min=1)] = 8,
    min_clear: Annotated[float, typer.Option(help="Smallest mean clear share of the dates.", min=0, max=1)] = 0.2,
    max_unknown: Annotated[float, typer.Option(help="Largest share of a chip without land cover.", min=0, max=1)] = 0.5,
    samples: Annotated[int | None, typer.Option(help="How many are wanted; all if not given.", min=1)] = None,
    balance: Annotated[
        float, typer.Option(help="0: as they come; 1: every dominant cover and biome equally often.", min=0, max=1)
    ] = 0.5,
    biome: Annotated[str | None, typer.Option(help="Label of these scenes; by latitude if not given.")] = None,
    year: Annotated[int | None, typer.Option(help="Of all dates; the one with the most if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds draw other samples.")] = 0,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut scenes into samples with shares of land cover, and write them as shards, with a report."""
    from agrifm.pretraining.crosswalk import Crosswalk
    from agrifm.pretraining.fractions import build as cut
    from agrifm.pretraining.views import FractionPlan

    plan = FractionPlan(_sizes(size or ()), cells, min_clear, max_unknown, samples, balance, biome, year, seed)
    crosswalk = Crosswalk.read(classes)
    found = [opened(scene, settings, skip_unreadable) for scene in scenes]
    cut(found, landcover, out, crosswalk, plan, overwrite=overwrite, console=console).show(console)
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
