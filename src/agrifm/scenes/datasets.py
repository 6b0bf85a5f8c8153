"""A scene as lazy xarray datasets; nothing is read before it is computed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from dask import delayed
from odc.geo.xr import xr_coords

from agrifm.scenes.frame_pixels import stored_dtype
from agrifm.scenes.scene import Scene
from agrifm.scenes.tile import Area, sub_box
from agrifm.sensors import Sensor

if TYPE_CHECKING:
    import xarray as xr

CHUNK = 1024  # pixels of the scene along one side of a chunk


def to_xarray(scene: Scene, sensor: str, chunk: int = CHUNK) -> xr.Dataset:
    """Return the series of one sensor on its own grid, one dask chunk for each square of ground.

    Args:
        scene: Scene with the sensor.
        sensor: Name of the sensor.
        chunk: Side of a square, in pixels of the scene.

    Returns:
        ``images (time, band, y, x)`` in the stored numbers of the sensor, with ``scale_factor`` and ``add_offset`` to
        reflectance as attributes, and ``clear (time, y, x)``. ``spatial_ref`` holds the CRS.

    Raises:
        KeyError: If the scene has no such sensor.
    """
    # Importing xarray takes long.
    import xarray as xr

    layer = {layer.sensor.name: layer for layer in scene.layers}[sensor]
    scene_of_sensor = Scene((layer,), scene.grid, scene.name)
    factor = scene.factor(layer.sensor)
    rows = _chunk_borders(scene.grid.shape[0], factor, chunk)
    columns = _chunk_borders(scene.grid.shape[1], factor, chunk)
    image_chunks = []
    clear_chunks = []
    for top, bottom in pairwise(rows):
        images_of_row = []
        clear_of_row = []
        for left, right in pairwise(columns):
            shape = (bottom - top, right - left)
            area = Area(top * factor, left * factor, shape[0] * factor, shape[1] * factor)
            images, clear = _read_chunk(scene_of_sensor, layer.sensor, area, shape)
            images_of_row.append(images)
            clear_of_row.append(clear)
        image_chunks.append(images_of_row)
        clear_chunks.append(clear_of_row)

    grid = sub_box(scene.grid, factor, (0, 0), (rows[-1], columns[-1]))
    y, x = grid.dimensions
    times = np.array(layer.days, "datetime64[ns]")
    coords = {**xr_coords(grid), "time": times, "band": list(layer.sensor.band_ids)}
    attributes = {
        "scale_factor": layer.sensor.scale,
        "add_offset": layer.sensor.offset,
        "grid_mapping": "spatial_ref",
    }
    variables = {
        "images": (("time", "band", y, x), da.block(image_chunks), attributes),
        "clear": (("time", y, x), da.block(clear_chunks)),
    }
    return xr.Dataset(variables, coords=coords, attrs={"sensor": sensor, "scene": scene.name})


def _chunk_borders(pixels: int, factor: int, chunk: int) -> list[int]:
    """Return where chunks begin and end, in pixels of the sensor."""
    end = math.ceil(pixels / factor)
    return [*range(0, end, max(1, chunk // factor)), end]


def _read_chunk(scene: Scene, sensor: Sensor, area: Area, shape: tuple[int, int]) -> tuple[da.Array, da.Array]:
    """Return images and clear masks of an area, to be read when they are computed."""
    stack = delayed(scene.read)(area).stacks[sensor.name]
    days = len(scene.layers[0].days)
    image_shape = (days, len(sensor.bands), *shape)
    images = da.from_delayed(stack.images, image_shape, stored_dtype(sensor))
    clear = da.from_delayed(stack.clear, (days, *shape), bool)
    return images, clear
