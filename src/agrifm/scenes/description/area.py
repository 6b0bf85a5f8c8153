"""An area of interest in a vector file."""

from __future__ import annotations

import math
import stat
from pathlib import Path

from odc.geo.geom import Geometry

from agrifm.errors import InputError, refusing
from agrifm.scenes.folders import kind_of
from agrifm.vectors.reading import read_table


def read_area(path: Path) -> Geometry:
    """Read everything in a vector file as one shape, in the CRS of the file.

    Raises:
        InputError: If the file does not open, is empty or has no CRS.
    """
    # Importing geopandas takes long.
    import geopandas

    expected = "a vector file with areas and a CRS, e.g. GeoPackage or GeoJSON"
    repair = "correct the path, or save the area again with a CRS, e.g. with QGIS or 'ogr2ogr -a_srs'."
    if kind_of(path) not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path} (aoi)", found="no such file", expected=expected, repair=repair)
    with refusing(f"{path} (aoi)", expected=expected, repair=repair):
        table = read_table(path)
        # A table without geometry opens as one without areas.
        areas = table.geometry if isinstance(table, geopandas.GeoDataFrame) else geopandas.GeoSeries()
        area = areas[~(areas.is_empty | areas.isna())].union_all()
    is_empty = area is None or area.is_empty
    if is_empty or areas.crs is None or not all(map(math.isfinite, area.bounds)):
        found = "no areas in it" if is_empty or areas.crs is not None else "no CRS"
        raise InputError(f"{path} (aoi)", found=found, expected=expected, repair=repair)
    return Geometry(area, areas.crs)
