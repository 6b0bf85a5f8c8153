"""The references that interpreters filled in, checked against the design before anything is estimated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path

import numpy as np
import pandas
import shapely
from pyproj import CRS

from agrifm.errors import InputError, counted, nearest, refusing
from agrifm.rasters.grid import METERS_PER_DEGREE
from agrifm.statistics.design import Design, Unit, not_a_probability_sample
from agrifm.statistics.estimates import Estimate, Observed, estimate
from agrifm.statistics.sample_file import COORDINATES, cell_text, read_sample
from agrifm.vectors.reading import read_table

SHOWN = 5  # names of a long list in a message


@dataclass(frozen=True)
class Answers:
    """An interpreted sample that is fit for estimation.

    Args:
        design: Design of the sample.
        observed: The units that have a reference.
        rows: Rows of the file for these units, all columns as text.
        points: Centers ``(n, 2)`` of these units in the CRS of the map.
        dropped: Number of units without a reference, by name of their stratum.
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
        drop_unanswered: Leave out units without a reference. This assumes that within each stratum they do not differ
            from the others, but pixels that were hard to interpret often do.

    Raises:
        InputError: If the sample is not a probability sample, differs from the one drawn, or has unusable references.
    """
    design = Design.load(path)
    rows = _rows(path, design)
    text = rows["reference"].to_numpy()
    answered = text != ""
    dropped = _unanswered(path, design, answered, drop_unanswered)
    reference = _classes(path, design, text[answered])
    units = [design.units[i] for i in np.flatnonzero(answered)]
    observed = observe(design, units, reference)
    _check_counts(path, design, observed)
    points = np.array([(unit.x, unit.y) for unit in units])
    return Answers(design, observed, rows[answered].reset_index(drop=True), points, dropped)


def observe(design: Design, units: Sequence[Unit], reference: np.ndarray) -> Observed:
    """Combine units of a design with their references ``(n)``, which are positions in its classes."""
    stratum = {part.code: i for i, part in enumerate(design.strata)}
    mapped = {entry.code: i for i, entry in enumerate(design.classes)}
    return Observed(
        stratum=np.array([stratum[unit.stratum] for unit in units]),
        mapped=np.array([mapped[unit.map_class] for unit in units]),
        reference=reference,
        area=np.array([unit.hectares for unit in units]),
        pixels=np.array([part.pixels for part in design.strata]),
        hectares=np.array([part.hectares for part in design.strata]),
        corrected=design.strata_from is not None,
    )


def _rows(path: Path, design: Design) -> pandas.DataFrame:
    """Return the rows as text in the order of the units. No row may be missing or added."""
    frame = read_sample(path)
    for column in ("sample_id", "design", "reference"):
        if column not in frame:
            raise InputError(
                f"{path}: {column}",
                found=f"columns {', '.join(frame.columns)}",
                expected="the columns that the sample was written with",
                repair=f"restore the column {column}.",
            )
    other_draws = sorted({*frame["design"]} - {design.key})
    if other_draws:
        raise not_a_probability_sample(
            f"{path}: design",
            f"rows of another draw ({_first_few(other_draws)}; the design beside it is {design.key})",
            "put the design beside it that was written with it.",
        )
    # Spreadsheets turn whole numbers into decimals.
    ids = [text.removesuffix(".0") for text in frame["sample_id"]]
    drawn = [str(unit.id) for unit in design.units]
    _check_ids(path, ids, drawn)
    rows = frame.set_index(pandas.Index(ids)).loc[drawn].reset_index(drop=True)
    _refuse_moved_points(path, design, rows)
    return rows.drop(columns=COORDINATES, errors="ignore")


def _check_ids(path: Path, ids: Sequence[str], drawn: Sequence[str]) -> None:
    """Refuse rows that are missing, were added or occur twice."""
    wrong = {
        "missing": sorted(set(drawn) - set(ids), key=int),
        "not drawn": sorted(set(ids) - set(drawn)),
        "twice": [each for each, count in Counter(ids).items() if count > 1],
    }
    problems = [f"{len(which)} {how} ({_first_few(which)})" for how, which in wrong.items() if which]
    if problems:
        raise not_a_probability_sample(
            f"{path}: sample_id",
            f"rows that are not the sample drawn: {'; '.join(problems)}",
            "restore the rows as they were drawn, with an empty reference where a pixel cannot be interpreted.",
        )


def _refuse_moved_points(path: Path, design: Design, rows: pandas.DataFrame) -> None:
    """Refuse points that were moved: a reference from elsewhere says nothing about the pixel that was drawn."""
    crs = CRS.from_user_input(design.crs)
    meters = METERS_PER_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
    for i, unit in enumerate(design.units):
        half_a_pixel = 100 * sqrt(unit.hectares) / meters / 2
        place = _place(rows.iloc[i])
        if place is None:
            continue
        x, y = place
        if max(abs(x - unit.x), abs(y - unit.y)) > half_a_pixel:
            raise not_a_probability_sample(
                f"{path}: sample_id {unit.id}",
                f"a point at {x:g}, {y:g}, which was drawn at {unit.x:g}, {unit.y:g}",
                "put it back; where a pixel cannot be interpreted, leave its reference empty.",
            )


def _place(row: pandas.Series) -> tuple[float, float] | None:
    """Return the coordinates of a row's point, or None if it has none."""
    if COORDINATES in row:
        coordinates = row[COORDINATES].tolist()
        if len(coordinates) != 2 or not all(isfinite(value) for value in coordinates):
            return None
        return coordinates[0], coordinates[1]
    try:
        return float(row["x"].replace(",", ".")), float(row["y"].replace(",", "."))
    except (KeyError, ValueError):
        return None


