"""Several bands read onto one grid, from as few openings of files as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from odc.geo.geobox import GeoBox

from agrifm.rasters.cube_band import CubeBand
from agrifm.rasters.file_band import FileBand, read_bands
from agrifm.rasters.pixels import Pixels


def read_rasters(
    rasters: Sequence[FileBand | CubeBand],
    box: GeoBox,
    use: Callable[[int, Pixels], None],
    limits: tuple[float, float] | None = None,
) -> None:
    """Read bands onto a grid; those of one file are read together.

    Args:
        rasters: Bands of any files and cubes.
        box: The grid.
        use: Receives the position of each band among ``rasters`` and its pixels, in any order; as with ``read_bands``,
            some of them twice.
        limits: Stored numbers below and above which pixels are left out of averages.

    Raises:
        InputError: If a file cannot be read.
    """
    files: dict[tuple[str, str], dict[int, FileBand]] = {}
    for position, raster in enumerate(rasters):
        if isinstance(raster, FileBand):
            files.setdefault((raster.href, raster.kind), {})[position] = raster
        else:
            use(position, raster.read(box, limits=limits))
    for bands in files.values():
        read_bands(bands, box, use, limits)
