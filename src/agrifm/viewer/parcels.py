"""Parcels as the viewer shows them: outlines in degrees and their attributes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agrifm.errors import InputError, counted, printable
from agrifm.vectors.reading import read_table
from agrifm.viewer.place import DEGREES

MOST_VERTICES = 5_000_000  # some 100 MB in the browser
DIGITS = 1e-6  # degrees, a tenth of a meter
CROPS = ("crop", "crop_name", "class", "label")  # columns that name the crop of a parcel, by preference


@dataclass(frozen=True)
class Parcels:
    """Polygons of a vector file.

    Args:
        path: Path of the file.
        table: Its features in degrees, with their attributes.
    """

    path: Path
    table: Any

    @classmethod
    def open(cls, path: Path) -> Parcels:
        """Read the polygons of a file.

        Raises:
            InputError: If it has no polygons, states no CRS, or has more vertices than a browser can draw.
        """
        from shapely import get_num_coordinates

        table = read_table(path)
        expected = "polygons of parcels"
        if "geometry" not in table.columns or not table.geometry.geom_type.str.contains("Polygon").any():
            raise InputError(path, found="no polygons", expected=expected, repair="name a vector file of parcels.")
        if table.crs is None:
            raise InputError(
                path,
                found="no CRS",
                expected="a georeferenced vector file",
                repair="write it, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD'.",
            )
        table = table[table.geometry.geom_type.str.contains("Polygon", na=False)].to_crs(DEGREES)
        vertices = int(get_num_coordinates(table.geometry.to_numpy()).sum())
        if vertices > MOST_VERTICES:
            raise InputError(
                path,
                found=counted(vertices, "vertex", "vertices"),
                expected=f"at most {MOST_VERTICES:,}, which a browser can draw",
                repair="cut out the area of the map, e.g. 'ogr2ogr -spat WEST SOUTH EAST NORTH NEW OLD'.",
            )
        return cls(path, table)

    @property
    def count(self) -> int:
        """Number of parcels."""
        return len(self.table)

    def describe(self) -> dict[str, Any]:
        """Return title, number, bounds and the name of the column with crops, if there is one."""
        columns = {str(column).lower(): str(column) for column in self.table.columns}
        crop = next((columns[name] for name in CROPS if name in columns), None)
        bounds = self.table.total_bounds.tolist()
        return {"title": printable(self.path.name), "count": self.count, "bounds": bounds, "crop": crop}

    @cached_property
    def geojson(self) -> bytes:
        """The parcels as GeoJSON in UTF-8; attributes are text."""
        from shapely import set_precision

        columns = [column for column in self.table.columns if column != "geometry"]
        features = []
        shapes = set_precision(self.table.geometry.to_numpy(), DIGITS, mode="pointwise")
        rows = self.table[columns].astype(object).to_numpy()
        for shape, row in zip(shapes, rows, strict=True):
            properties = {str(column): printable(str(value)) for column, value in zip(columns, row, strict=True)}
            features.append({"type": "Feature", "properties": properties, "geometry": shape.__geo_interface__})
        text = json.dumps({"type": "FeatureCollection", "features": features})
        return text.encode()
