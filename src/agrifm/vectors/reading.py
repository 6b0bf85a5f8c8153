"""Vector files of any origin: local files only, no virtual formats, and one refusal for every failure."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pyproj import CRS

from agrifm.errors import InputError, nearest, refusing
from agrifm.vectors.crs import known_crs, same_crs
from agrifm.vectors.dbf import UTF8, text_encoding

# Formats that hold their data themselves. Others are virtual: they name files, databases or services elsewhere.
DRIVERS = (
    "GPKG", "SQLite", "ESRI Shapefile", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "JSONFG", "FlatGeobuf", "GML",
    "KML", "LIBKML", "GPX", "OpenFileGDB", "MapInfo File", "CSV", "Parquet", "Arrow", "OSM",
)  # fmt: skip
SUFFIXES = (
    ".gpkg", ".sqlite", ".db", ".shp", ".shz", ".geojson", ".json", ".geojsonl", ".geojsons", ".jsonl", ".topojson",
    ".fgb", ".gml", ".kml", ".kmz", ".gpx", ".gdb", ".tab", ".mif", ".csv", ".tsv", ".parquet", ".geoparquet", ".osm",
    ".pbf", ".zip", ".xml", ".vrt", ".ovf",
)  # fmt: skip
MAGIC = (b"SQLite format 3\0", b"fgb\x03", b"\x00\x00\x27\x0a", b"PAR1", b"{", b"<")
HEAD = 1 << 20  # bytes that are searched for signs of a virtual format

# GDAL recognizes these anywhere in the head of a file, whatever its name is.
VIRTUAL = re.compile(rb"<(OGRVRT|OGRWFS|OGROAPIF|OGRCSW|GDAL_|WCS_|WMS_|Geoservice)|gdal_streamed_alg", re.IGNORECASE)
XML_ROOT = re.compile(rb"^\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<(?:[\w.-]+:)?([\w.-]+)", re.DOTALL)
XML_ROOTS = re.compile(rb"kml|gpx|osm|.*(Collection|DataSet|Features?)", re.IGNORECASE)
VIEW = re.compile(r"ogr_geocode|load_extension|gdal_|ogr_inflate|fts3_tokenizer", re.IGNORECASE)

REPAIR = "copy it again with the files that belong to it, or convert it, e.g. 'ogr2ogr NEW.gpkg OLD'."
EXPECTED = "a vector file of polygons or points, e.g. GeoPackage, Shapefile, GeoJSON or FlatGeobuf"


@cache
def _pyogrio() -> ModuleType:
    """Import pyogrio, once and set up for files of unknown origin."""
    # It imports geopandas and pandas, which takes long; a scene needs it only for an area of interest.
    import pyogrio

    # A GML file may name the address of its schema, from where GDAL would download it.
    pyogrio.set_gdal_config_options({"GML_DOWNLOAD_SCHEMA": False})
    return pyogrio


def vector_layers(path: Path) -> list[str]:
    """List the layers with a geometry; empty if the file is no vector file.

    Raises:
        InputError: If it is a virtual format, or a vector file that cannot be read.
    """
    if not _claims_vectors(path):
        return []
    _refuse_virtual(path)
    with _reading(path):
        try:
            layers = _pyogrio().list_layers(path.absolute())
        except _pyogrio().errors.DataSourceError:  # no vector format that GDAL knows
            return []
    return [str(name) for name, geometry_type in layers if geometry_type is not None]


@dataclass(frozen=True)
class Layer:
    """A layer of a vector file.

    Args:
        path: Path of the file.
        name: Name of the layer.
        info: Information of pyogrio on the layer.
        recoded: Whether the text is UTF-8 although the file states another encoding or none.
        given_crs: CRS to use if the file states none.
    """

    path: Path
    name: str
    info: dict[str, Any]
    recoded: bool = False
    given_crs: str | None = None

    @classmethod
    def open(cls, path: Path, name: str, crs: str | None = None) -> Layer:
        """Open a layer without reading its features.

        Args:
            path: Path of the file.
            name: Name of the layer.
            crs: CRS to use if the file states none.

        Raises:
            InputError: If it cannot be read, or its text is in another encoding than the file states.
        """
        recoded = path.suffix.lower() == ".shp" and text_encoding(path) == UTF8
        with _reading(path):
            info = _pyogrio().read_info(
                path.absolute(),
                layer=name,
                encoding="ISO-8859-1" if recoded else None,
                force_feature_count=True,
                force_total_bounds=True,
            )
        if info["driver"] not in DRIVERS:
            raise _virtual(path, f"a file of the format {info['driver']}")
        return cls(path, name, info, recoded, crs)

    @property
    def columns(self) -> list[str]:
        """Names of the attributes."""
        return [_recoded(str(name)) if self.recoded else str(name) for name in self.info["fields"]]

    @property
    def features(self) -> int:
        """Number of features."""
        return int(self.info["features"])

    @property
    def bounds(self) -> tuple[float, ...] | None:
        """Left, bottom, right and top; None if the layer has no bounds."""
        bounds = self.info["total_bounds"]
        return bounds if bounds is not None and np.isfinite(bounds).all() else None

    @cached_property
    def crs(self) -> CRS:
        """CRS of the layer.

        Raises:
            InputError: If it has none, or one that PROJ does not understand.
        """
        stated = self.info["crs"]
        given = None if self.given_crs is None else known_crs(self.given_crs, f"--crs {self.given_crs}")
        if stated is None and given is not None:
            return given
        if stated is None:
            raise InputError(
                self.path,
                found="no CRS",
                expected="a georeferenced vector file",
                repair="state it with --crs; or write it, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD', or restore the .prj "
                "file of a Shapefile.",
            )
        crs = known_crs(stated, f"{self.path}: CRS")
        if given is not None:
            same_crs(crs, given, self.path)
        return crs

    @property
    def has_points(self) -> bool:
        """Whether its geometries are points and nothing else."""
        return "Point" in str(self.info["geometry_type"])

    @property
    def may_have_points(self) -> bool:
        """Whether its geometries may be points among others."""
        return self.has_points or str(self.info["geometry_type"]) == "Unknown"

    def column(self, wanted: str | None, option: str = "--class-column", purpose: str = "class") -> str:
        """Find a column by name, or the only one.

        Args:
            wanted: Name of the column.
            option: Option that names it, for messages.
            purpose: What it holds, for messages.

        Raises:
            InputError: If there is none of that name, or there are several to choose from.
        """
        return chosen_column(self.path, self.columns, wanted, option, purpose)

    def read(
        self, columns: Sequence[str], boxes: Sequence[tuple[float, ...]] | None = None
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Read numbers, values of columns and geometries (WKB) of features, each feature once.

        Args:
            columns: Names of columns.
            boxes: Features that intersect one of these boxes are read; all if there are none.

        Raises:
            InputError: If the file cannot be read.
        """
        parts = [self._read_box(columns, box) for box in boxes or (None,)]
        numbers = np.concatenate([part[0] for part in parts])
        shapes = np.concatenate([part[2] for part in parts])
        # A feature that intersects several boxes was read several times.
        first = np.sort(np.unique(numbers, return_index=True)[1])
        values = []
        for i in range(len(columns)):
            column = np.concatenate([part[1][i] for part in parts])[first]
            if self.recoded and column.dtype == object:
                column = np.array([_recoded(value) if isinstance(value, str) else value for value in column], object)
            values.append(column)
        return numbers[first], values, shapes[first]

    def _read_box(
        self, columns: Sequence[str], box: tuple[float, ...] | None
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        stored = [str(self.info["fields"][self.columns.index(name)]) for name in columns]
        with _reading(self.path):
            info, numbers, shapes, values = _pyogrio().raw.read(
                self.path.absolute(),
                layer=self.name,
                encoding="ISO-8859-1" if self.recoded else None,
                columns=list(dict.fromkeys(stored)),
                force_2d=True,
                bbox=None if box is None else tuple(box),
                return_fids=True,
            )
        # The file decides on the order of columns.
        by_name = dict(zip(map(str, info["fields"]), values, strict=True))
        return numbers, [by_name[name] for name in stored], shapes


def chosen_column(path: Path, columns: Sequence[str], wanted: str | None, option: str, purpose: str) -> str:
    """Return the column of that name, or the only one.

    Raises:
        InputError: If there is none of that name, or there are several to choose from.
    """
    if wanted is None and len(columns) == 1:
        return columns[0]
    if wanted is not None and wanted in columns:
        return wanted
    raise InputError(
        f"{path}: {wanted or option}",
        found=f"columns {', '.join(columns) or '(none)'}",
        expected=f"the column that holds the {purpose}",
        repair=nearest(wanted, columns) if wanted and columns else f"name it with {option}.",
    )


def read_table(path: Path) -> Any:
    """Read all features of the first layer as a GeoDataFrame, or as a DataFrame if they have no geometry.

    Raises:
        InputError: If it is a virtual format, or cannot be read.
    """
    if not path.exists():
        raise InputError(path, found="no such file", expected="a vector file", repair="check the path.")
    if not _claims_vectors(path):
        raise InputError(path, found="no vector file", expected=EXPECTED, repair=REPAIR)
    _refuse_virtual(path)
    with _reading(path):
        if _pyogrio().read_info(path.absolute())["driver"] not in DRIVERS:
            raise _virtual(path, "a virtual format")
        return _pyogrio().read_dataframe(path.absolute())


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn failures of GDAL into refusals, and suppress its warnings."""
    with warnings.catch_warnings(), refusing(path, expected=EXPECTED, repair=REPAIR):
        warnings.simplefilter("ignore")
        yield


def _claims_vectors(path: Path) -> bool:
    if path.is_dir():
        return True
    head = _head(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<VRTDataset"):  # a mosaic of rasters
        return False
    return path.suffix.lower() in SUFFIXES or head.startswith(MAGIC)


def _head(path: Path) -> bytes:
    with refusing(path, expected="a file that can be read", repair="check its permissions."), path.open("rb") as file:
        return file.read(HEAD)


def _refuse_virtual(path: Path) -> None:
    """Refuse formats that only refer to other files, before GDAL opens them.

    Raises:
        InputError: If the file, or one inside a ZIP file, is such a format.
    """
    if path.is_dir():
        return
    head = _head(path)
    if head.startswith(b"PK"):
        with refusing(path, expected="a complete ZIP file", repair=REPAIR), zipfile.ZipFile(path) as archive:
            members = [archive.open(member) for member in archive.infolist() if not member.is_dir()]
            heads = [member.read(HEAD) for member in members]
    else:
        heads = [head]
    for each in heads:
        _refuse_virtual_text(path, each)
    if head.startswith(b"SQLite"):
        _refuse_calling_views(path)


def _refuse_virtual_text(path: Path, head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    sign = VIRTUAL.search(head[:HEAD]) if text[:1] in (b"<", b"{", b"[") else None
    if sign is not None:
        raise _virtual(path, f"a virtual format ({sign[0].decode(errors='replace')}...), which names files elsewhere")
    if b"<!ENTITY" in text and text.startswith(b"<"):
        raise _virtual(path, "an XML file that defines entities")
    root = XML_ROOT.match(text) if text.startswith(b"<") else None
    if text.startswith(b"<") and (root is None or not XML_ROOTS.fullmatch(root[1])):
        raise _virtual(path, "an XML file that is neither GML, KML, GPX nor OSM")


def _refuse_calling_views(path: Path) -> None:
    """Refuse databases whose views call functions with effects outside of the file."""
    import sqlite3

    with refusing(path, expected="a complete SQLite file", repair=REPAIR):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            texts = [str(row[0]) for row in database.execute("SELECT sql FROM sqlite_master WHERE type = 'view'")]
        finally:
            database.close()
    for text in texts:
        if VIEW.search(text):
            raise _virtual(path, f"a view that calls a function of GDAL: {text[:80]}")


def _virtual(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="a local file that contains its polygons, e.g. GeoPackage, Shapefile, GeoJSON or FlatGeobuf",
        repair="convert it if you trust it, e.g. 'ogr2ogr NEW.gpkg OLD', and name the new file.",
    )


def _recoded(text: str) -> str:
    """Decode UTF-8 that was read as ISO-8859-1; a character that the width of the column cuts off is lost."""
    return text.encode("iso-8859-1").decode("utf-8", "ignore")
