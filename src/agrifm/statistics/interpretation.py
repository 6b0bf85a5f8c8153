"""Interpreted samples: read, compared with their design, and estimated."""

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

SHOWN = 5  # entries of a long list in a message
PLACE = "\0place"  # column of coordinates; no column of a file has this name


@dataclass(frozen=True)
class Answers:
    """An interpreted sample that is complete enough for estimates.

    Args:
        design: Design of the sample.
        observed: Units with a reference.
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
        path: CSV or GeoPackage of ``write_sample`` with the column ``reference`` filled in.
        drop_unanswered: Whether to leave out units without a reference. This assumes that within each stratum they do
            not differ from the others; a field that was hard to interpret often does.

    Raises:
        InputError: If it is no probability sample, is not the sample that was drawn, or has unusable references.
    """
    design = Design.load(path)
    rows = _rows(path, design)
    text = rows["reference"].to_numpy()
    answered = text != ""
    dropped = _unanswered(path, design, answered, drop_unanswered)
    reference = _classes(path, design, text[answered])
    units = [unit for unit, has_reference in zip(design.units, answered, strict=True) if has_reference]
    observed = observe(design, units, reference)
    _check_counts(path, design, observed)
    points = np.array([(unit.x, unit.y) for unit in units])
    return Answers(design, observed, rows[answered].reset_index(drop=True), points, dropped)


def observe(design: Design, units: Sequence[Unit], reference: np.ndarray) -> Observed:
    """Combine units of a design with their references ``(n)``, which are positions in its classes."""
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
    """Rows in the order of the units, as text; refuse missing and additional ones."""
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
    other_draws = sorted({*frame["design"]} - {design.key})
    if other_draws:
        raise no_chance(
            f"{path}: design",
            f"rows of another draw ({_some(other_draws)}; the design beside it is {design.key})",
            "put the design beside it that was written with it.",
        )
    wrong = {
        "missing": sorted(set(drawn) - set(ids), key=int),
        "not drawn": sorted(set(ids) - set(drawn)),
        "twice": [each for each, count in Counter(ids).items() if count > 1],
    }
    problems = [f"{len(rows)} {kind} ({_some(rows)})" for kind, rows in wrong.items() if rows]
    if problems:
        raise no_chance(
            f"{path}: sample_id",
            f"rows that are not the sample drawn: {'; '.join(problems)}",
            "restore the rows as they were drawn, with an empty reference where interpretation was impossible.",
        )
    rows = frame.set_index(pandas.Index(ids)).loc[drawn].reset_index(drop=True)
    _must_be_in_place(path, design, rows)
    return rows.drop(columns=PLACE, errors="ignore")


def _table(path: Path) -> pandas.DataFrame:
    """Read a table as stripped text; spreadsheets return CSV with semicolons, or in UTF-16."""
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
    """Refuse points that were moved, because their references belong to other pixels than those drawn."""
    unit = CRS.from_user_input(design.crs)
    meters = METERS_PER_DEGREE if unit.is_geographic else unit.axis_info[0].unit_conversion_factor
    for i, drawn in enumerate(design.units):
        half_pixel = 100 * sqrt(drawn.hectares) / meters / 2
        place = _place(rows.iloc[i])
        if place is not None and max(abs(place[0] - drawn.x), abs(place[1] - drawn.y)) > half_pixel:
            raise no_chance(
                f"{path}: sample_id {drawn.id}",
                f"a point at {place[0]:g}, {place[1]:g}, which was drawn at {drawn.x:g}, {drawn.y:g}",
                "put it back; where a pixel cannot be interpreted, leave its reference empty.",
            )


def _place(row: pandas.Series) -> tuple[float, float] | None:
    """Coordinates of a row; None if it has none."""
    if PLACE in row:
        complete = len(row[PLACE]) == 2 and np.isfinite(row[PLACE]).all()
        return tuple(row[PLACE].tolist()) if complete else None
    try:
        return float(row["x"].replace(",", ".")), float(row["y"].replace(",", "."))
    except (KeyError, ValueError):
        return None


