"""Parcels, rasters and a scene drawn by hand on a grid of 100 x 100 pixels of 10 m."""

import datetime as dt

import geopandas
import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from agrifm.rasters.file_band import FileBand
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.sensors import S2

UTM = "EPSG:32631"
LEFT, TOP, SIDE = 500_000.0, 4_800_000.0, 100
GRID = GeoBox((SIDE, SIDE), Affine(10, 0, LEFT, 0, -10, TOP), UTM)


def write_tif(path, values, crs=UTM, transform=None):
    values = np.atleast_3d(values) if values.ndim == 2 else values.transpose(1, 2, 0)
    profile = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": values.shape[2]}
    transform = transform or Affine(10, 0, LEFT, 0, -10, TOP)
    with rasterio.open(path, "w", **profile, dtype=values.dtype, crs=crs, transform=transform) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def square(column, row, side=9.3):
    """A parcel whose corners are not on pixel borders, in meters."""
    x, y = LEFT + 10 * column + 1.7, TOP - 10 * row - 2.9
    return shapely.box(x, y - 10 * side, x + 10 * side, y)


def parcels(step=10):
    """Parcels all over the scene, with alternating crops."""
    places = [(column, row) for row in range(0, SIDE, step) for column in range(0, SIDE, step)]
    crops = [("wheat", "maize", "grass")[(i + i // 10) % 3] for i in range(len(places))]
    return geopandas.GeoDataFrame({"crop": crops}, geometry=[square(*place) for place in places], crs=UTM)


def save(frame, path, crs=UTM):
    frame.to_crs(crs).to_file(path)
    return path


def frame_of(**shapes):
    """Parcels by crop."""
    rows = [(crop, shape) for crop, several in shapes.items() for shape in several]
    return geopandas.GeoDataFrame({"crop": [crop for crop, _ in rows]}, geometry=[s for _, s in rows], crs=UTM)


def holds(shape, grid=GRID):
    """Mask of the pixels whose center is in a shape, from shapely."""
    rows, columns = np.indices(grid.shape)
    a, _, c, _, e, f = tuple(grid.affine)[:6]
    return shapely.contains_xy(shape, a * (columns + 0.5) + c, e * (rows + 0.5) + f)


def scene_by_hand(folder):
    """Two days of Sentinel-2; the upper left corner of 20 x 30 pixels is clouded on both."""
    rng = np.random.default_rng(0)
    frames = []
    for day in (dt.date(2020, 4, 1), dt.date(2020, 7, 1)):
        images = rng.integers(200, 4000, (len(S2.bands), SIDE, SIDE)).astype(np.uint16)
        stack = str(write_tif(folder / f"{day}.tif", images))
        mask = np.ones((SIDE, SIDE), np.uint8)
        mask[:20, :30] = 0
        seen = FileBand(str(write_tif(folder / f"{day}_mask.tif", mask)))
        bands = {band: FileBand(stack, i + 1) for i, band in enumerate(S2.band_ids)}
        frames.append(Frame(str(day), day, bands, Quality(seen, "mask")))
    return Scene((Layer(S2, tuple(frames)),), GRID, "by hand")
