"""Corrections of single dates by the user: offsets and scales, dates to leave out, units that are not checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agrifm.errors import InputError, nearest
from agrifm.scenes.description import Description
from agrifm.scenes.scene import Frame, Layer
from agrifm.sensors import Sensor

UNCHECKED = "not checked, on request"  # in the source of units that are not compared with the numbers
BY_USER = "given by the user"


def apply_corrections(
    layers: Sequence[Layer], description: Description, where: object
) -> tuple[list[Layer], list[str]]:
    """Apply what the description states about single dates.

    Returns:
        The corrected layers, and the frames that were left out.

    Raises:
        InputError: If the description names a date or product that the scene does not have.
    """
    for key in ("offsets", "scales", "skip_dates"):
        for name in getattr(description, key):
            _refuse_unknown_name(name, layers, f"{where}: {key}")
    corrected_layers = []
    skipped = []
    for layer in layers:
        frames = []
        for frame in layer.frames:
            if _most_exact(description.skip_dates, frame, layer.sensor) is None:
                frames.append(_correct(frame, layer.sensor, description))
            else:
                skipped.append(f"{layer.sensor.name} {frame.day}, {frame.name} (on request)")
        if frames:
            corrected_layers.append(replace(layer, frames=tuple(frames)))
    return corrected_layers, skipped


def _match_rank(name: str, frame: Frame, sensor: Sensor) -> int:
    """Rank how exactly a name means a frame; 0 if it does not.

    A frame may be named by its product, its day, or a range of days such as ``2022-01-25..2022-12-31``; days may
    follow the name of the sensor, as in ``S2 2023-05-01``.
    """
    if name == frame.name:
        return 5
    days = name.removeprefix(f"{sensor.name} ")
    names_sensor = int(days != name)
    if days == str(frame.day):
        return 3 + names_sensor
    first, _, last = days.partition("..")
    if last and first <= str(frame.day) <= last:
        return 1 + names_sensor
    return 0


def _most_exact(names: Iterable[str], frame: Frame, sensor: Sensor) -> str | None:
    """Return the most exact of the names that mean a frame, if there is one."""
    best = None
    best_rank = 0
    for name in names:
        rank = _match_rank(name, frame, sensor)
        # Of equally exact names the first one counts.
        if rank > best_rank:
            best = name
            best_rank = rank
    return best


def _correct(frame: Frame, sensor: Sensor, description: Description) -> Frame:
    units = frame.units
    offset_name = _most_exact(description.offsets, frame, sensor)
    if offset_name is not None:
        units = replace(units, offset=description.offsets[offset_name], source=BY_USER)
    scale_name = _most_exact(description.scales, frame, sensor)
    if scale_name is not None:
        units = replace(units, scale=description.scales[scale_name], source=BY_USER)
    if not description.check_units:
        units = replace(units, source=f"{units.source}; {UNCHECKED}")
    return replace(frame, units=units)


def _refuse_unknown_name(name: str, layers: Sequence[Layer], where: str) -> None:
    days = set()
    for layer in layers:
        for frame in layer.frames:
            if _match_rank(name, frame, layer.sensor):
                return
            days.add(str(frame.day))
    known = sorted(days)
    shown = ", ".join(known[:8])
    if len(known) > 8:
        shown += ", ..."
    raise InputError(
        where,
        found=f"'{name}', of which there is no image",
        expected=f"a date of the scene ({shown}), a range such as "
        "2022-01-25..2022-12-31, a sensor and a date such as 'S2 2023-05-01', or the name of a product",
        repair=nearest(name, known),
    )
