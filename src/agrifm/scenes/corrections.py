"""What a user says of single dates: offsets and scales of their own, dates to leave out, numbers to trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agrifm.errors import InputError, nearest
from agrifm.scenes.scene import Frame, Layer

if TYPE_CHECKING:
    from agrifm.scenes.description import Description

UNCHECKED = "not checked, on request"  # in the source of units whose numbers are not held against them
BY_USER = "given by the user"


def corrected(layers: Sequence[Layer], description: Description, where: object) -> tuple[list[Layer], list[str]]:
    """The layers with what the description says of single dates, and what it leaves out.

    Raises:
        InputError: If the description names a date or product that the scene does not have.
    """
    for key in ("offsets", "scales", "skip_dates"):
        for name in getattr(description, key):
            _refuse_unknown(name, key, layers, where)
    kept, skipped = [], []
    for layer in layers:
        frames = []
        for frame in layer.frames:
            if _given(description.skip_dates, frame, layer) is None:
                frames.append(_corrected(frame, layer, description))
            else:
                skipped.append(f"{layer.sensor.name} {frame.day}, {frame.name} (on request)")
        kept += [replace(layer, frames=tuple(frames))] if frames else []
    return kept, skipped


def rank(name: str, frame: Frame, sensor: str) -> int:
    """How exactly a name means an image; 0 if it does not.

    An image may be named by its product, its day, or a range of days such as ``2022-01-25..2022-12-31``; days may
    follow the name of the sensor, as in ``S2 2023-05-01``.
    """
    if name == frame.name:
        return 5
    days, own = name.removeprefix(f"{sensor} "), name.startswith(f"{sensor} ")
    first, _, last = days.partition("..")
    if days == str(frame.day):
        return 3 + own
    return 1 + own if last and first <= str(frame.day) <= last else 0


def _given(names: Sequence[str] | Mapping[str, float], frame: Frame, layer: Layer) -> str | None:
    """The most exact of the given names that means an image."""
    best = max(names, key=lambda name: rank(name, frame, layer.sensor.name), default=None)
    return best if best is not None and rank(best, frame, layer.sensor.name) else None


def _corrected(frame: Frame, layer: Layer, description: Description) -> Frame:
    units = frame.units
    offset, scale = _given(description.offsets, frame, layer), _given(description.scales, frame, layer)
    if offset is not None:
        units = replace(units, offset=description.offsets[offset], source=BY_USER)
    if scale is not None:
        units = replace(units, scale=description.scales[scale], source=BY_USER)
    if not description.check_units:
        units = replace(units, source=f"{units.source}; {UNCHECKED}")
    return replace(frame, units=units)


def _refuse_unknown(name: str, key: str, layers: Sequence[Layer], where: object) -> None:
    if any(rank(name, frame, layer.sensor.name) for layer in layers for frame in layer.frames):
        return
    days = sorted({str(frame.day) for layer in layers for frame in layer.frames})
    raise InputError(
        f"{where}: {key}",
        found=f"'{name}', of which there is no image",
        expected=f"a date of the scene ({', '.join(days[:8])}{', ...' * (len(days) > 8)}), a range such as "
        "2022-01-25..2022-12-31, a sensor and a date such as 'S2 2023-05-01', or the name of a product",
        repair=nearest(name, days),
    )
