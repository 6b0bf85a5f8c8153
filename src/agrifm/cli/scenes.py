"""Verbs about scenes: look at them, search them in catalogues, cut chips from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Overwrite, app, console

scene = typer.Typer(no_args_is_help=True, help="Look at scenes, search them in a catalogue.")
app.add_typer(scene, name="scene")

ScenePath = Annotated[
    Path, typer.Argument(help="Folder or pattern of rasters, netCDF or Zarr cube, scene.yaml, or a saved item list.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value of scene.yaml, may be repeated.")]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read, and say so.")]


def opened(path: Path, settings: list[str] | None, skip: bool, as_of: str | None = None):
    """Open a scene, forget what came later than ``as_of``, and check its units."""
    import datetime as dt

    from agrifm.errors import InputError
    from agrifm.opening import open_scene
    from agrifm.scenes.checks.units import check_units

    found = open_scene(path, settings or (), skip_unreadable=skip)
    for href in found.skipped:
        console.print(f"left out: {href}", highlight=False)
    if as_of is not None:
        try:
            day = dt.date.fromisoformat(as_of)
        except ValueError as error:
            raise InputError(
                f"--as-of {as_of}", found="no date", expected="YYYY-MM-DD", repair="write e.g. 2024-06-30."
            ) from error
        found = found.until(day)
    return check_units(found, skip_unreadable=skip)


@scene.command("show")
def show(
    path: ScenePath,
    picture: Annotated[Path | None, typer.Option(help="Also draw a quick look, a PNG.")] = None,
    settings: Settings = None,
    skip_unreadable: Skip = False,
) -> None:
    """List sensors, dates, clear shares, grids, band order and units, and draw a quick look."""
    from agrifm.scenes.quicklook import show as tell

    tell(opened(path, settings, skip_unreadable), picture, console)


@scene.command("search")
def search(
    out: Annotated[Path, typer.Argument(help="The item list, a JSON file; it opens as a scene.")],
    stac: Annotated[str, typer.Option(help="Address of a STAC API, or of a static catalogue.")],
    collection: Annotated[list[str], typer.Option(help="Id of a collection, may be repeated.")],
    start: Annotated[str, typer.Option(metavar="DATE", help="First day.")],
    end: Annotated[str, typer.Option(metavar="DATE", help="Last day.")],
    bbox: Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")] = None,
    aoi: Annotated[Path | None, typer.Option(help="Vector file of the area instead.")] = None,
    max_cloud: Annotated[float | None, typer.Option(help="Percent of cloud that an item may state.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many items.", min=1)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Search a STAC catalogue and save the items, so that every later run sees the same images."""
    from agrifm.addresses import is_address
    from agrifm.errors import InputError
    from agrifm.stac.items import save, setting
    from agrifm.stac.search import search as find

    if out.exists() and not overwrite:
        raise InputError(
            out, found="a file", expected="a new one", repair="give --overwrite to search again, or another name."
        )
    save(
        find(
            stac,
            collection,
            bbox=_numbers(bbox),
            aoi=aoi,
            start=start,
            end=end,
            max_cloud=max_cloud,
            limit=limit,
            console=console,
        ),
        out,
    )
    folder = None if is_address(stac) else Path(stac).resolve().parent
    beside = folder is None or folder.is_relative_to(out.resolve().parent)
    allowed = "" if folder is None or beside else f" --set {setting(folder)}"
    console.print(f"saved to {out}\nnext: agrifm scene show {out}{allowed}", highlight=False)


def _numbers(text: str | None) -> tuple[float, float, float, float] | None:
    from agrifm.errors import InputError

    if text is None:
        return None
    try:
        west, south, east, north = (float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise InputError(
            f"--bbox {text}",
            found="not four numbers",
            expected="west,south,east,north in degrees",
            repair="write e.g. --bbox 3.2,43.6,3.3,43.7.",
        ) from error
    return west, south, east, north


@app.command()
def chips(
    scene: ScenePath,
    labels: Annotated[Path, typer.Argument(help="Vector file of fields, or a raster of class numbers.")],
    out: Annotated[Path, typer.Argument(help="Folder of the chips.")],
    class_column: Annotated[str | None, typer.Option(help="Column that holds the class.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Table of codes, names and colors (CSV or YAML), or hcat, worldcereal, cdl, rpg."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the vector file.")] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of a chip.")] = 96,
    buffer: Annotated[float, typer.Option(help="Meters by which fields shrink on all sides.")] = 0.0,
    distance: Annotated[float, typer.Option(help="Meters between labels of different splits.")] = 0.0,
    val: Annotated[float, typer.Option(help="Share of the labeled area for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the labeled area for the test.")] = 0.2,
    block: Annotated[int | None, typer.Option(help="Chips along a block that stays in one split.")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds give other splits.")] = 0,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut a scene into labeled chips for training, split by blocks of ground, with a report."""
    from agrifm.chips.writer import ChipPlan, write_chips

    plan = ChipPlan(class_column, classes, layer, size, buffer, distance, val, test, block, seed)
    found = opened(scene, settings, skip_unreadable)
    write_chips(found, labels, out, plan, overwrite=overwrite, console=console).show(console)
    console.print(f"written to {out}, picture {out / 'split.png'}", highlight=False)
    console.print(f"next: agrifm train {out / 'crops.yaml'}", highlight=False)
