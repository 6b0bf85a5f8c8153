"""A scene as lazy xarray datasets, for work of one's own: nothing is read before it is computed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from dask import delayed
from odc.geo.xr import xr_coords

from agrifm.scenes.scene import Area, Scene, stored_dtype, sub_box
from agrifm.sensors import Sensor

if TYPE_CHECKING:
    import xarray as xr

CHUNK = 1024  # pixels of the scene along one side of a chunk


def to_xarray(scene: Scene, sensor: str, chunk: int = CHUNK) -> xr.Dataset:
    """One sensor's series on its own grid, one dask chunk for each square of ground.

    Args:
        scene: Holds the sensor.
        sensor: Its name.
        chunk: Side of a square, in the scene's pixels.

    Returns:
        ``images (time, band, y, x)`` in the sensor's stored numbers, with ``scale_factor`` and ``add_offset`` to
        reflectance as attributes, and ``clear (time, y, x)``. ``spatial_ref`` holds the CRS.

    Raises:
        KeyError: If the scene has no such sensor.
    """
    import xarray as xr

    alone = {layer.sensor.name: layer for layer in scene.layers}[sensor]
    only, factor = Scene((alone,), scene.grid, scene.name), scene.factor(alone.sensor)
    rows, columns = (_cuts(n, factor, chunk) for n in scene.grid.shape)
    grid = sub_box(scene.grid, factor, (0, 0), (rows[-1], columns[-1]))
    blocks = [
        [_block(only, alone.sensor, factor, (top, left, bottom, right)) for left, right in pairwise(columns)]
        for top, bottom in pairwise(rows)
    ]
    images = da.block([[image for image, _ in row] for row in blocks])
    clear = da.block([[seen for _, seen in row] for row in blocks])
    y, x = grid.dimensions
    coords = xr_coords(grid) | {"time": np.array(alone.days, "datetime64[ns]"), "band": list(alone.sensor.band_ids)}
    units = {"scale_factor": alone.sensor.scale, "add_offset": alone.sensor.offset, "grid_mapping": "spatial_ref"}
    dataset = xr.Dataset(
        {"images": (("time", "band", y, x), images, units), "clear": (("time", y, x), clear)}, coords=coords
    )
    return dataset.assign_attrs(sensor=sensor, scene=scene.name)


def _cuts(pixels: int, factor: int, chunk: int) -> list[int]:
    """Where chunks begin and end, in the sensor's pixels."""
    return sorted({*range(0, -(-pixels // factor), max(1, chunk // factor)), -(-pixels // factor)})


def _block(scene: Scene, sensor: Sensor, factor: int, corners: tuple[int, int, int, int]) -> tuple[da.Array, da.Array]:
    """Images and clear pixels of one square."""
    top, left, bottom, right = corners
    area = Area(top * factor, left * factor, (bottom - top) * factor, (right - left) * factor)
    read, size = delayed(scene.read)(area).stacks[sensor.name], (bottom - top, right - left)
    dates = len(scene.layers[0].days)
    images = da.from_delayed(read.images, (dates, len(sensor.bands), *size), stored_dtype(sensor))
    return images, da.from_delayed(read.clear, (dates, *size), bool)
