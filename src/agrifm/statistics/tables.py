"""Designs and estimates as tables on the screen, JSON, CSV and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import pandas
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agrifm.errors import printable
from agrifm.figures import save_png
from agrifm.io import write_whole
from agrifm.statistics.design import Design
from agrifm.statistics.estimates import Estimate, Value
from agrifm.statistics.interpretation import Answers

MOST_SHOWN = 8  # classes of a confusion matrix on the screen
LONGEST = 60  # characters of a class name in the picture
FORMULA = ("=", "+", "-", "@")
SOURCES = {
    False: "Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: the strata are the classes of the map",
    True: "Stehman 2014, International Journal of Remote Sensing 35, 4923-4939: the strata are not the map's classes",
}


def design_table(design: Design) -> Table:
    """Table of strata with their sizes and the number of pixels drawn from each."""
    table = _table("stratum", "pixels", "hectares", "share, %", "drawn", "probability")
    total = sum(part.pixels for part in design.strata)
    for part in design.strata:
        table.add_row(
            part.name,
            f"{part.pixels:,}",
            f"{part.hectares:,.1f}",
            f"{100 * part.pixels / total:.2f}",
            f"{part.drawn:,}",
            f"{part.inclusion_probability:.2g}",
        )
    table.add_section()
    hectares = sum(part.hectares for part in design.strata)
    table.add_row("all", f"{total:,}", f"{hectares:,.1f}", "", f"{len(design.units):,}", "")
    return table


def area_table(estimate: Estimate, design: Design) -> Table:
    """Table of areas and shares of the classes with the half widths of their intervals, beside the areas on the map."""
    total = sum(entry.hectares.value for entry in estimate.classes)
    digits = 0 if total >= 1000 else 1
    # The design knows the areas on the map of the whole population only.
    on_map = {} if estimate.region else {entry.name: entry.hectares for entry in design.classes}
    headings = ["area, ha", "share, %", "points"]
    if on_map:
        headings.insert(0, "map, ha")
    table = _table("class", *headings)
    for entry, points in zip(estimate.classes, estimate.units_true, strict=True):
        cells = [_shown(entry.hectares, digits), _shown(entry.share.times(100), 1), f"{points:,}"]
        if on_map:
            cells.insert(0, f"{on_map[entry.name]:,.{digits}f}")
        table.add_row(entry.name, *cells)
    if estimate.region:
        table.title = f"region {estimate.region}"
    overall = _shown(estimate.overall.times(100), 1)
    table.caption = f"overall accuracy {overall} %; {estimate.units:,} points"
    return table


def accuracy_table(estimate: Estimate) -> Table:
    """Table of user's and producer's accuracy of the classes, with their numbers of points."""
    table = _table("class", "user's, %", "producer's, %", "points mapped", "true")
    for entry, mapped, true in zip(estimate.classes, estimate.units_mapped, estimate.units_true, strict=True):
        user = _shown(entry.user.times(100), 1)
        producer = _shown(entry.producer.times(100), 1)
        table.add_row(entry.name, user, producer, f"{mapped:,}", f"{true:,}")
    return table


def confusion_table(estimate: Estimate) -> Table:
    """Table of shares of the area in percent, with mapped classes in rows and true classes in columns."""
    table = _table("mapped \\ true, %", *(entry.name for entry in estimate.classes), "sum")
    for entry, row in zip(estimate.classes, estimate.confusion, strict=True):
        table.add_row(entry.name, *(f"{100 * share:.2f}" for share in (*row, sum(row))))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _shown(value: Value, digits: int) -> str:
    return "-" if isnan(value.value) else f"{value.value:,.{digits}f} ± {value.margin:,.{digits}f}"


def show(console: Console, estimates: Sequence[Estimate], answers: Answers) -> None:
    """Print all tables, and the assumptions behind them."""
    whole = estimates[0]
    for each in estimates:
        console.print(area_table(each, answers.design))
    console.print(accuracy_table(whole))
    if len(whole.classes) <= MOST_SHOWN:
        console.print(confusion_table(whole))
    for line in _notes(estimates, answers):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _notes(estimates: Sequence[Estimate], answers: Answers) -> list[str]:
    """Assumptions and limits that a reader must know."""
    whole = estimates[0]
    regions = estimates[1:]
    lines = [f"intervals of {whole.level * 100:g} %", f"estimator: {SOURCES[answers.observed.corrected]}"]
    if regions:
        lines.append(
            "regions add up to the whole; where a region's area is known, its share times that is more precise"
        )
        outside = whole.units - sum(region.units for region in regions)
        if outside:
            lines.append(f"{outside:,} points lie in no region")
    without_error = _without_error(estimates)
    if without_error:
        lines.append(f"± 0 where all points of a stratum agreed, which is no certainty: {', '.join(without_error)}")
    if answers.dropped:
        counts = ", ".join(f"{count} of {name}" for name, count in answers.dropped.items())
        lines.append(
            f"left out without a reference: {counts}. This assumes that within a stratum they do not differ from the "
            "others."
        )
    return lines


def _without_error(estimates: Sequence[Estimate]) -> list[str]:
    """Classes whose estimated standard error is 0."""
    names = []
    for each in estimates:
        suffix = f" in {each.region}" if each.region else ""
        for entry in each.classes:
            if entry.hectares.se == 0:
                names.append(f"{entry.name}{suffix}")
    return names


def write_estimates(out: Path, estimates: Sequence[Estimate], answers: Answers) -> list[Path]:
    """Write ``estimate.json``, ``areas.csv``, ``confusion.csv`` and ``areas.png`` into a folder."""
    record = {
        "estimator": SOURCES[answers.observed.corrected],
        "design": answers.design.model_dump(exclude={"units"}),
        "unanswered_dropped": answers.dropped,
        "estimates": [asdict(each) for each in estimates],
    }
    plain = json.loads(json.dumps(record), parse_constant=lambda _: None)  # NaN becomes null
    areas = []
    shares = []
    for each in estimates:
        for entry, row in zip(each.classes, each.confusion, strict=True):
            areas.append({"region": each.region, **asdict(entry)})
            shares_of_row = {f"true_{true.name}": share for true, share in zip(each.classes, row, strict=True)}
            shares.append({"region": each.region, "mapped": entry.name, **shares_of_row})
    texts = {
        "estimate.json": json.dumps(plain, indent=1, ensure_ascii=False),
        "areas.csv": pandas.json_normalize(areas, sep="_").map(cell).to_csv(index=False),
        "confusion.csv": pandas.DataFrame(shares).map(cell).to_csv(index=False),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    draw_areas(out / "areas.png", estimates[0], answers.design)
    return [out / name for name in (*texts, "areas.png")]


def cell(value: Any) -> Any:
    """Make a value safe for CSV: spreadsheets run text that begins like a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def draw_areas(path: Path, estimate: Estimate, design: Design) -> None:
    """Draw estimated areas as bars with their intervals, and the areas on the map as marks."""
    from matplotlib.figure import Figure

    names = [printable(entry.name)[:LONGEST] for entry in estimate.classes]
    areas = [entry.hectares for entry in estimate.classes]
    values = [area.value for area in areas]
    errors_below = [area.value - area.low for area in areas]
    errors_above = [area.high - area.value for area in areas]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), dpi=140, layout="constrained")
    axis = figure.subplots()
    rows = range(len(names))
    axis.barh(
        rows, values, xerr=[errors_below, errors_above], color="#8fb4a4", ecolor="black", capsize=3, label="estimated"
    )
    axis.plot([entry.hectares for entry in design.classes], rows, "d", color="#b3541e", label="counted on the map")
    axis.set_yticks(rows, names, parse_math=False)
    axis.invert_yaxis()
    axis.set(xlabel="hectares", xlim=(0, None), title=f"Areas with {estimate.level * 100:g} % intervals")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_png(figure, path)
