"""Commands for scenes: ``scene show``, ``scene search`` and ``chips``."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agrifm.addresses import is_address
from agrifm.cli.shell import Overwrite, app, console, resumable
from agrifm.errors import InputError

if TYPE_CHECKING:
    from agrifm.scenes.scene import Scene

scene = typer.Typer(no_args_is_help=True, help="Inspect scenes and search for images in STAC catalogs.")
app.add_typer(scene, name="scene")

ScenePath = Annotated[
    Path,
    typer.Argument(
        help="Folder or pattern of rasters, netCDF or Zarr cube, scene.yaml, a saved item list, or the provenance of a "
        "map, whose images are opened."
    ),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value of scene.yaml. Can be repeated.")]
PROVENANCE = ".passport.json"  # end of the name; its module would load the libraries of models
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read and list them.")]


def opened(path: Path, settings: list[str] | None, skip: bool, as_of: str | None = None) -> Scene:
    """Open a scene, drop images later than ``as_of``, and check the units."""
    from agrifm.scenes.checks.units import check_units

    found = _scene_of_provenance(path, settings) if path.name.endswith(PROVENANCE) else _scene(path, settings, skip)
    for href in found.skipped:
        console.print(f"left out: {href}", highlight=False)
    if as_of is not None:
        found = found.until(_date(as_of))
    return check_units(found, skip_unreadable=skip)


def _scene(path: Path, settings: list[str] | None, skip: bool) -> Scene:
    from agrifm.opening import open_scene

    return open_scene(path, settings or (), skip_unreadable=skip)


def _scene_of_provenance(path: Path, settings: list[str] | None) -> Scene:
    """Open the images of a map; they have the settings with which it was made."""
    from agrifm.products.reproduce import EXTENSIONS, NO_EXTENSIONS, scene_of_provenance

    if settings:
        raise InputError(
            path,
            found=f"the provenance of a map, together with --set {settings[0]}",
            expected="the settings with which the map was made",
            repair="leave out --set, or name the images themselves.",
        )
    # Until the command ends; a provenance may come from somebody else, and files that it names may name addresses.
    os.environ[EXTENSIONS] = NO_EXTENSIONS
    return scene_of_provenance(path)


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"--as-of {text}", found="no date", expected="YYYY-MM-DD", repair="give a date such as 2024-06-30."
        ) from error


@scene.command("show")
def show(
    path: ScenePath,
    picture: Annotated[Path | None, typer.Option(help="Also save a quick look as PNG.")] = None,
    settings: Settings = None,
    skip_unreadable: Skip = False,
) -> None:
    """List sensors, dates, clear shares, grids, band order and units of a scene, and draw a quick look."""
    from agrifm.scenes.quicklook import show as show_scene

    show_scene(opened(path, settings, skip_unreadable), picture, console)


@scene.command("search")
def search(
    out: Annotated[Path, typer.Argument(help="Item list to write, a JSON file that opens as a scene.")],
    stac: Annotated[str, typer.Option(help="Address of a STAC API or of a static catalog.")],
    collection: Annotated[list[str], typer.Option(help="Id of a collection. Can be repeated.")],
    start: Annotated[str, typer.Option(metavar="DATE", help="First day.")],
    end: Annotated[str, typer.Option(metavar="DATE", help="Last day.")],
    bbox: Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")] = None,
    aoi: Annotated[Path | None, typer.Option(help="Vector file of the area of interest, instead of --bbox.")] = None,
    max_cloud: Annotated[float | None, typer.Option(help="Highest cloud cover of an item, in percent.")] = None,
    limit: Annotated[int | None, typer.Option(help="Highest number of items.", min=1)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Search a STAC catalog and save the items, so that later runs use the same images."""
    from agrifm.stac.hrefs import setting
    from agrifm.stac.items import save
    from agrifm.stac.search import search as find_items

    if out.exists() and not overwrite:
        raise InputError(
            out, found="a file", expected="a new one", repair="give --overwrite to search again, or another name."
        )
    items = find_items(
        stac,
        collection,
        bbox=_bounds(bbox),
        aoi=aoi,
        start=start,
        end=end,
        max_cloud=max_cloud,
        limit=limit,
        console=console,
    )
    save(items, out)
    # Items of a local catalog lead to files that a list in another folder may open only if the user allows it.
    permission = ""
    if not is_address(stac):
        folder = Path(stac).resolve().parent
        if not folder.is_relative_to(out.resolve().parent):
            permission = f" --set {setting(folder)}"
    console.print(f"saved to {out}\nnext: agrifm scene show {out}{permission}", highlight=False)


def _bounds(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        west, south, east, north = map(float, text.replace(",", " ").split())
    except ValueError as error:
        raise InputError(
            f"--bbox {text}",
            found="not four numbers",
            expected="west,south,east,north in degrees",
            repair="give bounds such as --bbox 3.2,43.6,3.3,43.7.",
        ) from error
    return west, south, east, north


@app.command()
def chips(
    scene: ScenePath,
    labels: Annotated[
        Path,
        typer.Argument(help="Vector file of fields or points, table of points (CSV, Parquet), or raster of codes."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the chips.")],
    class_column: Annotated[str | None, typer.Option(help="Column that holds the class.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Table of codes, names and colors (CSV or YAML), or hcat, worldcereal, cdl, rpg."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the vector file.")] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Rows and columns of a chip. Default: 96; 24 if all labels are points, around which most of a larger "
            "chip would be written and read for nothing.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option(help="Meters around a point: it labels the pixels with their center there, and its own.")
    ] = 0.0,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column, e.g. of a village or farm: labels with the same value stay in one split."),
    ] = None,
    crs: Annotated[
        str | None,
        typer.Option(metavar="EPSG:CODE", help="CRS of tables with columns x and y, and of files that state none."),
    ] = None,
    buffer: Annotated[float, typer.Option(help="Meters by which fields are shrunk on all sides.")] = 0.0,
    distance: Annotated[float, typer.Option(help="Smallest distance between labels of different splits, m.")] = 0.0,
    val: Annotated[float, typer.Option(help="Share of the labeled area for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the labeled area for the test.")] = 0.2,
    block: Annotated[int | None, typer.Option(help="Side of a block that stays in one split, in chips.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the spatial split.")] = 0,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut a scene into labeled chips for training, split by blocks of ground, with a report."""
    from agrifm.chips.writer import ChipPlan, write_chips

    plan = ChipPlan(
        class_column, classes, layer, size, buffer, distance, val, test, block, seed, radius, group_column, crs
    )
    with resumable():
        images = opened(scene, settings, skip_unreadable)
        report = write_chips(images, labels, out, plan, overwrite=overwrite, console=console)
    report.show(console)
    console.print(f"written to {out}, picture {out / 'split.png'}", highlight=False)
    console.print(f"next: agrifm train {out / 'crops.yaml'}", highlight=False)
