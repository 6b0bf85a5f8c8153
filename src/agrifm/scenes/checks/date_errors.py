"""What is said about dates whose numbers contradict those of the other dates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agrifm.checks.date_faults import Fault
from agrifm.errors import InputError, counted
from agrifm.scenes.checks.date_settings import dates_setting, named_frames, skip_setting
from agrifm.scenes.scene import Frame, Layer, Scene

MAX_DATES = 6  # that are named in the first line of an error
TRUST = "If the numbers are right, '--set check_units=false' leaves this check out."
EXPECTED = {
    "offset": "dark ground near 0 on every date",
    "scale": "one scale for all dates",
    "order": "one order of bands",
}


def contradiction(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> InputError:
    """Return the error for frames that share a fault."""
    describe = {"offset": _describe_offset, "scale": _describe_scale, "order": _describe_order}[fault.kind]
    found, repair = describe(fault, frames, layer, scene)
    return InputError(
        where_of(frames, layer, scene),
        found=found,
        expected=f"{EXPECTED[fault.kind]} ({frames[0].units})",
        repair=f"{repair} {TRUST}",
    )


def _describe_offset(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    found = (
        f"reflectance lies {abs(fault.amount):g} {side_of(fault)} that of the dates around in every band: "
        f"the darkest ground is at {fault.observed:.2f}, around at {fault.usual:.2f}"
    )
    offsets = {}
    for name, frame in named_frames(frames, layer, scene):
        offsets[name] = round(frame.units.offset - fault.amount, 6)
    return found, f"add {dates_setting('offsets', offsets)}, or {skip_setting(frames, layer, scene)}."


def _describe_scale(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    factor = f"{fault.amount:g} times larger" if fault.amount > 1 else f"{1 / fault.amount:g} times smaller"
    found = (
        f"reflectance is about {factor} than on the dates around in every band: {fault.observed:.4g} in the brightest, "
        f"around {fault.usual:.2f}"
    )
    scales = {}
    for name, frame in named_frames(frames, layer, scene):
        scales[name] = float(f"{frame.units.scale / fault.amount:.6g}")
    return found, f"add {dates_setting('scales', scales)}, or {skip_setting(frames, layer, scene)}."


def _describe_order(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    assert fault.bands is not None
    one, other = fault.bands
    found = (
        f"{one} and {other} seem exchanged: {one} is at {fault.observed:.2f}, on the dates around at "
        f"{fault.usual:.2f}, and all other bands are as on those"
    )
    return found, exchange_bands(frames, layer, scene)


def exchange_bands(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    """Return the advice for bands that are exchanged."""
    return (
        f"put the bands of {format_days(frames)} in order (exchange the names of the files), or "
        f"{skip_setting(frames, layer, scene)}."
    )


def side_of(fault: Fault) -> str:
    """On which side of the other dates a date lies."""
    return "above" if fault.amount > 0 else "below"


def where_of(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    """Scene, sensor and dates, for errors."""
    return f"{scene.name}: {layer.sensor.name}, {format_days(frames)}"


def format_days(frames: Iterable[Frame]) -> str:
    """The first few days of frames, for errors."""
    days = sorted({frame.day for frame in frames})
    text = ", ".join(map(str, days[:MAX_DATES]))
    if len(days) > MAX_DATES:
        text += f" and {counted(len(days) - MAX_DATES, 'more date')}"
    return text
