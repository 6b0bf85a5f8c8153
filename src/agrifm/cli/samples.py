"""Commands for tables of labeled pixels: ``samples make``, ``samples check`` and ``samples suggest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Overwrite, app, console

samples = typer.Typer(
    no_args_is_help=True, help="Train from tables of labeled pixels, check labels, and suggest where to label next."
)
app.add_typer(samples, name="samples")


@samples.command("make")
def make(
    table: Annotated[
        Path, typer.Argument(help="CSV, Parquet or vector file of dated band values with one label per sample.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    sensor: Annotated[
        str | None, typer.Option(help="S2, Landsat or Modis. Default: the one whose bands the columns are called by.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Columns to take as bands, with commas, e.g. VV,VH. Default: by their names.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column with the class.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with the name of the sample.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column with the parcel, village or survey that stays in one split.")
    ] = None,
    date_column: Annotated[str | None, typer.Option(help="Column with the date.")] = None,
    dates: Annotated[
        str | None,
        typer.Option(help="Dates of numbered steps: a file, dates with commas, or START/DAYS, e.g. 2018-01-01/16."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Factor from values to reflectance. Default: detected.")] = None,
    offset: Annotated[float | None, typer.Option(help="Offset that is added after scaling.")] = None,
    nodata: Annotated[list[float] | None, typer.Option(help="Value that marks missing data. Can be repeated.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the columns x and y, e.g. EPSG:32631.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Table of codes, names and colors (CSV or YAML), or hcat, worldcereal, cdl, rpg."),
    ] = None,
    drop_rare: Annotated[
        bool, typer.Option("--drop-rare", help="Leave out classes with fewer than five samples.")
    ] = False,
    val: Annotated[float, typer.Option(help="Share of the samples for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the samples for the test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of the split.", min=0)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Turn a table of labeled pixels into a data set to train on, without images."""
    from agrifm.sample_tables.columns import TableOptions
    from agrifm.sample_tables.writer import SamplePlan, write_samples

    listed = tuple(name.strip() for name in (bands or "").split(",") if name.strip())
    options = TableOptions(
        sensor,
        listed,
        label_column,
        id_column,
        group_column,
        date_column,
        scale,
        offset,
        tuple(nodata or ()),
        dates,
        crs,
    )
    plan = SamplePlan(classes, drop_rare, val, test, seed)
    report = write_samples(table, out, options, plan, overwrite=overwrite, console=console)
    report.show(console)
    console.print(f"written to {out}", highlight=False)
    console.print(f"next: agrifm train {out / 'crops.yaml'} --quick", highlight=False)
