"""What interpreters filled in, held against the design before anything is estimated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import sqrt
from pathlib import Path

import numpy as np
import pandas
import shapely
from pyproj import CRS

from agrifm.errors import InputError, nearest, refusing
from agrifm.rasters.grid import METERS_PER_DEGREE
from agrifm.statistics.design import Design, Unit, no_chance
from agrifm.statistics.estimates import Estimate, Observed, estimate
from agrifm.vectors.reading import read_table

SHOWN = 5  # of many in a message
PLACE = "\0place"  # column of coordinates; no file has one of that name


@dataclass(frozen=True)
class Answers:
    """A sample that can be estimated from.

    Args:
        design: as drawn.
        observed: the units that have a reference.
        rows: of the file, one for each of these units, all columns as text.
        points: ``(n, 2)`` centers of these units in the map's CRS.
        dropped: units without a reference, by name of their stratum.
    """

    design: Design
    observed: Observed
    rows: pandas.DataFrame
    points: np.ndarray
    dropped: dict[str, int]


def read_answers(path: Path, *, drop_unanswered: bool = False) -> Answers:
    """Read an interpreted sample and the design beside it.

    Args:
        path: CSV or GeoPackage written by ``write_sample``, with its column ``reference`` filled in.
        drop_unanswered: leave out units without a reference. This assumes that within each stratum they do not
            differ from the others; a field that was hard to see often does.

    Raises:
        InputError: the sample was not drawn by chance, is not the one drawn, or its references cannot be used.
    """
    design = Design.load(path)
    rows = _rows(path, design)
    text = rows["reference"].to_numpy()
    answered = text != ""
    dropped = _unanswered(path, design, answered, drop_unanswered)
    reference = _classes(path, design, text[answered])
    units = [unit for unit, there in zip(design.units, answered, strict=True) if there]
    observed = observe(design, units, reference)
    _check_counts(path, design, observed)
    points = np.array([(unit.x, unit.y) for unit in units])
    return Answers(design, observed, rows[answered].reset_index(drop=True), points, dropped)


def observe(design: Design, units: Sequence[Unit], reference: np.ndarray) -> Observed:
    """What was seen at units of a design; ``reference (n)`` are positions in its classes."""
    stratum = {part.code: i for i, part in enumerate(design.strata)}
    mapped = {entry.code: i for i, entry in enumerate(design.classes)}
    return Observed(
        np.array([stratum[unit.stratum] for unit in units]),
        np.array([mapped[unit.map_class] for unit in units]),
        reference,
        np.array([unit.hectares for unit in units]),
        np.array([part.pixels for part in design.strata]),
        np.array([part.hectares for part in design.strata]),
        design.strata_from is not None,
    )


def _rows(path: Path, design: Design) -> pandas.DataFrame:
    """The rows in the order of the units, as text; none may be missing or new."""
    frame = _table(path)
    for column in ("sample_id", "design", "reference"):
        if column not in frame:
            raise InputError(
                f"{path}: {column}",
                found=f"columns {', '.join(frame.columns)}",
                expected="the columns that the sample was written with",
                repair=f"restore the column {column}.",
            )
    ids = [text.removesuffix(".0") for text in frame["sample_id"]]
    drawn = [str(unit.id) for unit in design.units]
    wrong = {
        "missing": sorted(set(drawn) - set(ids), key=int),
        "not drawn": sorted(set(ids) - set(drawn)),
        "twice": [each for each, count in Counter(ids).items() if count > 1],
    }
    if other := sorted({*frame["design"]} - {design.key}):
        raise no_chance(
            f"{path}: design",
            f"rows of another draw ({_some(other)}; the design beside it is {design.key})",
            "put the design beside it that was written with it.",
        )
    found = [f"{len(which)} {how} ({_some(which)})" for how, which in wrong.items() if which]
    if found:
        raise no_chance(
            f"{path}: sample_id",
            f"rows that are not the sample drawn: {'; '.join(found)}",
            "restore the rows as they were drawn, with an empty reference where nothing could be told.",
        )
    rows = frame.set_index(pandas.Index(ids)).loc[drawn].reset_index(drop=True)
    _must_be_in_place(path, design, rows)
    return rows.drop(columns=PLACE, errors="ignore")


def _table(path: Path) -> pandas.DataFrame:
    """Any table as stripped text; a CSV may come back from a spreadsheet with semicolons, or in UTF-16."""
    if path.suffix.lower() == ".csv":
        with refusing(
            path,
            expected="a sample as CSV in UTF-8",
            repair="check the path; in a spreadsheet, save as 'CSV UTF-8'.",
        ):
            data = path.read_bytes()
            text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
            header = text.partition("\n")[0]
            separator = max(",;\t", key=header.count)
            frame = pandas.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    else:
        frame = pandas.DataFrame(read_table(path))
        if "geometry" in frame:
            frame[PLACE] = [shapely.get_coordinates(shape)[:1].ravel() for shape in frame.pop("geometry")]
    return frame.map(lambda value: value if isinstance(value, np.ndarray) else _stripped(value))


def _stripped(value: object) -> str:
    missing = value is None or (not isinstance(value, list | dict) and bool(pandas.isna(value)))
    return "" if missing else str(value).strip()


def _must_be_in_place(path: Path, design: Design, rows: pandas.DataFrame) -> None:
    """Refuse points that were moved: what was seen elsewhere says nothing of the pixels that were drawn."""
    unit = CRS.from_user_input(design.crs)
    meters = METERS_PER_DEGREE if unit.is_geographic else unit.axis_info[0].unit_conversion_factor
    for i, drawn in enumerate(design.units):
        reach = 100 * sqrt(drawn.hectares) / meters / 2  # half a pixel
        place = _place(rows.iloc[i])
        if place is not None and max(abs(place[0] - drawn.x), abs(place[1] - drawn.y)) > reach:
            raise no_chance(
                f"{path}: sample_id {drawn.id}",
                f"a point at {place[0]:g}, {place[1]:g}, which was drawn at {drawn.x:g}, {drawn.y:g}",
                "put it back; where a pixel cannot be interpreted, leave its reference empty.",
            )


def _place(row: pandas.Series) -> tuple[float, float] | None:
    """Where a row says that its point lies; None where it does not."""
    if PLACE in row:
        return tuple(row[PLACE].tolist()) if len(row[PLACE]) == 2 and np.isfinite(row[PLACE]).all() else None
    try:
        return float(row["x"].replace(",", ".")), float(row["y"].replace(",", "."))
    except (KeyError, ValueError):
        return None


def _unanswered(path: Path, design: Design, answered: np.ndarray, drop: bool) -> dict[str, int]:
    """Units without a reference by stratum; only where they may be dropped."""
    names = {part.code: part.name for part in design.strata}
    missing = Counter(names[unit.stratum] for unit, there in zip(design.units, answered, strict=True) if not there)
    if missing and (not drop or not answered.any()):
        number = sum(missing.values())
        raise InputError(
            f"{path}: reference",
            found=f"nothing in {number} of {len(answered)} rows",
            expected="the true class at every point",
            repair="fill them in"
            + (
                ", or add --drop-unanswered, which assumes that within a stratum they are like the others."
                if answered.any()
                else " in QGIS or a spreadsheet, with names of classes."
            ),
        )
    return dict(missing)


def _classes(path: Path, design: Design, texts: Sequence[str]) -> np.ndarray:
    """Position of each class, given by its name or code; capitals do not matter."""
    known = {str(entry.code): i for i, entry in enumerate(design.classes)}
    known |= {f"{entry.code}.0": i for i, entry in enumerate(design.classes)}
    known |= {entry.name.strip().casefold(): i for i, entry in enumerate(design.classes)}
    unknown = Counter(text for text in texts if text.casefold() not in known)
    if unknown:
        names = [entry.name for entry in design.classes]
        word, count = unknown.most_common(1)[0]
        raise InputError(
            f"{path}: reference",
            found=f"'{word}' in {count} rows" + (f", and {_some(list(unknown)[1:])}" if len(unknown) > 1 else ""),
            expected=f"one of {', '.join(names)}",
            repair=f"{nearest(word, names)} A class that the map lacks is added to 'classes' of the design, "
            "with a new code and 0 pixels.",
        )
    return np.array([known[text.casefold()] for text in texts])


def _check_counts(path: Path, design: Design, observed: Observed) -> None:
    pairs = zip(design.strata, observed.counts.tolist(), strict=True)
    few = [part.name for part, count in pairs if count < min(2, part.pixels)]
    if few:
        raise InputError(
            f"{path}: reference",
            found=f"fewer than 2 answers in {_some(few)}",
            expected="2 or more in every stratum: one alone shows no spread",
            repair="interpret more of them, or draw again with a higher --floor.",
        )


def _some(names: Sequence[object]) -> str:
    """The first few of many."""
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def estimates(
    answers: Answers, level: float = 0.95, column: str | None = None, outlines: Path | None = None
) -> list[Estimate]:
    """Estimate everything and, where a column names them, every region, sorted by name.

    Raises:
        InputError: as ``regions`` does.
    """
    names = [entry.name for entry in answers.design.classes]
    found = [estimate(answers.observed, names, level)]
    if column is not None:
        where = regions(answers, column, outlines)
        found += [estimate(answers.observed, names, level, one, where == one) for one in sorted({*where} - {""})]
    return found


def regions(answers: Answers, column: str, outlines: Path | None) -> np.ndarray:
    """Name of the region of every unit ``(n)``; empty where it lies in none.

    Args:
        answers: the sample.
        column: of the sample, or of the outlines.
        outlines: polygons; a point on a border belongs to the first in the file.

    Raises:
        InputError: no such column, a unit without a region, or regions that overlap.
    """
    if outlines is None:
        names = _column(answers.rows, column, "the sample").to_numpy()
        if (names == "").any():
            raise InputError(
                f"the sample: {column}",
                found=f"nothing in {(names == '').sum()} rows",
                expected="a region for every unit",
                repair="fill them in, or give the outlines with --regions.",
            )
        return names
    frame = read_table(outlines)
    if "geometry" not in frame or frame.crs is None:
        raise InputError(
            outlines,
            found="no outlines" if "geometry" not in frame else "no CRS",
            expected="a vector file of regions that says where on Earth they lie",
            repair="write the CRS, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD', or name another file.",
        )
    names = np.array([_stripped(name) for name in _column(frame, column, str(outlines))], object)
    points = shapely.points(answers.points)
    with refusing(outlines, expected=f"outlines that can be related to the map's CRS, {answers.design.crs}"):
        shapes = shapely.make_valid(frame.geometry.to_crs(answers.design.crs).to_numpy())
        tree = shapely.STRtree(shapes)
        unit, region = tree.query(points, predicate="within")
    found = {i: {names[r] for r in region[unit == i]} for i in np.unique(unit)}
    twice = next((which for which in found.values() if len(which) > 1), None)
    if twice:
        raise InputError(
            outlines,
            found=f"regions {' and '.join(sorted(twice))} on one another",
            expected="regions that do not overlap",
            repair="cut them, or estimate them one file at a time.",
        )
    unit, region = tree.query(points, predicate="intersects")
    result = np.full(len(points), "", object)
    order = np.argsort(-region, kind="stable")
    result[unit[order]] = names[region[order]]
    return result


def _column(frame: pandas.DataFrame, column: str, where: str) -> pandas.Series:
    if column not in frame:
        columns = [name for name in frame.columns if name != "geometry"]
        raise InputError(
            f"{where}: {column}",
            found=f"columns {', '.join(columns)}",
            expected="the column that names the region",
            repair=nearest(column, columns),
        )
    return frame[column]
