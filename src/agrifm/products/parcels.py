"""From the layers of a map to polygons of fields: watershed over the whole map, shared borders, and crops.

Memory: some 12 bytes for each pixel of the map, and 100 MB for a block while seeds grow.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.transform import Affine

from agrifm.errors import InputError, counted
from agrifm.maps.provenance import Provenance
from agrifm.products.field_columns import crops_of, measured
from agrifm.products.field_shapes import find_fields, join_small, outlines
from agrifm.products.map_rasters import beside, opened
from agrifm.tasks.fields import LAYERS
from agrifm.tasks.watershed import Watershed


@dataclass(frozen=True)
class ParcelRule:
    """Rule by which layers become polygons.

    Args:
        min_area: Smallest field in hectares. A smaller field is merged into the neighbor with which it shares the most,
            and at least half, of its outline, and is dropped if there is none.
        tolerance: Tolerance of the simplification in meters: corners whose triangle is smaller than its square are
            removed, from shared borders together (Visvalingam & Whyatt, 1993). None is one pixel, 0 keeps all corners.
        watershed: Rule by which layers become fields; None takes that of the model's task.

    Raises:
        InputError: If a number is negative or not finite.
    """

    min_area: float = 0.05
    tolerance: float | None = None
    watershed: Watershed | None = None

    def __post_init__(self) -> None:
        for name, value in (("--min-area", self.min_area), ("--tolerance", self.tolerance or 0.0)):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(name, found=f"{value:g}", expected="0 or more", repair="give another number.")


@dataclass(frozen=True)
class Parcels:
    """Fields of a map.

    Args:
        polygons: Polygons ``(n)`` in the CRS of the map, in meters.
        columns: Attributes ``(n)`` by name.
        crs: CRS of the polygons.
        provenance: Provenance of the map.
        details: Description of the method.
        joined: Number of small fields that were merged into a neighbor.
        dropped: Number of small fields that were dropped.
    """

    polygons: np.ndarray
    columns: dict[str, np.ndarray]
    crs: str
    provenance: Provenance
    details: str
    joined: int
    dropped: int

    def __str__(self) -> str:
        hectares = self.columns["area_ha"].sum()
        small = f"{counted(self.joined, 'small one')} merged into a neighbor, {self.dropped} dropped"
        return f"{counted(len(self.polygons), 'field')}, {hectares:,.1f} ha; {small}"


def parcels_of(target: Path, rule: ParcelRule = ParcelRule(), crops: Path | None = None) -> Parcels:
    """Polygons of the fields of a finished map.

    Columns: ``area_ha``; with crops, ``crop`` (that of most pixels), its ``crop_share`` of the pixels and mean
    ``crop_probability``, ``second_crop`` and ``second_share``; ``clear_observations`` (mean of the pixels). Probability
    and observations need the files of the map with these names.

    Args:
        target: Map that was written with a checkpoint of task ``fields``.
        rule: Rule by which layers become polygons.
        crops: Crop map on the same grid; None takes the map itself, if its model knows crops.

    Raises:
        InputError: If layers or provenance are missing, a raster is of another kind, or grids differ.
    """
    provenance = Provenance.load(Provenance.beside(target))
    layers = beside(target, "fields")
    if not layers.is_file():
        raise InputError(
            layers,
            found="no such file",
            expected="the layers of fields beside the map",
            repair="map the scene with a checkpoint of task 'fields'.",
        )
    with opened(layers, len(LAYERS), "the layers of fields that 'agrifm map' writes") as file:
        crs = file.crs
        transform = file.transform
    pixel = _in_meters(layers, crs, transform)
    task = provenance.document.experiment.task
    watershed = rule.watershed or task.watershed
    least_pixels = rule.min_area * 1e4 / pixel**2
    fields, joined, dropped = join_small(find_fields(layers, watershed), least_pixels)
    tolerance = pixel if rule.tolerance is None else rule.tolerance
    polygons = outlines(fields, transform, tolerance)
    columns = {"area_ha": shapely.area(polygons) / 1e4} | measured(fields, target)
    if crops is not None or task.classes:
        columns |= crops_of(fields, crops or target, layers)
    rule_text = ", ".join(f"{key} {value}" for key, value in asdict(watershed).items())
    details = f"model {provenance.document.model.name}; watershed by topographic distance, {rule_text}"
    details += f"; at least {rule.min_area:g} ha; simplified within {tolerance:g} m"
    return Parcels(polygons, columns, str(crs), provenance, details, joined, dropped)


def _in_meters(path: Path, crs: rasterio.CRS | None, transform: Affine) -> float:
    """Size of a pixel."""
    if crs is None or not crs.is_projected or abs(crs.linear_units_factor[1] - 1) > 1e-9:
        raise InputError(
            path,
            found=f"a map in {crs}",
            expected="a CRS in meters: areas and tolerances are measured on it",
            repair="map a scene on such a grid, e.g. of its UTM zone.",
        )
    return abs(transform.a)
