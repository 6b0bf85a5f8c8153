"""Verbs about scenes: look at them, search them, cut chips, map them, make a map again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.shell import Ckpt, app, console, plain, resumable

scene = typer.Typer(no_args_is_help=True, help="Look at scenes, search them in a catalogue.")
app.add_typer(scene, name="scene")

SEAMS, DIFFERENT = 3, 4  # exit codes

ScenePath = Annotated[
    Path, typer.Argument(help="Folder of rasters, netCDF or Zarr cube, scene.yaml, or a saved item list.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value of scene.yaml, may be repeated.")]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read, and say so.")]
AsOf = Annotated[str | None, typer.Option("--as-of", metavar="DATE", help="Use no image later than this day.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def opened(path: Path, settings: list[str] | None, skip: bool, as_of: str | None = None):
    """Open a scene, check its units, and forget what came later than ``as_of``."""
    import datetime as dt

    from agrifm.errors import InputError
    from agrifm.scenes.open import open_scene
    from agrifm.scenes.units import check_units

    found = open_scene(path, settings or (), skip_unreadable=skip)
    for href in found.skipped:
        console.print(f"left out: {plain(href)}", highlight=False)
    if as_of is not None:
        try:
            found = found.until(dt.date.fromisoformat(as_of))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"--as-of {as_of}", found="no date", expected="YYYY-MM-DD", repair="write e.g. 2024-06-30."
            ) from error
    return check_units(found)


@app.command("map")
def map_(
    checkpoint: Ckpt,
    scene: ScenePath,
    out: Annotated[Path, typer.Argument(help="The map, a GeoTIFF.")],
    as_of: AsOf = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also the probability of every class.")
    ] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also the probability of the chosen class.")] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Also how undecided the model is.")] = False,
    observations: Annotated[bool, typer.Option("--observations", help="Also clear dates per sensor.")] = False,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.1:8786.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in pixels; the training chips' if left out.")
    ] = None,
    memory: Annotated[float, typer.Option(help="Megabytes of images that a tile may take.", min=1)] = 128.0,
    seam_limit: Annotated[float, typer.Option(help="Largest rate of class changes on window borders.")] = 1.25,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Map a scene of any size: a Cloud-Optimized GeoTIFF, with styles, a STAC item and a passport beside it.

    Stopped at any moment, the same command goes on. Exit code 3: window borders show in the map.
    """
    from agrifm.maps.mapping import MapOptions, map_scene, summary

    wanted = {
        "probabilities": probabilities,
        "confidence": confidence,
        "entropy": entropy,
        "observations": observations,
    }
    options = MapOptions(tuple(key for key, on in wanted.items() if on), window, memory, seam_limit)
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
    console.print(summary(mapped))
    console.print(f"seams: {mapped.seams}", highlight=False)
    for path in mapped.files:
        console.print(f"written: {plain(str(path))}", highlight=False)
    if mapped.visible_seams:
        console.print(f"[bold red]window borders show[/]: more than {seam_limit} times the transitions of other lines")
        raise typer.Exit(SEAMS)


@app.command()
def reproduce(
    passport: Annotated[Path, typer.Argument(help="The passport that lies beside a map.")],
    checkpoint: Annotated[Path | None, typer.Option(help="The model, if it is no longer where it was.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the new map here.")] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Make a map again from its passport and compare. Exit code 4: it differs."""
    from agrifm.maps.mapping import reproduce as again

    with resumable():
        result = again(passport, checkpoint, out, workers=workers, console=console)
    for line in result.notes:
        console.print(plain(line), highlight=False)
    console.print(str(result), highlight=False)
    if not result.identical:
        raise typer.Exit(DIFFERENT)
