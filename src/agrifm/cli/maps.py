"""Commands for maps: ``map``, ``parcels`` and ``reproduce``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from agrifm.cli.scenes import ScenePath, Settings, Skip, opened
from agrifm.cli.shell import Ckpt, Ensemble, Flips, Overwrite, app, console, local_checkpoint, resumable

if TYPE_CHECKING:
    from agrifm.maps.map_scene import Mapped

SEAMS, DIFFERENT = 3, 4  # exit codes


@app.command("map")
def map_(
    checkpoint: Ckpt,
    scene: ScenePath,
    out: Annotated[Path, typer.Argument(help="GeoTIFF to write.")],
    as_of: Annotated[str | None, typer.Option(metavar="DATE", help="Use only images up to this day.")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every class.")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also write the probability of the chosen class.")
    ] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Also write the normalized entropy.")] = False,
    observations: Annotated[
        bool, typer.Option("--observations", help="Also write the clear dates of each sensor.")
    ] = False,
    sets: Annotated[bool, typer.Option("--sets", help="Also write the prediction sets of a calibrated model.")] = False,
    flips: Flips = False,
    ensemble: Ensemble = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine, one for each GPU.", min=1)] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.1:8786.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in pixels. Default: that of the training chips.", min=1)
    ] = None,
    memory: Annotated[float, typer.Option(help="Memory for the images of one tile, in megabytes.", min=0.1)] = 512.0,
    seam_limit: Annotated[
        float, typer.Option(help="Highest rate of class changes on window borders, relative to other lines.")
    ] = 1.25,
    parcels: Annotated[
        Path | None,
        typer.Option(help="Also write polygons of fields (.gpkg or .parquet); needs a model of task 'fields'."),
    ] = None,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Map a scene of any size: a Cloud-Optimized GeoTIFF with styles, a STAC item and its provenance beside it.

    Stopped at any moment, the same command resumes. Exit code 3: window borders are visible in the map.
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
    extras = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    members = tuple(str(path) for path in ensemble or ())
    options = MapOptions(extras, window, memory, seam_limit, flips=flips, ensemble=members)
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
    _print_map(mapped)
    if parcels is not None:
        _outline(out, parcels)
    if mapped.visible_seams:
        warning = Text("window borders are visible", "bold red")
        reason = Text(f": more than {seam_limit} times the transitions of other lines")
        console.print(Text.assemble(warning, reason))
        raise typer.Exit(SEAMS)


def _print_map(mapped: Mapped) -> None:
    """Print areas, the seam audit and the written files."""
    console.print(mapped.table())
    console.print(f"seams: {mapped.seams}", highlight=False, soft_wrap=True)
    for path in mapped.files:
        console.print(f"written: {path}", highlight=False)


@app.command("parcels")
def parcels_(
    target: Annotated[Path, typer.Argument(metavar="MAP", help="Map that was made with a model of task 'fields'.")],
    out: Annotated[Path, typer.Argument(help="Polygons to write, .gpkg or .parquet.")],
    crops: Annotated[
        Path | None, typer.Option(help="Crop map on the same grid, which gives each field its crop.")
    ] = None,
    min_area: Annotated[
        float, typer.Option(help="Smallest field in hectares; smaller ones are merged or dropped.")
    ] = 0.05,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Tolerance of the simplification of outlines in meters. Default: one pixel; 0 for none."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the fields of a map as polygons with their crops: GeoPackage or GeoParquet in the fiboa schema."""
    from agrifm.products.fiboa import check_target

    check_target(out, overwrite=overwrite)
    _outline(target, out, crops, min_area, tolerance)


def _outline(
    target: Path, out: Path, crops: Path | None = None, min_area: float = 0.05, tolerance: float | None = None
) -> None:
    from agrifm.products.fiboa import write_parcels
    from agrifm.products.parcels import ParcelRule, parcels_of

    with console.status("outlining fields"):
        fields = parcels_of(target, ParcelRule(min_area, tolerance), crops)
        write_parcels(fields, out)
    console.print(str(fields), highlight=False)
    console.print(f"written: {out}", highlight=False)


@app.command()
def reproduce(
    provenance: Annotated[Path, typer.Argument(help="Provenance file beside a map, MAP.passport.json.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint, if it has moved.", callback=local_checkpoint)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to keep the new map in.")] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Open images at the addresses that the file names.")
    ] = False,
) -> None:
    """Compute a map again from its provenance and compare both. Exit code 4: they differ.

    The provenance names the checkpoint and images that are opened; the command prints their paths first.
    """
    from agrifm.products.reproduce import reproduce as reproduce_map

    with resumable() if out is not None else nullcontext():
        result = reproduce_map(
            provenance, checkpoint, out, workers=workers, allow_network=allow_network, console=console
        )
    for line in result.notes:
        console.print(line, highlight=False)
    console.print(str(result), highlight=False)
    if not result.identical:
        raise typer.Exit(DIFFERENT)
