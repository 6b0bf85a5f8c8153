"""Designs and estimates for people: tables on the screen, JSON, CSV and a picture."""

from __future__ import annotations

import json
import warnings
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
from agrifm.io import whole, write_whole
from agrifm.statistics.design import Design
from agrifm.statistics.estimates import Estimate, Value
from agrifm.statistics.interpretation import Answers

MOST_SHOWN = 8  # classes of a confusion matrix on the screen
LONGEST = 60  # characters of a name in the picture
FORMULA = ("=", "+", "-", "@")
SOURCES = {
    False: "Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: the strata are the classes of the map",
    True: "Stehman 2014, International Journal of Remote Sensing 35, 4923-4939: the strata are not the map's classes",
}


def design_table(design: Design) -> Table:
    """Strata with their sizes and the pixels drawn from each."""
    table = _table("stratum", "pixels", "hectares", "share, %", "drawn", "probability")
    total = sum(part.pixels for part in design.strata)
    for part in design.strata:
        cells = f"{part.pixels:,}", f"{part.hectares:,.1f}", f"{100 * part.pixels / total:.2f}", f"{part.drawn:,}"
        table.add_row(part.name, *cells, f"{part.inclusion_probability:.2g}")
    table.add_section()
    hectares = sum(part.hectares for part in design.strata)
    table.add_row("all", f"{total:,}", f"{hectares:,.1f}", "", f"{len(design.units):,}", "")
    return table


def area_table(estimate: Estimate, design: Design) -> Table:
    """Areas and shares of the classes with the half widths of their intervals; beside them what the map shows."""
    known = {} if estimate.region else {entry.name: entry.hectares for entry in design.classes}
    digits = 0 if sum(entry.hectares.value for entry in estimate.classes) >= 1000 else 1
    table = _table("class", *(("map, ha",) if known else ()), "area, ha", "share, %", "points")
    for entry, points in zip(estimate.classes, estimate.units_true, strict=True):
        mapped = (f"{known[entry.name]:,.{digits}f}",) if known else ()
        share = _shown(entry.share.times(100), 1)
        table.add_row(entry.name, *mapped, _shown(entry.hectares, digits), share, f"{points:,}")
    table.title = f"region {estimate.region}" if estimate.region else None
    overall = _shown(estimate.overall.times(100), 1)
    table.caption = f"overall accuracy {overall} %; {estimate.units:,} points"
    return table


def accuracy_table(estimate: Estimate) -> Table:
    """User's and producer's accuracy of the classes, and how many points were mapped and found as them."""
    table = _table("class", "user's, %", "producer's, %", "points mapped", "true")
    for entry, *counts in zip(estimate.classes, estimate.units_mapped, estimate.units_true, strict=True):
        accuracies = (_shown(value.times(100), 1) for value in (entry.user, entry.producer))
        table.add_row(entry.name, *accuracies, *(f"{count:,}" for count in counts))
    return table


def confusion_table(estimate: Estimate) -> Table:
    """Shares of the area in percent: what was mapped along rows, what it is along columns."""
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
    """Print everything, and what the reader must know to judge it."""
    whole, *parts = estimates
    for each in estimates:
        console.print(area_table(each, answers.design))
    console.print(accuracy_table(whole))
    if len(whole.classes) <= MOST_SHOWN:
        console.print(confusion_table(whole))
    lines = [f"intervals of {whole.level * 100:g} %", f"estimator: {SOURCES[answers.observed.corrected]}"]
    if parts:
        lines.append(
            "regions add up to the whole; where a region's area is known, its share times that is more precise"
        )
    if parts and (lost := whole.units - sum(part.units for part in parts)):
        lines.append(f"{lost:,} points lie in no region")
    if empty := _certain(estimates):
        lines.append(f"± 0 where all points of a stratum agreed, which is no certainty: {', '.join(empty)}")
    if answers.dropped:
        counts = ", ".join(f"{count} of {name}" for name, count in answers.dropped.items())
        lines.append(
            f"left out without a reference: {counts}. This assumes that within a stratum they do not differ from the "
            "others."
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _certain(estimates: Sequence[Estimate]) -> list[str]:
    return [
        f"{entry.name}{f' in {each.region}' if each.region else ''}"
        for each in estimates
        for entry in each.classes
        if entry.hectares.se == 0
    ]


def write_estimates(out: Path, estimates: Sequence[Estimate], answers: Answers) -> list[Path]:
    """Write ``estimate.json``, ``areas.csv``, ``confusion.csv`` and ``areas.png`` into a folder."""
    record = {
        "estimator": SOURCES[answers.observed.corrected],
        "design": answers.design.model_dump(exclude={"units"}),
        "unanswered_dropped": answers.dropped,
        "estimates": [asdict(each) for each in estimates],
    }
    plain = json.loads(json.dumps(record), parse_constant=lambda _: None)  # what does not exist is null
    areas = [{"region": each.region, **asdict(entry)} for each in estimates for entry in each.classes]
    shares = [
        {"region": each.region, "mapped": entry.name}
        | {f"true_{c.name}": x for c, x in zip(each.classes, row, strict=True)}
        for each in estimates
        for entry, row in zip(each.classes, each.confusion, strict=True)
    ]
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
    """A value as a CSV file may hold it: spreadsheets run text as a formula that begins like one."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def draw_areas(path: Path, estimate: Estimate, design: Design) -> None:
    """Bars of estimated areas with their intervals, and what the map shows as marks."""
    from matplotlib.figure import Figure

    names = [printable(entry.name)[:LONGEST] for entry in estimate.classes]
    areas = [entry.hectares for entry in estimate.classes]
    values = [area.value for area in areas]
    errors = [[a.value - a.low for a in areas], [a.high - a.value for a in areas]]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), dpi=140, layout="constrained")
    axis = figure.subplots()
    rows = range(len(names))
    axis.barh(rows, values, xerr=errors, color="#8fb4a4", ecolor="black", capsize=3, label="estimated")
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