def _unanswered(path: Path, design: Design, answered: np.ndarray, drop: bool) -> dict[str, int]:
    """Count units without a reference by stratum; refuse them unless they may be dropped."""
    names = {part.code: part.name for part in design.strata}
    missing: Counter[str] = Counter()
    for unit, has_reference in zip(design.units, answered, strict=True):
        if not has_reference:
            missing[names[unit.stratum]] += 1
    if not missing or (drop and answered.any()):
        return dict(missing)
    repair = "fill them in in QGIS or a spreadsheet, with names of classes."
    if answered.any():
        repair = "fill them in, or add --drop-unanswered, which assumes that they are like the others of their stratum."
    raise InputError(
        f"{path}: reference",
        found=f"nothing in {sum(missing.values())} of {len(answered)} rows",
        expected="the true class at every point",
        repair=repair,
    )


def _classes(path: Path, design: Design, texts: Sequence[str]) -> np.ndarray:
    """Position of each class, given by its code or by its name in any case."""
    known: dict[str, int] = {}
    for i, entry in enumerate(design.classes):
        known[str(entry.code)] = i
        known[f"{entry.code}.0"] = i  # as spreadsheets write whole numbers
    # Names come last: a class may be named like the code of another.
    known |= {entry.name.strip().casefold(): i for i, entry in enumerate(design.classes)}
    unknown = Counter(text for text in texts if text.casefold() not in known)
    if unknown:
        names = [entry.name for entry in design.classes]
        word, count = unknown.most_common(1)[0]
        raise InputError(
            f"{path}: reference",
            found=f"'{word}' in {count} rows" + (f", and {_some(list(unknown)[1:])}" if len(unknown) > 1 else ""),
            expected=f"one of {', '.join(names)}",
            repair=f"{nearest(word, names)} Add a class that the map does not have to 'classes' of the design, "
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
    """The first few of many, as text."""
    text = ", ".join(map(str, names[:SHOWN]))
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN} more"


def estimates(
    answers: Answers, level: float = 0.95, column: str | None = None, outlines: Path | None = None
) -> list[Estimate]:
    """Estimate the whole population and, where a column names them, every region, sorted by name.

    Args:
        answers: Interpreted sample.
        level: Level of the confidence intervals.
        column: Column that names the regions.
        outlines: Polygons of the regions; None takes the column of the sample.

    Raises:
        InputError: If the regions cannot be used.
    """
    names = [entry.name for entry in answers.design.classes]
    results = [estimate(answers.observed, names, level)]
    if column is None:
        return results
    region_of_unit = regions(answers, column, outlines)
    for region in sorted({*region_of_unit} - {""}):
        results.append(estimate(answers.observed, names, level, region, region_of_unit == region))
    return results


def regions(answers: Answers, column: str, outlines: Path | None) -> np.ndarray:
    """Find the region of every unit.

    Args:
        answers: Interpreted sample.
        column: Column of the sample, or of the outlines, that names the region.
        outlines: Polygons of the regions; a point on a border belongs to the first one in the file.

    Returns:
        Names ``(n)``, empty where a unit lies in no region.

    Raises:
        InputError: If there is no such column, a unit of the sample has no region, or regions overlap.
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
    for i in np.unique(unit):
        overlapping = {names[r] for r in region[unit == i]}
        if len(overlapping) > 1:
            raise InputError(
                outlines,
                found=f"regions {' and '.join(sorted(overlapping))} on one another",
                expected="regions that do not overlap",
                repair="cut them, or estimate them one file at a time.",
            )
    unit, region = tree.query(points, predicate="intersects")
    result = np.full(len(points), "", object)
    # Of several assignments to one unit the last counts, so the regions go from the last to the first.
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
