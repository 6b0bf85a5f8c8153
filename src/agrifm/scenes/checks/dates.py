"""Every date of a scene is held against the dates around it; the dates that contradict them are named.

Of each image a small window in the middle of the scene is read; where that is clouded, a coarse view of all of it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.checks.band_order import swapped, unequal_infrared
from agrifm.checks.series import Fault, Series, faults
from agrifm.errors import InputError, Unreadable
from agrifm.scenes.checks.pixels import FrameSample, coarse, middle
from agrifm.scenes.scene import READERS, Frame, Layer, MissingPixels, Scene
from agrifm.sensors import Sensor

LEAST = 100  # pixels of ground; below, a date is not judged
PIXELS = 4096  # of an image that are kept
MEMORY = 64 * 2**20  # bytes that all images of a sensor may take
DATES = 6  # that are named in the first line of an error
LISTED = 5  # neighboring dates that are listed in a setting; more become a range

TRUST = "If the numbers are right, '--set check_units=false' leaves this check out."
ENDS = {"offset": "dark ground near 0 on every date", "scale": "one scale for all dates", "order": "one order of bands"}


@dataclass(frozen=True)
class View:
    """Some pixels of an image, always the same places of the scene.

    Args:
        frame: The image.
        reflectance: ``(c, n)``, NaN where there are no data.
        clear: ``(n)``.
    """

    frame: Frame
    reflectance: np.ndarray
    clear: np.ndarray

    def look(self, sensor: Sensor) -> FrameSample:
        """Its clear pixels."""
        there = self.clear & np.isfinite(self.reflectance).all(0)
        return FrameSample(self.frame, sensor, self.reflectance[:, there].astype(np.float64))


@dataclass(frozen=True)
class DateSamples:
    """Views of the images of a sensor: in the middle of the scene, and of all of it where the middle is clouded."""

    near: dict[int, View]
    far: dict[int, View]

    @classmethod
    def of(cls, layer: Layer, scene: Scene, wanted: Sequence[int], *, skip: bool) -> DateSamples:
        """Read them.

        Args:
            layer: Whose images.
            scene: They belong to.
            wanted: Positions of the images.
            skip: Do without images that cannot be read.

        Raises:
            InputError: If a file cannot be read.
        """
        small, whole = middle(scene, layer.sensor), coarse(scene, layer.sensor)
        near = _read(layer, wanted, small, skip)
        lonely = [step for step in wanted if step not in near]
        if not lonely or small == whole:
            return cls(near, {})
        far = _read(layer, lonely, whole, skip)
        # Dates around them tell what is usual there.
        others = {one for step in far for one in _around(step, sorted(near))}
        return cls(near, far | _read(layer, sorted(others), whole, skip))

    def looks(self, steps: Sequence[int], sensor: Sensor) -> list[FrameSample]:
        """Clear pixels of some images: those seen in the middle, or else those seen from afar."""
        group = self.near if any(step in self.near for step in steps) else self.far
        return [group[step].look(sensor) for step in steps if step in group]

    def impossible(self, sensor: Sensor) -> dict[dt.date, float]:
        """Share of clear pixels that no land reflects, by day.

        Images without a quality layer are left out: clouds under a low sun reflect that much.
        """
        counts: dict[dt.date, np.ndarray] = {}
        for view in (self.far | self.near).values():
            if view.frame.quality is None:
                continue
            look = view.look(sensor)
            seen = np.array([look.impossible * look.size, look.size]) if look.size else np.zeros(2)
            counts[view.frame.day] = counts.get(view.frame.day, np.zeros(2)) + seen
        return {day: float(odd / size) for day, (odd, size) in counts.items() if size}


def _around(step: int, known: Sequence[int]) -> list[int]:
    return [one for one in known if one < step][-2:] + [one for one in known if one > step][:2]


def _read(layer: Layer, steps: Sequence[int], box: GeoBox, skip: bool) -> dict[int, View]:
    """Views of the images that show some clear ground in a box."""
    bands = len(layer.sensor.bands)
    most = min(PIXELS, max(256, MEMORY // (4 * bands * max(1, len(steps)))))
    stride = max(1, int(np.ceil(np.sqrt(box.shape[0] * box.shape[1] / most))))
    with ThreadPoolExecutor(READERS) as pool:
        views = pool.map(lambda step: _view(layer.frames[step], layer.sensor, box, stride, skip), steps)
        return {step: view for step, view in zip(steps, views, strict=True) if view is not None}


def _view(frame: Frame, sensor: Sensor, box: GeoBox, stride: int, skip: bool) -> View | None:
    try:
        clear = np.ones(box.shape, bool) if frame.quality is None else frame.quality.clear(box)
        clear = clear[::stride, ::stride].ravel()
        if not clear.any():
            return None
        absent, stored = MissingPixels(sensor, box), []
        for band in sensor.band_ids:
            pixels = frame.bands[band].read(box)
            absent.add(pixels)
            stored.append(pixels.filled(0)[::stride, ::stride].ravel().astype(np.float32))
    except Unreadable:
        if skip:
            return None
        raise
    there = absent.there()[::stride, ::stride].ravel()
    reflectance = np.stack(stored) * np.float32(frame.units.scale) + np.float32(frame.units.offset)
    reflectance[:, ~there] = np.nan
    return View(frame, reflectance, clear) if (clear & there).any() else None


def refuse_odd_dates(layer: Layer, scene: Scene, views: DateSamples) -> dict[int, str]:
    """What is to be noted of single images.

    Raises:
        InputError: If some dates surely contradict the others; it names them all.
    """
    notes: dict[int, str] = {}
    for group, known in ((views.near, views.near), (views.far, set(views.far) - set(views.near))):
        steps = sorted(group, key=lambda step: (group[step].frame.day, step))
        if not steps:
            continue
        _refuse_empty(group, steps, layer, scene)
        series = _series(group, steps, layer.sensor)
        found = [fault for fault in faults(series) if steps[fault.step] in known]
        sure = [fault for fault in found if fault.sure]
        if sure:
            alike = {steps[fault.step] for fault in sure if _kind(fault) == _kind(sure[0])}
            whole = sorted(alike | _between(alike, {steps[step] for step in series.judged}, layer))
            raise _refusal(sure[0], [layer.frames[step] for step in whole], layer, scene)
        _refuse_odd_order(group, steps, layer, scene)
        for fault in found:
            side = f"{abs(fault.amount):g} {_side(fault)} that of the dates around"
            notes[steps[fault.step]] = f"reflectance lies {side}: haze, or a wrong offset"
    return notes


def _kind(fault: Fault) -> tuple:
    return fault.kind, fault.amount, fault.bands


def _between(faulty: set[int], judged: set[int], layer: Layer) -> set[int]:
    """Images that clouds hide from the check, between faulty ones: what is wrong before and after is wrong there."""
    order = sorted(range(len(layer.frames)), key=lambda step: (layer.frames[step].day, step))
    places = [i for i, step in enumerate(order) if step in judged]
    found: set[int] = set()
    for one, other in pairwise(places):
        if {order[one], order[other]} <= faulty:
            found |= set(order[one + 1 : other])
    return found


def _series(group: Mapping[int, View], steps: Sequence[int], sensor: Sensor) -> Series:
    views = [group[step] for step in steps]
    orbits = [re.search(r"_R(\d{3})_", view.frame.name) for view in views]
    return Series(
        sensor,
        np.stack([view.reflectance for view in views]),
        np.stack([view.clear for view in views]),
        np.array([view.frame.quality is not None for view in views]),
        LEAST,
        [match[1] if match else "" for match in orbits],
    )


def _refuse_empty(group: Mapping[int, View], steps: Sequence[int], layer: Layer, scene: Scene) -> None:
    """Images of one value, or with one image in two bands; where most are so, the scene as a whole is refused."""
    looks = {step: group[step].look(layer.sensor) for step in steps}
    for problem, words in ((_constant, "one value everywhere in every band"), (_twins, "the same values in two bands")):
        odd = [step for step, look in looks.items() if look.size >= LEAST and problem(look)]
        if not odd or len(odd) > len(steps) / 2:
            continue
        frames = [layer.frames[step] for step in odd]
        twins = looks[odd[0]].twins()
        raise InputError(
            _where(frames, layer, scene),
            found=words if twins is None else f"the same values in {twins[0]} and {twins[1]}",
            expected="images whose bands and pixels differ",
            repair=f"get the files of {_dates(frames)} again, or {_without(frames, layer, scene)}.",
        )


def _constant(look: FrameSample) -> bool:
    return look.constant()


def _twins(look: FrameSample) -> bool:
    return look.twins() is not None


def _refuse_odd_order(group: Mapping[int, View], steps: Sequence[int], layer: Layer, scene: Scene) -> None:
    """Dates on which bands stand in an order that land never shows, while other dates are right."""
    odd, judged = {}, 0
    for step in steps:
        look = group[step].look(layer.sensor)
        land = look.land()
        if land.shape[1] < max(LEAST, look.size / 2):
            continue
        judged += 1
        middle_of, spread = np.median(land, axis=1), np.zeros(len(land))
        pair = swapped(layer.sensor, middle_of, spread, slack=0.6) or unequal_infrared(layer.sensor, middle_of)
        if pair:
            odd[step] = pair, middle_of
    if not odd or len(odd) > judged / 2:
        return
    frames = [layer.frames[step] for step in odd]
    (one, other), values = next(iter(odd.values()))
    ids = layer.sensor.band_ids
    raise InputError(
        _where(frames, layer, scene),
        found=f"a median reflectance of {values[ids.index(one)]:.2f} in {one} and {values[ids.index(other)]:.2f} in "
        f"{other}, which land never shows; the other dates are right",
        expected=f"bands in the order {', '.join(ids)}",
        repair=f"{_exchange(frames, layer, scene)} {TRUST}",
    )


def _refusal(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> InputError:
    units = frames[0].units
    make: Callable[..., tuple[str, str]] = {"offset": _offset, "scale": _scale, "order": _order}[fault.kind]
    found, repair = make(fault, frames, layer, scene)
    return InputError(
        _where(frames, layer, scene),
        found=found,
        expected=f"{ENDS[fault.kind]} (scale {units.scale:g}, offset {units.offset:g}: {units.source})",
        repair=f"{repair} {TRUST}",
    )


def _side(fault: Fault) -> str:
    return "above" if fault.amount > 0 else "below"


def _offset(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    found = (
        f"reflectance lies {abs(fault.amount):g} {_side(fault)} that of the dates around in every band: "
        f"the darkest ground is at {fault.seen:.2f}, around at {fault.others:.2f}"
    )
    offsets = {name: round(frame.units.offset - fault.amount, 6) for name, frame in named(frames, layer, scene)}
    return found, f"add --set offsets='{_yaml(offsets)}', or {_without(frames, layer, scene)}."


def _scale(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    times = f"{fault.amount:g} times larger" if fault.amount > 1 else f"{1 / fault.amount:g} times smaller"
    found = (
        f"reflectance is about {times} than on the dates around in every band: {fault.seen:.4g} in the brightest, "
        f"around {fault.others:.2f}"
    )
    scales = {name: float(f"{frame.units.scale / fault.amount:.6g}") for name, frame in named(frames, layer, scene)}
    return found, f"add --set scales='{_yaml(scales)}', or {_without(frames, layer, scene)}."


def _order(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    assert fault.bands is not None
    one, other = fault.bands
    found = (
        f"{one} and {other} seem exchanged: {one} is at {fault.seen:.2f}, on the dates around at {fault.others:.2f}, "
        "and all other bands are as on those"
    )
    return found, _exchange(frames, layer, scene)


def _exchange(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    return (
        f"put the bands of {_dates(frames)} in order (exchange the names of the files), or "
        f"{_without(frames, layer, scene)}."
    )


def _where(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    return f"{scene.name}: {layer.sensor.name}, {_dates(frames)}"


def _dates(frames: Sequence[Frame]) -> str:
    days = sorted({frame.day for frame in frames})
    more = f" and {len(days) - DATES} more dates" if len(days) > DATES else ""
    return ", ".join(map(str, days[:DATES])) + more


def named(frames: Sequence[Frame], layer: Layer, scene: Scene) -> list[tuple[str, Frame]]:
    """The shortest names that mean these images and no others, each with the first of its images.

    Neighboring dates become a range. A product is named where other products of its day are right.
    """
    others = {frame.day for frame in layer.frames if frame not in frames}
    shared = any(_sees(other, frame.day) for other in scene.layers if other is not layer for frame in frames)
    prefix = f"{layer.sensor.name} " if shared else ""
    found = [(frame.name, frame) for frame in frames if frame.day in others]
    whole = {frame.day: frame for frame in reversed(frames) if frame.day not in others}
    for days in _runs(sorted(whole), layer):
        ends = f"{days[0]}..{days[-1]}" if len(days) > LISTED else None
        alike = len({whole[day].units.offset for day in days} | {whole[day].units.scale for day in days}) == 2
        if ends and alike:
            found.append((prefix + ends, whole[days[0]]))
        else:
            found += [(f"{prefix}{day}", whole[day]) for day in days]
    return found


def _runs(days: Sequence[dt.date], layer: Layer) -> list[list[dt.date]]:
    """Days that follow each other in the layer, together."""
    runs: list[list[dt.date]] = []
    for day in days:
        place = layer.days.index(day)
        if runs and place and layer.days[place - 1] == runs[-1][-1]:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def _sees(layer: Layer, day: dt.date) -> bool:
    return any(frame.day == day for frame in layer.frames)


def _without(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    names = [name for name, _ in named(frames, layer, scene)]
    return f"leave them out with --set skip_dates='[{', '.join(map(_quoted, names))}]'"


def settings(frames: Sequence[Frame], layer: Layer, scene: Scene, **values: float) -> str:
    """The options that give images another ``scale`` or ``offset``; for all of a scene the plain ones."""
    if len(scene.layers) == 1 and len(frames) == len(layer.frames):
        return "'" + " ".join(f"--set {key}={value:g}" for key, value in values.items()) + "'"
    names = [name for name, _ in named(frames, layer, scene)]
    return " ".join(f"--set {key}s='{_yaml(dict.fromkeys(names, value))}'" for key, value in values.items())


def _yaml(values: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {_number(value)}" for name, value in values.items()) + "}"


def _quoted(name: str) -> str:
    """The name as YAML reads it back; within single quotes of a shell."""
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\- ]*", name) else '"' + name.replace('"', '\\"') + '"'


def _number(value: float) -> str:
    """A number that YAML takes for one: 1e-05 it would take for text."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if value else "0"