def _unanswered(path: Path, design: Design, answered: np.ndarray, drop: bool) -> dict[str, int]:
    """Count the units without a reference by stratum, and refuse them unless they may be dropped."""
    names = {part.code: part.name for part in design.strata}
    missing = Counter(names[design.units[i].stratum] for i in np.flatnonzero(~answered))
    some = bool(answered.any())
    if missing and not (drop and some):
        repair = "fill them in with names of classes, in QGIS or a spreadsheet."
        if some:
            repair = (
                "fill them in, or add --drop-unanswered, which assumes that within a stratum they are like the others."
            )
        raise InputError(
            f"{path}: reference",
            found=f"nothing in {sum(missing.values())} of {counted(len(answered), 'row')}",
            expected="the true class at every point",
            repair=repair,
        )
    return dict(missing)


def _classes(path: Path, design: Design, texts: Sequence[str]) -> np.ndarray:
    """Return the position of each class, given by its name or code in upper or lower case."""
    known = {}
    # Names come last: a name that looks like the code of another class wins.
    for i, entry in enumerate(design.classes):
        known[str(entry.code)] = i
        known[f"{entry.code}.0"] = i
    for i, entry in enumerate(design.classes):
        known[entry.name.strip().casefold()] = i
    unknown = Counter(text for text in texts if text.casefold() not in known)
    if unknown:
        names = [entry.name for entry in design.classes]
        word, count = unknown.most_common(1)[0]
        others = list(unknown)[1:]
        more = f", and {_first_few(others)}" if others else ""
        raise InputError(
            f"{path}: reference",
            found=f"'{word}' in {counted(count, 'row')}{more}",
            expected=f"one of {', '.join(names)}",
            repair=f"{nearest(word, names)} To use a class that the map lacks, add it to 'classes' of the design with "
            "a new code and 0 pixels.",
        )
    return np.array([known[text.casefold()] for text in texts])


def _check_counts(path: Path, design: Design, observed: Observed) -> None:
    pairs = zip(design.strata, observed.counts.tolist(), strict=True)
    few = [part.name for part, count in pairs if count < min(2, part.pixels)]
    if few:
        raise InputError(
            f"{path}: reference",
            found=f"fewer than 2 answers in {_first_few(few)}",
            expected="2 or more in every stratum: one alone shows no spread",
            repair="interpret more of them, or draw again with a higher --floor.",
        )


def _first_few(names: Sequence[object]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def estimates(
    answers: Answers, level: float = 0.95, column: str | None = None, outlines: Path | None = None
) -> list[Estimate]:
    """Estimate the whole population and, if a column names them, every region, sorted by name.

    Raises:
        InputError: As in ``regions``.
    """
    names = [entry.name for entry in answers.design.classes]
    results = [estimate(answers.observed, names, level)]
    if column is not None:
        region_of_unit = regions(answers, column, outlines)
        for region in sorted({*region_of_unit} - {""}):
            results.append(estimate(answers.observed, names, level, region, region_of_unit == region))
    return results


def regions(answers: Answers, column: str, outlines: Path | None) -> np.ndarray:
    """Return the name of the region of every unit ``(n)``, empty for a unit in no region.

    Args:
        answers: The sample.
        column: Column of the sample, or of the outlines.
        outlines: Vector file of polygons. A point on a border belongs to the first polygon in the file.

    Raises:
        InputError: If the column does not exist, a unit has no region, or regions overlap.
    """
    if outlines is None:
        return _regions_in_sample(answers, column)
    frame = read_table(outlines)
    if "geometry" not in frame or frame.crs is None:
        raise InputError(
            outlines,
            found="no outlines" if "geometry" not in frame else "no CRS",
            expected="a vector file of regions with a CRS",
            repair="write the CRS, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD', or name another file.",
        )
    names = np.array([cell_text(name) for name in _column(frame, column, str(outlines))], object)
    points = shapely.points(answers.points)
    with refusing(outlines, expected=f"outlines that can be transformed to the map's CRS, {answers.design.crs}"):
        shapes = shapely.make_valid(frame.geometry.to_crs(answers.design.crs).to_numpy())
        tree = shapely.STRtree(shapes)
        unit, region = tree.query(points, predicate="within")
    _refuse_overlaps(outlines, unit, names[region])
    unit, region = tree.query(points, predicate="intersects")
    result = np.full(len(points), "", object)
    # Assigned from the last polygon to the first, so that the first one remains.
    order = np.argsort(-region, kind="stable")
    result[unit[order]] = names[region[order]]
    return result


def _regions_in_sample(answers: Answers, column: str) -> np.ndarray:
    names = _column(answers.rows, column, "the sample").to_numpy()
    if (names == "").any():
        raise InputError(
            f"the sample: {column}",
            found=f"nothing in {counted((names == '').sum(), 'row')}",
            expected="a region for every unit",
            repair="fill them in, or give the outlines with --regions.",
        )
    return names


def _refuse_overlaps(outlines: Path, unit: np.ndarray, names: np.ndarray) -> None:
    """Refuse a unit that lies within polygons of different names."""
    names_of_unit: dict[int, set[str]] = {}
    for number, name in zip(unit.tolist(), names, strict=True):
        names_of_unit.setdefault(number, set()).add(name)
    for overlapping in names_of_unit.values():
        if len(overlapping) > 1:
            raise InputError(
                outlines,
                found=f"overlapping regions {' and '.join(sorted(overlapping))}",
                expected="regions that do not overlap",
                repair="cut them, or estimate them one file at a time.",
            )


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
