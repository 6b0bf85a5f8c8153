"""Settings that an error proposes for single dates: offsets, scales and dates to leave out."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence

from agrifm.scenes.scene import Frame, Layer, Scene

MAX_LISTED = 5  # neighboring dates that are listed; more become a range


def named_frames(frames: Sequence[Frame], layer: Layer, scene: Scene) -> list[tuple[str, Frame]]:
    """Return the shortest names that mean these frames and no others, each with the first of its frames.

    Neighboring dates become a range. A product is named where other products of its day are right.
    """
    other_days = {frame.day for frame in layer.frames if frame not in frames}
    named = [(frame.name, frame) for frame in frames if frame.day in other_days]
    first_of_day: dict[dt.date, Frame] = {}
    for frame in frames:
        if frame.day not in other_days:
            first_of_day.setdefault(frame.day, frame)
    prefix = f"{layer.sensor.name} " if _other_sensor_sees(frames, layer, scene) else ""
    for days in _runs(sorted(first_of_day), layer):
        first = first_of_day[days[0]]
        same_units = all(_same_units(first_of_day[day], first) for day in days)
        if len(days) > MAX_LISTED and same_units:
            named.append((f"{prefix}{days[0]}..{days[-1]}", first))
        else:
            named += [(f"{prefix}{day}", first_of_day[day]) for day in days]
    return named


def _same_units(one: Frame, other: Frame) -> bool:
    return (one.units.scale, one.units.offset) == (other.units.scale, other.units.offset)


def _other_sensor_sees(frames: Sequence[Frame], layer: Layer, scene: Scene) -> bool:
    """Whether another sensor has a frame on one of the days, so that a day alone would mean both."""
    days = {frame.day for frame in frames}
    return any(not days.isdisjoint(other.days) for other in scene.layers if other is not layer)


def _runs(days: Sequence[dt.date], layer: Layer) -> list[list[dt.date]]:
    """Group days that follow each other in the layer."""
    runs: list[list[dt.date]] = []
    for day in days:
        place = layer.days.index(day)
        follows = runs and place > 0 and layer.days[place - 1] == runs[-1][-1]
        if follows:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def skip_setting(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    """Return the advice to leave frames out, with the setting that does it."""
    names = [_quote(name) for name, _ in named_frames(frames, layer, scene)]
    return f"leave them out with --set skip_dates='[{', '.join(names)}]'"


def units_setting(frames: Sequence[Frame], layer: Layer, scene: Scene, **values: float) -> str:
    """Return the settings that give frames another ``scale`` or ``offset``; for a whole scene those of the source."""
    if len(scene.layers) == 1 and len(frames) == len(layer.frames):
        settings = [f"--set {key}={value:g}" for key, value in values.items()]
        return f"'{' '.join(settings)}'"
    names = [name for name, _ in named_frames(frames, layer, scene)]
    settings = []
    for key, value in values.items():
        settings.append(dates_setting(f"{key}s", dict.fromkeys(names, value)))
    return " ".join(settings)


def dates_setting(key: str, values: Mapping[str, float]) -> str:
    """Return the setting that gives ``offsets`` or ``scales`` to frames by name."""
    return f"--set {key}='{_yaml(values)}'"


def _yaml(values: Mapping[str, float]) -> str:
    entries = [f"{_quote(name)}: {_format_number(value)}" for name, value in values.items()]
    return "{" + ", ".join(entries) + "}"


def _quote(name: str) -> str:
    """Quote a name for YAML where that is needed; it stands within single quotes of a shell."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\- ]*", name):
        return name
    escaped = name.replace('"', '\\"')
    return f'"{escaped}"'


def _format_number(value: float) -> str:
    """Format a number so that YAML reads it as one; it would take 1e-05 for text."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if value else "0"
