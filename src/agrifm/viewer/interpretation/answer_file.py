"""The sample that a person interprets: read at the start, and written anew with every answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pandas

from agrifm.errors import InputError, printable
from agrifm.io import FileStamp, locked, refuse_unwritable, whole
from agrifm.statistics.response import ResponseDesign
from agrifm.statistics.sample_file import read_sample, whole_number, write_reference
from agrifm.statistics.tables import FORMULA

SUFFIXES = (".csv", ".gpkg")
COLUMNS = ("sample_id", "lon", "lat", "design", "reference")
REPAIR = "draw a sample with 'agrifm area design MAP SAMPLE', or restore the file as it was written."
AGAIN = "start the viewer again, which reads the file as it is now."


@dataclass(frozen=True)
class Point:
    """A point of the sample, in degrees. What else the file holds about it is not read.

    Args:
        id: Its number in the sample.
        longitude: Degrees east.
        latitude: Degrees north.
    """

    id: int
    longitude: float
    latitude: float


class AnswerFile:
    """A sample with the answers of its interpreters; only this path is ever written.

    Args:
        path: The sample.
        response: Classes to choose from.
        points: Points in the order of the file, which is random.
        answers: Answer to each point by its number; empty for none.
    """

    def __init__(
        self, path: Path, response: ResponseDesign, points: tuple[Point, ...], answers: dict[int, str]
    ) -> None:
        self.path = path
        self.response = response
        self.points = points
        self.answers = answers
        self._lock = Lock()
        self._stamp = FileStamp.of(path)

    @classmethod
    def open(cls, path: Path) -> AnswerFile:
        """Read a sample.

        Args:
            path: CSV or GeoPackage of ``agrifm area design``.

        Raises:
            InputError: If it is no such sample, no file beside it names its classes, or it cannot be written.
        """
        _refuse_open_elsewhere(path)  # before anything reads the file, which may remove such a journal
        rows = read_sample(path)
        missing = [name for name in COLUMNS if name not in rows]
        if missing:
            raise InputError(
                path,
                found=f"no column {' or '.join(missing)}",
                expected=f"a sample of 'agrifm area design' with the columns {', '.join(COLUMNS)}",
                repair=REPAIR,
            )
        response = ResponseDesign.load(path)
        _refuse_other_draw(path, set(rows["design"]), response.design)
        _refuse_unusable_names(path, response)
        refuse_unwritable(path.absolute().parent)
        points = tuple(_point(path, row) for _, row in rows.iterrows())
        answers = {point.id: answer for point, answer in zip(points, rows["reference"], strict=True)}
        if len(answers) != len(points):
            raise InputError(
                f"{path}: sample_id", found="a number more than once", expected="one row for each point", repair=REPAIR
            )
        return cls(path, response, points, answers)

    @property
    def answered(self) -> int:
        """Number of points with an answer."""
        return sum(answer != "" for answer in self.answers.values())

    @property
    def is_complete(self) -> bool:
        """Whether every point has an answer."""
        return self.answered == len(self.points)

    def describe(self) -> list[dict[str, Any]]:
        """Return number, place and answer of every point, and nothing else that the file holds."""
        points = []
        for point in self.points:
            answer = printable(self.answers[point.id])
            points.append({"id": point.id, "lon": point.longitude, "lat": point.latitude, "answer": answer})
        return points

    def save(self, document: object) -> dict[str, Any]:
        """Write one answer; the file is replaced by rename once it is complete.

        Args:
            document: ``id`` of the point; its ``answer``, the name of a class, empty to clear it; and ``before``, the
                answer that the page showed until now.

        Returns:
            The number of points with an answer.

        Raises:
            InputError: If the answer cannot be used, or the point or file was changed elsewhere. Nothing is written
                then.
        """
        number, answer, before = self._checked(document)
        with self._lock:
            if printable(self.answers[number]) != before:
                raise InputError(
                    f"{self.path}: sample_id {number}",
                    found="an answer that was given in another tab of this viewer since",
                    expected="the answer that this page shows",
                    repair="reload the page.",
                )
            self._stamp.refuse_change(AGAIN)
            _refuse_open_elsewhere(self.path)
            with locked(self.path), whole(self.path) as unfinished:
                write_reference(self.path, unfinished, number, answer)
            self.answers[number] = answer
            self._stamp = FileStamp.of(self.path)
            return {"answered": self.answered}

    def _checked(self, document: object) -> tuple[int, str, str]:
        """Return number, answer and former answer of a document that the page sent."""
        if not isinstance(document, Mapping):
            raise _bad(f"a {type(document).__name__}", "a point and its answer")
        number, answer, before = document.get("id"), document.get("answer"), document.get("before")
        if not isinstance(number, int) or isinstance(number, bool) or number not in self.answers:
            raise _bad(f"the point {str(number)[:20]}", "the number of a point of the sample")
        if not isinstance(before, str):
            raise _bad(f"the former answer {str(before)[:20]}", "a text")
        if not isinstance(answer, str) or answer not in ("", *self.response.classes):
            raise _bad(f"the answer {str(answer)[:60]!r}", "the name of a class, or an empty text")
        return number, answer, before


def is_sample(path: Path) -> bool:
    """Whether a path is a table, which is opened as a sample."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _point(path: Path, row: pandas.Series) -> Point:
    number = whole_number(row["sample_id"])
    try:
        longitude = float(row["lon"].replace(",", "."))
        latitude = float(row["lat"].replace(",", "."))
    except ValueError:
        longitude = latitude = math.nan
    is_place = abs(longitude) <= 180 and abs(latitude) <= 90  # False for NaN
    if number is None or not is_place:
        raise InputError(
            f"{path}: sample_id {row['sample_id']}",
            found=f"lon {row['lon']!r}, lat {row['lat']!r}",
            expected="a whole number, and a place in degrees",
            repair=REPAIR,
        )
    return Point(number, longitude, latitude)


def _refuse_other_draw(path: Path, found: set[str], expected: str) -> None:
    if found != {expected}:
        raise InputError(
            f"{path}: design",
            found=f"rows of another draw than the design beside it ({expected})",
            expected="the design that was written with the sample",
            repair="put the files beside each other that were written together.",
        )


def _refuse_unusable_names(path: Path, response: ResponseDesign) -> None:
    """Refuse names that cannot be written as answers, or that a spreadsheet would run."""
    for name in response.classes:
        if not name.strip() or name != name.strip() or name != printable(name):
            raise InputError(
                path,
                found=f"the class {name!r}",
                expected="names without spaces at their ends and without control characters",
                repair="rename the class in the map, and draw the sample again.",
            )
        if name.startswith(FORMULA) and path.suffix.lower() == ".csv":
            raise InputError(
                path,
                found=f"the class {name!r}, which a spreadsheet would run as a formula",
                expected=f"in a CSV, names that begin with none of {' '.join(FORMULA)}",
                repair="draw the sample as GeoPackage, or rename the class.",
            )


def _refuse_open_elsewhere(path: Path) -> None:
    """Refuse a GeoPackage with changes that another program has not yet written into the file itself."""
    journal = path.with_name(f"{path.name}-wal")
    if journal.exists() and journal.stat().st_size:
        raise InputError(
            path,
            found=f"changes in {journal.name}, which another program such as QGIS has not finished",
            expected="a file that no other program has open",
            repair=f"close it there, then {AGAIN}",
        )


def _bad(found: str, expected: str) -> InputError:
    return InputError("answer", found=found, expected=expected, repair="reload the page and answer again.")
