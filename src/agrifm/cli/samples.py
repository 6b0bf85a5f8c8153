"""Commands for tables of labeled pixels: ``samples make``, ``samples check`` and ``samples suggest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Overrides, Overwrite, app, console
from agrifm.errors import counted

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


@samples.command("check")
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Experiment in YAML, or the folder of a data set.")],
    out: Annotated[Path, typer.Argument(help="Table of suspect labels to write: .csv or .gpkg.")],
    max_pixels: Annotated[int, typer.Option(help="Labeled pixels that are used at most.", min=20)] = 20_000,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """List labels that their series contradict, worst first, with a picture of the worst twelve beside the table."""
    from agrifm.sample_tables.suspects.check import check_labels, open_experiment, write_suspects
    from agrifm.sample_tables.suspects.picture import save_suspects
    from agrifm.sample_tables.suspects.units import refuse_without_places
    from agrifm.statistics.area_sample import check_target

    check_target(out, overwrite)
    experiment = open_experiment(data, tuple(overrides or ()))
    with console.status("reading labeled pixels") as status:
        result = check_labels(
            experiment,
            most=max_pixels,
            progress=status.update,
            accepts=lambda units: refuse_without_places(units, out),
        )
    write_suspects(result, out)
    result.show(console)
    console.print(f"written to {out}", highlight=False)
    if len(result.suspects.unit):
        picture = out.with_suffix(".png")
        save_suspects(result, picture)
        console.print(f"picture of the worst: {picture}", highlight=False)
    console.print("next: correct the labels at their source, and write the data set again", highlight=False)


@samples.command("suggest")
def suggest(
    map_: Annotated[
        Path, typer.Argument(metavar="MAP", help="Map of 'agrifm map --confidence', for --uncertain also --entropy.")
    ],
    out: Annotated[Path, typer.Argument(help="Sample to write: .gpkg or .csv.")],
    count: Annotated[int, typer.Option(help="Number of points.", min=2)] = 100,
    uncertain: Annotated[
        float, typer.Option(help="Share of the points that are drawn where the model is uncertain.", min=0, max=0.9)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Suggest where to label next: a stratified random sample of the map, from which areas can be estimated too."""
    from agrifm.sample_tables.suggest import suggest as suggest_points
    from agrifm.statistics.tables import design_table

    with console.status("drawing points"):
        found = suggest_points(map_, out, count, uncertain, seed, overwrite=overwrite)
    console.print(design_table(found.design))
    if found.uncertain:
        console.print(f"{counted(found.uncertain, 'more point')} where the model is uncertain", highlight=False)
    for path in found.files:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    console.print(f"next: fill in 'reference', then agrifm area estimate {out}", highlight=False, soft_wrap=True)
