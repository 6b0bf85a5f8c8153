"""Verbs about maps: map a scene, make a map again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from agrifm.cli.scenes import ScenePath, Settings, Skip, opened
from agrifm.cli.shell import Ckpt, Ensemble, Flips, Overwrite, app, console, resumable

SEAMS, DIFFERENT = 3, 4  # exit codes


@app.command("map")
def map_(
    checkpoint: Ckpt,
    scene: ScenePath,
    out: Annotated[Path, typer.Argument(help="The map, a GeoTIFF.")],
    as_of: Annotated[str | None, typer.Option(metavar="DATE", help="Use no image later than this day.")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also the probability of every class.")
    ] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also the probability of the chosen class.")] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Also how undecided the model is.")] = False,
    observations: Annotated[bool, typer.Option("--observations", help="Also clear dates per sensor.")] = False,
    sets: Annotated[bool, typer.Option("--sets", help="Also which classes are possible (calibrated models).")] = False,
    flips: Flips = False,
    ensemble: Ensemble = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine; one for each GPU.", min=1)] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.1:8786.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in pixels; the training chips' if left out.", min=1)
    ] = None,
    memory: Annotated[float, typer.Option(help="Megabytes of images that a tile may take.", min=0.1)] = 128.0,
    seam_limit: Annotated[float, typer.Option(help="Largest rate of class changes on window borders.")] = 1.25,
    parcels: Annotated[
        Path | None, typer.Option(help="Also polygons of fields, .gpkg or .parquet; of task 'fields'.")
    ] = None,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Map a scene of any size: a Cloud-Optimized GeoTIFF, with styles, a STAC item and a passport beside it.

    Stopped at any moment, the same command goes on. Exit code 3: window borders show in the map.
    """
    from agrifm.maps.map_scene import map_scene
    from agrifm.maps.options import MapOptions

    wanted = {
        "probabilities": probabilities or parcels is not None,
        "confidence": confidence,
        "entropy": entropy,
        "observations": observations or parcels is not None,
        "sets": sets,
    }
    options = MapOptions(
        tuple(key for key, on in wanted.items() if on),
        window,
        memory,
        seam_limit,
        flips=flips,
        ensemble=tuple(map(str, ensemble or ())),
    )
    if parcels is not None:
        from agrifm.products.fiboa import check_map

        check_map(checkpoint, parcels, overwrite=overwrite)
    with resumable():
        mapped = map_scene(
            checkpoint,
            opened(scene, settings, skip_unreadable, as_of),
            out,
            options,
            overwrite=overwrite,
            skip_unreadable=skip_unreadable,
            workers=workers,
            dask=dask,
            console=console,
        )
    console.print(mapped.table())
    console.print(f"seams: {mapped.seams}", highlight=False, soft_wrap=True)
    for path in mapped.files:
        console.print(f"written: {path}", highlight=False)
    if parcels is not None:
        _outline(out, parcels)
    if mapped.visible_seams:
        warning = Text.assemble(
            ("window borders show", "bold red"), f": more than {seam_limit} times the transitions of other lines"
        )
        console.print(warning)
        raise typer.Exit(SEAMS)


@app.command("parcels")
def parcels_(
    target: Annotated[Path, typer.Argument(metavar="MAP", help="A map made with a checkpoint of task 'fields'.")],
    out: Annotated[Path, typer.Argument(help="The polygons, .gpkg or .parquet.")],
    crops: Annotated[Path | None, typer.Option(help="Another map of the same grid that says what grows.")] = None,
    min_area: Annotated[float, typer.Option(help="Hectares; smaller fields join a neighbor or are dropped.")] = 0.05,
    tolerance: Annotated[
        float | None, typer.Option(help="Meters by which outlines are simplified; one pixel if left out, 0 for none.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Outline the fields of a map, with what grows in each: GeoPackage or GeoParquet in the fiboa schema."""
    from agrifm.products.fiboa import check_target

    check_target(out, overwrite=overwrite)
    _outline(target, out, crops, min_area, tolerance)


def _outline(
    target: Path, out: Path, crops: Path | None = None, min_area: float = 0.05, tolerance: float | None = None
) -> None:
    from agrifm.products.fiboa import write_parcels
    from agrifm.products.parcels import ParcelRule, parcels_of

    with console.status("outlining fields"):
        found = parcels_of(target, ParcelRule(min_area, tolerance), crops)
        write_parcels(found, out)
    console.print(str(found), highlight=False)
    console.print(f"written: {out}", highlight=False)


@app.command()
def reproduce(
    passport: Annotated[Path, typer.Argument(help="The passport that lies beside a map.")],
    checkpoint: Annotated[Path | None, typer.Option(help="The model, if it is no longer where it was.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder in which the new map stays.")] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Open images at the addresses that the passport names.")
    ] = False,
) -> None:
    """Make a map again from its passport and compare. Exit code 4: it differs.

    The passport says which checkpoint and images are opened; the command prints their places first.
    """
    from agrifm.products.reproduce import reproduce as again

    with resumable() if out is not None else nullcontext():
        result = again(passport, checkpoint, out, workers=workers, allow_network=allow_network, console=console)
    for line in result.notes:
        console.print(line, highlight=False)
    console.print(str(result), highlight=False)
    if not result.identical:
        raise typer.Exit(DIFFERENT)
