"""The command ``embed``: features of a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agrifm.cli.scenes import ScenePath, Settings, Skip, opened
from agrifm.cli.shell import Overwrite, app, console, resumable
from agrifm.errors import InputError


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(help="Checkpoint, or the name of weights in the package: agrifm-tiny.")],
    scene: ScenePath,
    out: Annotated[Path, typer.Argument(help="GeoTIFF (.tif) or Zarr store (.zarr); with --at .parquet or .csv.")],
    at: Annotated[
        Path | None, typer.Option(metavar="POINTS", help="Vector file of points: write a table of their features.")
    ] = None,
    crs: Annotated[
        str | None, typer.Option(metavar="EPSG:CODE", help="CRS of the points, for tables with columns x and y.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(metavar="DATE", help="Use only images up to this day.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="int8 (the default), float16 or float32. Tables always hold float32.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine, one for each GPU.", min=1)] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.1:8786.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in pixels. Default: that of the training chips.", min=1)
    ] = None,
    memory: Annotated[
        float, typer.Option(help="Memory for the images and features of one tile, in megabytes.", min=0.1)
    ] = 512.0,
    settings: Settings = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the features of every pixel, or of points, for classifiers and searches of other programs.

    Stopped at any moment, the same command resumes a raster, and computes a table again.
    """
    from agrifm.maps.embedding.points import check_points_table, embed_file
    from agrifm.maps.embedding.scene import write_embedding
    from agrifm.maps.options import EmbedOptions
    from agrifm.weight_files.start_weights import weights_path

    if at is None and crs is not None:
        raise InputError(
            f"--crs {crs}", found="no points", expected="points, whose CRS it is", repair="leave it out, or give --at."
        )
    if at is None:
        options = EmbedOptions(dtype or "int8", window, memory)
    else:
        options = EmbedOptions("float32", window, memory)
        _refuse_for_tables(dtype, workers, dask)
        check_points_table(out, overwrite=overwrite)
    path = weights_path(model)
    if at is not None:
        images = opened(scene, settings, skip_unreadable, as_of)
        sampled = embed_file(path, images, at, out, options, crs=crs, overwrite=overwrite, console=console)
        console.print(f"{sampled}\nwritten: {out}", highlight=False)
        return
    with resumable():
        embedded = write_embedding(
            path,
            opened(scene, settings, skip_unreadable, as_of),
            out,
            options,
            overwrite=overwrite,
            skip_unreadable=skip_unreadable,
            workers=workers,
            dask=dask,
            console=console,
        )
    console.print(str(embedded), highlight=False)
    for file in embedded.files:
        console.print(f"written: {file}", highlight=False)


def _refuse_for_tables(dtype: str | None, workers: int, dask: str | None) -> None:
    """Refuse options that mean nothing for a table of points."""
    for name, given in (
        (f"--dtype {dtype}", dtype not in (None, "float32")),
        ("--workers", workers != 1),
        ("--dask", dask is not None),
    ):
        if given:
            raise InputError(
                name,
                found="an option for rasters together with --at",
                expected="a table, which holds float32 and is computed in one process",
                repair="leave the option out.",
            )
