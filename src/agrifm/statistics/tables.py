"""Designs and estimates for readers: tables on the screen, JSON, CSV and a figure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import geopandas
import pandas
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agrifm.errors import counted, printable
from agrifm.io import whole, write_whole
from agrifm.statistics.design import Design
from agrifm.statistics.estimates import Estimate, Value
from agrifm.statistics.interpretation import Answers

MOST_SHOWN = 8  # classes of a confusion matrix on the screen
LONGEST = 60  # characters of a name in the figure
ROUNDING = 1e-9  # share of an area that rounding may leave of a standard error of 0
FORMULA = ("=", "+", "-", "@")
SOURCES = {
    False: "Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: the strata are the classes of the map",
    True: "Stehman 2014, International Journal of Remote Sensing 35, 4923-4939: the strata are not the map's classes",
}


def design_table(design: Design) -> Table:
    """Return a table of the strata with their sizes and the pixels drawn from each."""
    table = _table("stratum", "pixels", "hectares", "share, %", "drawn", "probability")
    pixels = sum(part.pixels for part in design.strata)
    hectares = sum(part.hectares for part in design.strata)
    for part in design.strata:
        table.add_row(
            part.name,
            f"{part.pixels:,}",
            f"{part.hectares:,.1f}",
            f"{100 * part.pixels / pixels:.2f}",
            f"{part.drawn:,}",
            f"{part.inclusion_probability:.2g}",
        )
    table.add_section()
    table.add_row("all", f"{pixels:,}", f"{hectares:,.1f}", "", f"{len(design.units):,}", "")
    return table


def area_table(estimate: Estimate, design: Design) -> Table:
    """Return a table of areas and shares with the half widths of their intervals, and of the mapped areas."""
    # The areas of the map are known for the whole population only.
    mapped = {} if estimate.region else {entry.name: entry.hectares for entry in design.classes}
    total = sum(entry.hectares.value for entry in estimate.classes)
    digits = 0 if total >= 1000 else 1
    columns = ["map, ha"] if mapped else []
    table = _table("class", *columns, "area, ha", "share, %", "points")
    for entry, points in zip(estimate.classes, estimate.units_true, strict=True):
        cells = [entry.name]
        if mapped:
            cells.append(f"{mapped[entry.name]:,.{digits}f}")
        cells += [_format(entry.hectares, digits), _percent(entry.share), f"{points:,}"]
        table.add_row(*cells)
    table.title = f"region {estimate.region}" if estimate.region else None
    table.caption = f"overall accuracy {_percent(estimate.overall)} %; {counted(estimate.units, 'point')}"
    return table


def accuracy_table(estimate: Estimate) -> Table:
    """Return a table of user's and producer's accuracy, and of the points by class on the map and by true class."""
    table = _table("class", "user's, %", "producer's, %", "points mapped", "true")
    rows = zip(estimate.classes, estimate.units_mapped, estimate.units_true, strict=True)
    for entry, mapped, true in rows:
        table.add_row(entry.name, _percent(entry.user), _percent(entry.producer), f"{mapped:,}", f"{true:,}")
    return table


def confusion_table(estimate: Estimate) -> Table:
    """Return a table of shares of the area in percent, with classes on the map along rows and true ones in columns."""
    table = _table("mapped \\ true, %", *(entry.name for entry in estimate.classes), "sum")
    for entry, row in zip(estimate.classes, estimate.confusion, strict=True):
        shares = (*row, sum(row))
        table.add_row(entry.name, *(f"{100 * share:.2f}" for share in shares))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _format(value: Value, digits: int) -> str:
    return "-" if isnan(value.value) else f"{value.value:,.{digits}f} ± {value.margin:,.{digits}f}"


def _percent(value: Value) -> str:
    return _format(value.times(100), 1)


def show(console: Console, estimates: Sequence[Estimate], answers: Answers) -> None:
    """Print all estimates, followed by what a reader must know to judge them."""
    total = estimates[0]
    for each in estimates:
        console.print(area_table(each, answers.design))
    console.print(accuracy_table(total))
    if len(total.classes) <= MOST_SHOWN:
        console.print(confusion_table(total))
    for line in notes(estimates, answers):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def notes(estimates: Sequence[Estimate], answers: Answers) -> list[str]:
    """Return what a reader must know to judge the estimates, in lines."""
    total, *regions = estimates
    lines = [f"intervals of {total.level * 100:g} %", f"estimator: {SOURCES[answers.observed.corrected]}"]
    if regions:
        lines.append(
            "regions add up to the whole; where a region's area is known, its share times that is more precise"
        )
        outside = total.units - sum(region.units for region in regions)
        if outside:
            lines.append(f"{counted(outside, 'point lies', 'points lie')} in no region")
    certain = _without_spread(estimates)
    if certain:
        lines.append(f"± 0 where all points of a stratum agreed, which is no certainty: {', '.join(certain)}")
    if answers.dropped:
        counts = ", ".join(f"{count} of {name}" for name, count in answers.dropped.items())
        lines.append(
            f"left out without a reference: {counts}. This assumes that within a stratum they do not differ from the "
            "others."
        )
    return lines


def _without_spread(estimates: Sequence[Estimate]) -> list[str]:
    """Return the classes whose area has a standard error of 0, apart from rounding."""
    names = []
    for each in estimates:
        where = f" in {each.region}" if each.region else ""
        areas = [(entry.name, entry.hectares) for entry in each.classes]
        names += [f"{name}{where}" for name, area in areas if area.se <= ROUNDING * area.value]
    return names


def estimate_record(estimates: Sequence[Estimate], answers: Answers) -> dict[str, Any]:
    """Return all estimates and the design as values of JSON; numbers that do not exist are None."""
    record = {
        "estimator": SOURCES[answers.observed.corrected],
        "design": answers.design.model_dump(exclude={"units"}),
        "unanswered_dropped": answers.dropped,
        "estimates": [asdict(each) for each in estimates],
    }
    return json.loads(json.dumps(record), parse_constant=lambda _: None)


def write_estimates(out: Path, estimates: Sequence[Estimate], answers: Answers) -> list[Path]:
    """Write ``estimate.json``, ``areas.csv``, ``confusion.csv`` and ``areas.png`` into a folder."""
    record = estimate_record(estimates, answers)
    areas = []
    shares = []
    for each in estimates:
        for entry, row in zip(each.classes, each.confusion, strict=True):
            areas.append({"region": each.region, **asdict(entry)})
            true = {f"true_{other.name}": share for other, share in zip(each.classes, row, strict=True)}
            shares.append({"region": each.region, "mapped": entry.name, **true})
    texts = {
        "estimate.json": json.dumps(record, indent=1, ensure_ascii=False),
        "areas.csv": pandas.json_normalize(areas, sep="_").map(cell).to_csv(index=False),
        "confusion.csv": pandas.DataFrame(shares).map(cell).to_csv(index=False),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    draw_areas(out / "areas.png", estimates[0], answers.design)
    return [out / name for name in (*texts, "areas.png")]


def write_points(points: geopandas.GeoDataFrame, file: Path, suffix: str, layer: str) -> None:
    """Write points as a table or as a vector file.

    Args:
        points: Points with their columns.
        file: File to write.
        suffix: ``.csv`` for a table without geometries, anything else for GeoPackage.
        layer: Name of the layer in a GeoPackage.
    """
    if suffix == ".csv":
        points.drop(columns="geometry").map(cell).to_csv(file, index=False)
    else:
        points.to_file(file, layer=layer, driver="GPKG")


def cell(value: Any) -> Any:
    """Return a value that is safe in a CSV file: spreadsheets run text that begins like a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def draw_areas(path: Path, estimate: Estimate, design: Design) -> None:
    """Draw the estimated areas as bars with their intervals, and the mapped areas as marks."""
    from matplotlib.figure import Figure  # slow to import, and needed here only

    names = [printable(entry.name)[:LONGEST] for entry in estimate.classes]
    areas = [entry.hectares for entry in estimate.classes]
    values = [area.value for area in areas]
    below = [area.value - area.low for area in areas]
    above = [area.high - area.value for area in areas]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), dpi=140, layout="constrained")
    axis = figure.subplots()
    rows = range(len(names))
    axis.barh(rows, values, xerr=[below, above], color="#8fb4a4", ecolor="black", capsize=3, label="estimated")
    axis.plot([entry.hectares for entry in design.classes], rows, "d", color="#b3541e", label="counted on the map")
    axis.set_yticks(rows, names, parse_math=False)
    axis.invert_yaxis()
    axis.set(xlabel="hectares", xlim=(0, None), title=f"Areas with {estimate.level * 100:g} % intervals")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    with whole(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks is drawn as boxes
        figure.savefig(unfinished, format="png")
