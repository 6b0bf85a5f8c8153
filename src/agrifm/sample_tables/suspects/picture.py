"""A picture of suspect labels: the series of each beside those of the given and of the suggested class."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.dates import DateFormatter, MonthLocator
from matplotlib.figure import Figure

from agrifm.checks.ground import near_infrared_band
from agrifm.data.growing_season import date_of
from agrifm.errors import printable
from agrifm.figures import save_png
from agrifm.pixels.features import LEAST_SUM, index_bands
from agrifm.pixels.series import step_days
from agrifm.sample_tables.suspects.check import LabelCheck
from agrifm.sensors import Sensor

ROWS, COLUMNS = 3, 4
LONGEST = 34  # characters of a title
OWN, GIVEN, SUGGESTED = "#222222", "#cc6677", "#117733"


def save_suspects(check: LabelCheck, path: Path) -> None:
    """Draw the worst suspects, of which there is at least one, as PNG."""
    values, name = season_index(check)
    days = step_days(check.features.season.length, check.features.steps).numpy() + check.features.season.start
    dates = [date_of(day) for day in days]
    shown = min(len(check.suspects.unit), ROWS * COLUMNS)
    rows = ceil(shown / COLUMNS)
    figure = Figure(figsize=(14, 0.4 + 2.7 * rows), dpi=100, layout="constrained")
    figure.suptitle(f"{name} of the worst suspect labels", parse_math=False)
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axis in axes[shown:]:
        axis.set_visible(False)
    for number, axis in enumerate(axes[:shown]):
        unit = check.units[check.suspects.unit[number]]
        suggested = int(check.suspects.suggested[number])
        own = np.nanmean(values[unit.pixels], 0)
        given_class, suggested_class = check.classes[unit.given], check.classes[suggested]
        axis.plot(dates, _median(values, check, unit.given), color=GIVEN, label=_short(f"label: {given_class}"))
        axis.plot(
            dates, _median(values, check, suggested), color=SUGGESTED, label=_short(f"looks like: {suggested_class}")
        )
        axis.plot(dates, own, ".-", color=OWN, linewidth=1, markersize=4, label="its series")
        axis.set_title(_short(unit.name), fontsize=10, parse_math=False)
        legend = axis.legend(fontsize=7, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        axis.xaxis.set_major_locator(MonthLocator(interval=2))
        axis.xaxis.set_major_formatter(DateFormatter("%b"))
        axis.spines[["top", "right"]].set_visible(False)
        # Dates stand below the lowest axis of each column, which is not always in the last row.
        axis.tick_params(labelbottom=number + COLUMNS >= shown)
    save_png(figure, path)


def season_index(check: LabelCheck) -> tuple[np.ndarray, str]:
    """An index of every pixel at the dates of the season ``(n, s)``, and its name: NDVI, or the first band."""
    features = check.features
    for sensor in features.sensors:
        infrared = near_infrared_band(sensor)
        red = sensor.index("red")
        series = _series(check, sensor)
        if red is not None and infrared is not None:
            total = series[..., infrared] + series[..., red]
            return (series[..., infrared] - series[..., red]) / np.maximum(total, LEAST_SUM), "NDVI"
    sensor = features.sensors[0]
    return _series(check, sensor)[..., 0], f"{sensor.name} {printable(sensor.band_ids[0])}"


def _series(check: LabelCheck, sensor: Sensor) -> np.ndarray:
    """Reflectance of the bands of a sensor ``(n, s, c)``, which the features begin with."""
    bands = len(sensor.bands)
    channels = bands + (len(index_bands(sensor)) if check.features.indices else 0)
    steps = check.features.steps
    block = check.pixels.blocks[sensor.name]
    return block[:, : steps * channels].reshape(-1, steps, channels)[..., :bands]


def _median(values: np.ndarray, check: LabelCheck, number: int) -> np.ndarray:
    return np.nanmedian(values[check.pixels.classes == number], 0)


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."
