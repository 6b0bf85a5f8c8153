"""Parquet tables, with geometries or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from agrifm.errors import refuse_missing_library

PARQUET = (".parquet", ".geoparquet")


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its name."""
    return path.suffix.lower() in PARQUET


def read_parquet(path: Path) -> Any:
    """Read a table: a GeoDataFrame if it has geometries, a DataFrame otherwise.

    Raises:
        InputError: If pyarrow is missing. Of damaged files, the errors of the libraries pass.
    """
    repair = "run pip install 'agrifm[parquet]', or save the table as CSV."
    refuse_missing_library(path, "pyarrow", "which reads Parquet", repair)
    import geopandas
    import pyarrow.parquet

    with path.open("rb") as file:
        metadata = pyarrow.parquet.read_schema(file).metadata or {}
    if b"geo" in metadata:
        return geopandas.read_parquet(path)
    return pd.read_parquet(path)
