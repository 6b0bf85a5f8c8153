"""The file that interpreters fill in: its rows as text, and the reference of one row written into a copy of it."""

from __future__ import annotations

import csv
import shutil
import sqlite3
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas
import shapely

from agrifm.errors import InputError, counted, refusing
from agrifm.vectors.reading import read_table, vector_layers

COORDINATES = "\0place"  # column of point coordinates; no file has a column of that name
# Functions that the triggers of a spatial index name. None of them is called unless a geometry or a key changes.
SPATIAL_FUNCTIONS = ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY")


def read_sample(path: Path) -> pandas.DataFrame:
    """Read the rows of a sample, or of any other table, as stripped text.

    The coordinates of points, if there are any, stand in the column ``COORDINATES``.

    Raises:
        InputError: If it cannot be read.
    """
    if path.suffix.lower() == ".csv":
        with _reading_csv(path):
            found = _CsvText.read(path)
            frame = pandas.read_csv(StringIO(found.text), sep=found.separator, dtype=str, keep_default_na=False)
    else:
        frame = pandas.DataFrame(read_table(path))
        if "geometry" in frame:
            frame[COORDINATES] = [shapely.get_coordinates(shape)[:1].ravel() for shape in frame.pop("geometry")]
    return frame.map(lambda value: value if isinstance(value, np.ndarray) else cell_text(value))


def cell_text(value: object) -> str:
    """Return a value of a table as stripped text, which is empty where the value is missing."""
    missing = value is None or (not isinstance(value, list | dict) and bool(pandas.isna(value)))
    return "" if missing else str(value).strip()


def whole_number(text: str) -> int | None:
    """Return the whole number that a text states; spreadsheets turn whole numbers into decimals."""
    digits = text.strip().removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def write_reference(path: Path, copy: Path, sample_id: int, reference: str) -> None:
    """Write a copy of a sample in which one point has another reference; everything else stays as it is.

    Args:
        path: The sample, as CSV or GeoPackage.
        copy: File to write.
        sample_id: Number of the point.
        reference: Name of its class; empty for none.

    Raises:
        InputError: If the sample cannot be read, or does not have exactly one row of that number.
    """
    if path.suffix.lower() == ".csv":
        copy.write_bytes(_csv_with(path, sample_id, reference))
        return
    layers = vector_layers(path)
    if not layers:
        raise InputError(
            path,
            found="no layer with points",
            expected="the sample as first layer of a GeoPackage",
            repair="restore the file as it was written.",
        )
    layer = layers[0]
    shutil.copyfile(path, copy)
    with refusing(path, expected="a GeoPackage with the columns of a sample"), closing(sqlite3.connect(copy)) as file:
        for name in SPATIAL_FUNCTIONS:
            file.create_function(name, 1, lambda geometry: None)
        table = '"' + layer.replace('"', '""') + '"'
        changed = file.execute(
            f"UPDATE {table} SET reference = ? WHERE CAST(sample_id AS INTEGER) = ?",
            (reference, sample_id),
        )
        file.execute(
            "UPDATE gpkg_contents SET last_change = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE table_name = ?",
            (layer,),
        )
        file.commit()
    _refuse_other_than_one(path, sample_id, changed.rowcount)


def _csv_with(path: Path, sample_id: int, reference: str) -> bytes:
    """Return the content of a CSV with another reference in one row."""
    with _reading_csv(path):
        found = _CsvText.read(path)
        rows = list(csv.reader(StringIO(found.text, newline=""), delimiter=found.separator))
        header = [name.strip() for name in rows[0]]
        number, column = header.index("sample_id"), header.index("reference")
    matching = [row for row in rows[1:] if len(row) > number and whole_number(row[number]) == sample_id]
    _refuse_other_than_one(path, sample_id, len(matching))
    row = matching[0]
    row.extend([""] * (column + 1 - len(row)))  # spreadsheets leave out empty cells at the end
    row[column] = reference
    written = StringIO(newline="")
    line_end = "\r\n" if "\r\n" in found.text else "\n"
    csv.writer(written, delimiter=found.separator, lineterminator=line_end).writerows(rows)
    return written.getvalue().encode(found.encoding)


def _refuse_other_than_one(path: Path, sample_id: int, rows: int) -> None:
    if rows != 1:
        raise InputError(
            f"{path}: sample_id {sample_id}",
            found=counted(rows, "row"),
            expected="one row for each point",
            repair="restore the rows as they were drawn.",
        )


@dataclass(frozen=True)
class _CsvText:
    """The text of a CSV, which may come back from a spreadsheet with semicolons or in UTF-16.

    Args:
        text: All lines.
        encoding: Encoding in which they are stored.
        separator: Character between the cells.
    """

    text: str
    encoding: str
    separator: str

    @classmethod
    def read(cls, path: Path) -> _CsvText:
        data = path.read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            encoding = "utf-16"
        elif data.startswith(b"\xef\xbb\xbf"):
            encoding = "utf-8-sig"
        else:
            encoding = "utf-8"
        text = data.decode(encoding)
        header = text.partition("\n")[0]
        return cls(text, encoding, max(",;\t", key=header.count))


def _reading_csv(path: Path) -> AbstractContextManager[None]:
    return refusing(
        path,
        expected="a sample as CSV in UTF-8",
        repair="check the path; in a spreadsheet, save as 'CSV UTF-8'.",
    )
