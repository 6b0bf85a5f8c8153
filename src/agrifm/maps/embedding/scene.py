"""From a checkpoint and a scene to a raster of features; resumed after any stop, as maps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError, counted
from agrifm.io import sha256
from agrifm.maps.embedding.coding import Coding
from agrifm.maps.embedding.files import build_embedding, is_zarr, item_path
from agrifm.maps.embedding.job import EmbedJob, plan_embedding
from agrifm.maps.files.writer import map_files, refuse_existing
from agrifm.maps.options import EMBED_DEFAULTS, EmbedOptions
from agrifm.maps.provenance import Provenance
from agrifm.maps.resumable import Run
from agrifm.maps.store import Store
from agrifm.rasters.cube_file import MARKS
from agrifm.scenes.scene import Scene

ENDINGS = (".tif", ".tiff", ".zarr")
RANGE = "range"  # name of scales and offsets among the tiles


@dataclass(frozen=True)
class Embedded:
    """Finished embeddings.

    Args:
        files: Written files, the raster first and the provenance last.
        bands: Number of features.
        dtype: How they are stored.
        clipped: Share of the stored numbers that were beyond the range of the type.
    """

    files: tuple[Path, ...]
    bands: int
    dtype: str
    clipped: float

    def __str__(self) -> str:
        text = f"{counted(self.bands, 'feature')} of each pixel, {self.dtype}"
        return f"{text}; {self.clipped:.3%} of the numbers were clipped" if self.clipped else text


def write_embedding(
    model: Path,
    scene: Scene,
    out: Path,
    options: EmbedOptions = EMBED_DEFAULTS,
    *,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    workers: int = 1,
    dask: str | None = None,
    console: Console | None = None,
) -> Embedded:
    """Write the features of a scene. Stopped at any moment, the same call resumes and ends with the same files.

    Args:
        model: Checkpoint.
        scene: Scene with at least one of the model's sensors.
        out: GeoTIFF or Zarr store to write; a STAC item and the provenance are written beside it.
        options: Options that decide the pixels.
        overwrite: Whether to replace existing embeddings, which are kept until the new ones are complete.
        skip_unreadable: Whether to leave out frames with a file that cannot be read; the provenance lists them.
        workers: Processes on this machine; the result does not depend on it.
        dask: Address of a dask scheduler whose workers compute the features instead.
        console: Where progress is shown.

    Returns:
        The written files and the share of clipped numbers.

    Raises:
        InputError: If sensors do not fit, a file cannot be read or has changed, another file exists, or the disk is
            full.
    """
    console = console or Console(quiet=True)
    if out.suffix.lower() not in ENDINGS:
        raise InputError(
            out,
            found=f"the ending '{out.suffix}'",
            expected="a GeoTIFF or a Zarr store",
            repair="give a name that ends in .tif or .zarr; a table of points needs --at.",
        )
    run = _EmbedRun(Checkpoint.load(model), (model,), scene, out, options, console)
    return run.complete(overwrite=overwrite, skip_unreadable=skip_unreadable, workers=workers, dask=dask)


@dataclass(frozen=True)
class _EmbedRun(Run[EmbedJob, EmbedOptions, Embedded]):
    """One run of ``write_embedding``."""

    noun: ClassVar[str] = "embedding"

    def plan(self, scene: Scene) -> EmbedJob:
        return plan_embedding(self.checkpoint, scene, self.options)

    def known_files(self) -> list[Path]:
        if is_zarr(self.out):  # a map has no such name, so that nothing of it can be left
            return [self.out, item_path(self.out)]
        return map_files(self.out)

    def refuse_existing(self, *, overwrite: bool) -> None:
        for path in (self.out, item_path(self.out), Provenance.beside(self.out)):
            refuse_existing(path, overwrite=overwrite)
        if self.out.is_dir() and not any((self.out / mark).is_file() for mark in MARKS):
            raise InputError(
                self.out,
                found="a folder that is no Zarr store",
                expected="a new name, or a Zarr store to replace",
                repair="give another name, or remove the folder.",
            )

    def prepare(self, job: EmbedJob, store: Store) -> EmbedJob:
        """Take scales and offsets that are kept with the tiles, so that all tiles have the same ones."""
        if job.dtype != "int8":
            return job
        with self.timing.during("computing"), self.console.status("measuring the range of the features"):
            arrays = store.kept(RANGE, lambda: _arrays(job.with_range().coding))
        return replace(job, coding=Coding(job.dtype, arrays["scale"], arrays["offset"]))

    def write(self, job: EmbedJob, store: Store, folder: Path) -> tuple[list[Path], dict[str, Any]]:
        tiles = job.windows.tiles()
        with self.timing.during("writing"), self.console.status("writing the embedding"):
            files = build_embedding(
                folder, self.out, job, lambda product: store.tiles(product, tiles), sha256(self.models[0])
            )
        clipped = sum(int(part.sum()) for *_, part in store.tiles("clipped", tiles))
        height, width = job.scene.grid.shape
        return files, {"clipped": clipped / (job.channels * height * width)}

    def result(self, job: EmbedJob, files: Sequence[Path], values: Mapping[str, Any]) -> Embedded:
        return Embedded(tuple(files), job.channels, job.dtype, values["clipped"])


def _arrays(coding: Coding | None) -> dict[str, np.ndarray]:
    assert coding is not None
    assert coding.scale is not None
    assert coding.offset is not None
    return {"scale": coding.scale, "offset": coding.offset}
