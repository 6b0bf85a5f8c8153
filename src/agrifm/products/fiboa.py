"""Fields as files that others can read: GeoParquet or GeoPackage in the fiboa schema.

Source: fiboa specification 0.3.0 and the Vecorel specification 0.1.0 on which it stands: ``metrics:area`` in square
meters, ``metrics:perimeter`` in meters, ``determination:datetime`` the last image that was used.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import CRS

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError, reason
from agrifm.io import whole, write_whole
from agrifm.maps.files.legend import Legend
from agrifm.maps.files.qgis import QgisLayer, layer_definition
from agrifm.maps.files.writer import check_table
from agrifm.products.map_rasters import beside, is_class_map
from agrifm.products.parcels import Parcels
from agrifm.tasks.fields import Fields

if TYPE_CHECKING:
    import geopandas

SCHEMAS = (
    "https://vecorel.org/specification/v0.1.0/schema.yaml",
    "https://fiboa.org/specification/v0.3.0/schema.yaml",
)
REQUIRED = ("id", "geometry")


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        InputError: If the suffix is unknown, the file exists, or pyarrow is missing for GeoParquet.
    """
    check_table(
        path,
        parquet="GeoParquet",
        other=".gpkg",
        expected="a GeoPackage or GeoParquet",
        repair="give a name that ends in .gpkg or .parquet.",
        overwrite=overwrite,
    )


def check_map(checkpoint: Path, path: Path, *, overwrite: bool = False) -> None:
    """Refuse a checkpoint without fields, and a file that cannot be written, before a map is computed.

    Raises:
        InputError: If the checkpoint is of another task, or the file cannot be written.
    """
    task = Checkpoint.load(checkpoint).experiment.task
    if not isinstance(task, Fields):
        raise InputError(
            checkpoint,
            found=f"a checkpoint of task '{task.kind}'",
            expected="one of task 'fields'",
            repair="leave out --parcels, or give 'agrifm parcels' a map of fields and this one as --crops.",
        )
    check_target(path, overwrite=overwrite)


def write_parcels(parcels: Parcels, path: Path) -> None:
    """Write fields atomically, with the metadata of the collection in the metadata of the file.

    ``OUT.gpkg.qlr`` beside them opens the fields in QGIS, over their map.

    Raises:
        InputError: If the suffix is unknown, or pyarrow is missing for GeoParquet.
    """
    check_target(path, overwrite=True)
    frame = table(parcels)
    collection = {"collection": path.stem, "schemas": {path.stem: list(SCHEMAS)}}
    with whole(path) as unfinished, _writing(path):
        if path.suffix.lower() == ".parquet":
            _write_parquet(frame, unfinished, collection)
        else:
            metadata = {"collection": json.dumps(collection)}
            frame.to_file(unfinished, layer=path.stem, driver="GPKG", engine="pyogrio", layer_metadata=metadata)
    write_whole(path.with_name(f"{path.name}.qlr"), _layers(parcels, path))


def _layers(parcels: Parcels, path: Path) -> str:
    """Layer definition of QGIS with the fields and, below them, the map that they come from, if it is there."""
    layers = [QgisLayer(path, "fields", outlines=True)]
    target = parcels.provenance.path.with_name(next(iter(parcels.provenance.document.files)))
    if is_class_map(target):
        layers.append(QgisLayer(target, "classes", Legend.read(target)))
    confidence = beside(target, "confidence")
    if confidence.is_file():
        layers.append(QgisLayer(confidence, "confidence", visible=False))
    return layer_definition(path, path.stem, layers, CRS.from_user_input(parcels.crs).to_wkt())


@contextmanager
def _writing(path: Path) -> Generator[None]:
    """Turn GDAL's own errors about full disks and files that cannot be written into refusals."""
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

    try:
        yield
    except (DataSourceError, DataLayerError, FeatureError, FieldError) as error:
        raise InputError(
            path,
            found=f"a file that could not be written: {reason(error)}",
            expected="enough space on the disk, and a folder in which you may create files",
            repair="free some space, or choose another output folder.",
        ) from error


def table(parcels: Parcels) -> geopandas.GeoDataFrame:
    """Table of fields with the columns of fiboa, followed by our own."""
    import geopandas
    import pandas as pd

    count = len(parcels.polygons)
    last = max(day for layer in parcels.provenance.scene.layers for day in layer.days)
    columns: dict[str, Any] = {
        "id": [str(number) for number in range(1, count + 1)],
        "metrics:area": shapely.area(parcels.polygons),
        "metrics:perimeter": shapely.length(parcels.polygons),
        "determination:datetime": pd.Series([pd.Timestamp(last, tz="UTC")] * count, dtype="datetime64[ms, UTC]"),
        "determination:method": ["auto-imagery"] * count,
        "determination:details": [parcels.details] * count,
    }
    for key, values in parcels.columns.items():
        columns[key] = np.round(values, 4) if values.dtype.kind == "f" else values
    return geopandas.GeoDataFrame(columns, geometry=parcels.polygons, crs=parcels.crs)


def _write_parquet(frame: geopandas.GeoDataFrame, path: Path, collection: dict[str, Any]) -> None:
    """Write with geopandas, then again with the types that fiboa requires and the metadata of the collection."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame.to_parquet(path, write_covering_bbox=True)
    written = pq.read_table(path)
    fields = []
    for field in written.schema:
        if field.name in ("metrics:area", "metrics:perimeter"):
            field = field.with_type(pa.float32())
        elif pa.types.is_large_string(field.type):  # pandas writes these, fiboa asks for plain strings
            field = field.with_type(pa.string())
        fields.append(field.with_nullable(field.name not in REQUIRED))
    metadata = {**(written.schema.metadata or {}), b"collection": json.dumps(collection).encode()}
    pq.write_table(written.cast(pa.schema(fields, metadata)), path, compression="zstd")
