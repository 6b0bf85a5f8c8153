"""Check the units of a scene: whether stored numbers agree with their scale and offset.

Sources: Sentinel-2 Products Specification Document 14.9 and the notice on processing baseline 04.00 (ESA, January
2022), Landsat 8-9 Collection 2 Level 2 Product Guide (USGS), HLS User Guide v2.0, MOD09 User's Guide v1.4 (NASA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from agrifm.checks.band_order import unequal_infrared
from agrifm.checks.chips import Survey, evenly, look_at_bands
from agrifm.errors import InputError
from agrifm.scenes.checks.dates import LEAST, DateSamples, refuse_odd_dates, settings
from agrifm.scenes.checks.pixels import FEW, FrameSample, refuse_impossible
from agrifm.scenes.corrections import UNCHECKED
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.scenes.units import HLS, LANDSAT_C2, SHIFT, SHIFTED_FROM, Units
from agrifm.sensors import S2, Sensor

FRAMES = 6  # per sensor, judged together

Option = Callable[..., str]  # the words that set scale and offset of the images that are judged


def check_units(scene: Scene, *, skip_unreadable: bool = False) -> Scene:
    """Hold the units of every image against its numbers; the source of the units then says what came of it.

    Every date is compared with the dates around it, then all images with the same units are judged together.

    Args:
        scene: As it was opened.
        skip_unreadable: Do not judge images that cannot be read.

    Raises:
        InputError: If the numbers contradict their units, or bands look swapped, doubled or empty of content.
    """
    return replace(scene, layers=tuple(_checked(layer, scene, skip_unreadable) for layer in scene.layers))


def _checked(layer: Layer, scene: Scene, skip: bool) -> Layer:
    wanted = [step for step, frame in enumerate(layer.frames) if UNCHECKED not in frame.units.source]
    views = DateSamples.of(layer, scene, wanted, skip=skip)
    odd = refuse_odd_dates(layer, scene, views)
    groups: dict[tuple, list[int]] = {}
    for step in wanted:
        groups.setdefault(_shared(layer.frames[step], layer.sensor), []).append(step)
    notes: dict[int, str] = {}
    for steps in groups.values():
        looks = views.looks(steps, layer.sensor)
        looks = [looks[i] for i in evenly(len(looks), max(1, FRAMES // len(groups)))]
        own = [layer.frames[step] for step in steps]
        notes |= dict.fromkeys(steps, _judge(looks, scene, partial(settings, own, layer, scene)))
    refuse_impossible(scene, layer.sensor, views.impossible(layer.sensor))
    frames = [_noted(frame, (notes | odd).get(step, "")) for step, frame in enumerate(layer.frames)]
    return replace(layer, frames=tuple(frames))


def _shared(frame: Frame, sensor: Sensor) -> tuple:
    """What frames have in common that are judged together."""
    return frame.units.scale, frame.units.offset, sensor.name == S2.name and frame.day >= SHIFTED_FROM


def _noted(frame: Frame, note: str) -> Frame:
    if note in frame.units.source:
        return frame
    return replace(frame, units=replace(frame.units, source=f"{frame.units.source}; {note}"))


def _judge(looks: Sequence[FrameSample], scene: Scene, option: Option) -> str:
    """What the values say of the units of frames that share them."""
    if sum(look.size for look in looks) < FEW:
        return "too few clear pixels to check it"
    where = f"{scene.name}: {looks[0].sensor.name}, {looks[0].frame.name}"
    where += f" and {len(looks) - 1} more" if len(looks) > 1 else ""
    for problem in (
        _content(looks, where),
        _factor(looks, where, option),
        _landsat(looks, where, option),
        _offset(looks, where, option),
    ):
        if problem:
            raise problem
    _order(looks, where)
    if any(look.size >= LEAST and look.darkest() < 0.09 for look in looks):
        return "values agree"
    return "values neither confirm nor contradict it, as no dark ground was seen"


def _most(answers: Iterator[bool]) -> bool:
    given = list(answers)
    return bool(given) and sum(given) > len(given) / 2


def _content(looks: Sequence[FrameSample], where: str) -> InputError | None:
    twins = looks[0].twins()
    if _most(look.constant() for look in looks):
        found, repair = "one value everywhere in every band", "get the files again; they hold no image."
    elif twins and _most(look.twins() is not None for look in looks):
        found = f"the same values in {twins[0]} and {twins[1]}"
        repair = "look at the names of the files: one file seems to stand for two bands."
    else:
        return None
    return InputError(where, found=found, expected="images whose bands and pixels differ", repair=repair)


def _factor(looks: Sequence[FrameSample], where: str, option: Option) -> InputError | None:
    """Numbers 10,000 times too small or too large."""
    top = float(np.median(np.concatenate([look.reflectance for look in looks], axis=1), axis=1).max())
    units = looks[0].frame.units
    stored = (top - units.offset) / units.scale
    if 3e-3 < top < 3 or abs(stored) <= 1e-3:
        return None
    fitting = next((scale for scale in (1.0, 1e-4) if 0.01 < stored * scale < 2), None)
    if fitting is None and top < 3:
        return None
    hint = option(scale=fitting, offset=0.0) if fitting else "'--set scale=...' with the product's factor"
    return InputError(
        where,
        found=f"a median reflectance of {top:.4g} in the brightest band (stored {stored:.4g}, {_told(units)})",
        expected="a reflectance between 0 and 1",
        repair=f"add {hint}.",
    )


def _landsat(looks: Sequence[FrameSample], where: str, option: Option) -> InputError | None:
    """Landsat Collection 2 numbers, where 0 is stored as 7273, read with the factor of HLS."""
    judged, units = [look for look in looks if look.size >= LEAST], looks[0].frame.units
    if looks[0].sensor.name == S2.name or units.scale != HLS.scale or not _most(x.darkest() > 0.65 for x in judged):
        return None
    return InputError(
        where,
        found=f"no clear pixel darker than {min(look.darkest() for look in judged):.2f} in any band ({_told(units)})",
        expected=f"reflectance of ground; the numbers look like {LANDSAT_C2.source}",
        repair=f"add {option(scale=LANDSAT_C2.scale, offset=LANDSAT_C2.offset)}.",
    )


def _offset(looks: Sequence[FrameSample], where: str, option: Option) -> InputError | None:
    """The offset of Sentinel-2 left in, or taken out twice; judged where there is ground that is surely dark."""
    if looks[0].sensor.name != S2.name:
        return None
    units, judged = looks[0].frame.units, [look for look in looks if look.size >= LEAST]
    green = [look for look in judged if look.green()]
    if _most(look.visible() < -0.03 for look in judged):
        low = np.median([look.visible() for look in judged])
        found = f"a visible reflectance of {low:.2f} on most of the clear pixels ({_told(units)})"
        right = round(units.offset + SHIFT, 6)
    elif _most(look.darkest() >= 0.09 for look in green):
        low = np.median([look.darkest() for look in green])
        found = f"no clear pixel darker than {low:.2f} although there is vegetation ({_told(units)})"
        right = round(units.offset - SHIFT, 6)
    else:
        return None
    return InputError(
        where,
        found=found,
        expected="dark ground near 0: from processing baseline 04.00 (January 2022) on Sentinel-2 stores "
        "reflectance + 0.1, unless the provider has taken that out",
        repair=f"add {option(offset=right)}.",
    )


def _told(units: Units) -> str:
    return f"scale {units.scale:g}, offset {units.offset:g}: {units.source}"


def _order(looks: Sequence[FrameSample], where: str) -> None:
    """Bands in the wrong order; open water has an order of its own and is left alone."""
    sensor = looks[0].sensor
    land = np.concatenate([look.land() for look in looks], axis=1)
    if land.shape[1] < FEW:
        return
    pixels = (land - sensor.offset) / sensor.scale
    try:
        look_at_bands(sensor, Survey(pixels={sensor.name: [pixels.T]}), where, single=True)
        _same_infrared(sensor, np.median(land, axis=1), where)
    except InputError as error:
        raise InputError(
            error.where,
            found=error.found,
            expected=error.expected,
            repair="look at 'agrifm scene show' and put the files, or the bands of a file, in that order.",
        ) from error


def _same_infrared(sensor: Sensor, middle: np.ndarray, where: str) -> None:
    pair = unequal_infrared(sensor, middle)
    if pair:
        one, other = (middle[sensor.band_ids.index(band)] for band in pair)
        raise InputError(
            where,
            found=f"{pair[0]} at {one:.2f} and {pair[1]} at {other:.2f}, which see the same near infrared",
            expected=f"bands in the order {', '.join(sensor.band_ids)}",
            repair="reorder the bands.",
        )
