"""Check the units of a scene: whether stored numbers agree with their scale and offset.

Sources: Sentinel-2 Products Specification Document 14.9 and the notice on processing baseline 04.00 (ESA, January
2022), Landsat 8-9 Collection 2 Level 2 Product Guide (USGS), HLS User Guide v2.0, MOD09 User's Guide v1.4 (NASA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from agrifm.checks.band_order import check_band_order, unequal_infrared
from agrifm.checks.choice import evenly
from agrifm.checks.ground import dark_end, has_vegetation, median_visible
from agrifm.errors import InputError
from agrifm.scenes.checks.date_samples import MIN_GROUND, DateSamples
from agrifm.scenes.checks.date_settings import units_setting
from agrifm.scenes.checks.dates import refuse_contradicting_dates
from agrifm.scenes.checks.pixels import MIN_PIXELS, FrameSample, refuse_impossible
from agrifm.scenes.corrections import UNCHECKED
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.scenes.units import HLS, LANDSAT_C2, SHIFT, SHIFTED_FROM
from agrifm.sensors import S2, Sensor

MAX_FRAMES = 6  # per sensor, judged together
DARK = 0.09  # reflectance below which ground is surely dark

Setting = Callable[..., str]  # returns the setting that gives the judged frames another scale or offset


def check_units(scene: Scene, *, skip_unreadable: bool = False) -> Scene:
    """Compare the units of every frame with its numbers, and note the result in the source of the units.

    Every date is compared with the dates around it; then all frames with the same units are judged together.

    Args:
        scene: Scene as it was opened.
        skip_unreadable: Do not judge frames that cannot be read.

    Raises:
        InputError: If the numbers contradict their units, or bands seem exchanged, duplicated or without content.
    """
    layers = [_check_layer(layer, scene, skip_unreadable) for layer in scene.layers]
    return replace(scene, layers=tuple(layers))


def _check_layer(layer: Layer, scene: Scene, skip_unreadable: bool) -> Layer:
    """Check the dates of a layer, then its groups of frames with the same units, and add notes to the units."""
    sensor = layer.sensor
    checked = [position for position, frame in enumerate(layer.frames) if UNCHECKED not in frame.units.source]
    samples = DateSamples.read(layer, scene, checked, skip_unreadable=skip_unreadable)
    notes_on_dates = refuse_contradicting_dates(layer, scene, samples)

    groups: dict[tuple, list[int]] = {}
    for position in checked:
        groups.setdefault(_group_key(layer.frames[position], sensor), []).append(position)
    notes: dict[int, str] = {}
    for positions in groups.values():
        available = samples.clear_pixels(positions, sensor)
        selected = [available[i] for i in evenly(len(available), max(1, MAX_FRAMES // len(groups)))]
        group_frames = [layer.frames[position] for position in positions]
        note = _judge(selected, scene, partial(units_setting, group_frames, layer, scene))
        notes |= dict.fromkeys(positions, note)

    refuse_impossible(scene, sensor, samples.impossible_shares(sensor))
    notes |= notes_on_dates
    frames = [_with_note(frame, notes.get(position, "")) for position, frame in enumerate(layer.frames)]
    return replace(layer, frames=tuple(frames))


def _group_key(frame: Frame, sensor: Sensor) -> tuple:
    """Return what frames have in common that are judged together."""
    may_be_shifted = sensor.name == S2.name and frame.day >= SHIFTED_FROM
    return frame.units.scale, frame.units.offset, may_be_shifted


def _with_note(frame: Frame, note: str) -> Frame:
    if note in frame.units.source:
        return frame
    return replace(frame, units=replace(frame.units, source=f"{frame.units.source}; {note}"))


def _judge(samples: Sequence[FrameSample], scene: Scene, setting: Setting) -> str:
    """Judge frames that share their units.

    Returns:
        Note on the result.

    Raises:
        InputError: If the numbers contradict the units.
    """
    if sum(sample.size for sample in samples) < MIN_PIXELS:
        return "too few clear pixels to check it"
    where = f"{scene.name}: {samples[0].sensor.name}, {samples[0].frame.name}"
    if len(samples) > 1:
        where += f" and {len(samples) - 1} more"
    large_samples = [sample for sample in samples if sample.size >= MIN_GROUND]
    _refuse_without_content(samples, where)
    _refuse_wrong_scale(samples, where, setting)
    if samples[0].sensor.name == S2.name:
        _refuse_wrong_offset(samples[0], large_samples, where, setting)
    else:
        _refuse_landsat_as_hls(samples[0], large_samples, where, setting)
    _refuse_wrong_order(samples, where)
    if any(dark_end(sample.reflectance) < DARK for sample in large_samples):
        return "values agree"
    return "values neither confirm nor contradict it, as no dark ground was seen"


def _for_most(answers: Iterable[bool]) -> bool:
    """Whether more than half of the answers are yes."""
    answers = list(answers)
    return sum(answers) > len(answers) / 2


def _refuse_without_content(samples: Sequence[FrameSample], where: str) -> None:
    """Refuse frames that have one value everywhere, or one image in two bands."""
    identical = samples[0].identical_bands()
    if _for_most(sample.is_constant() for sample in samples):
        found = "one value everywhere in every band"
        repair = "get the files again; they hold no image."
    elif identical and _for_most(sample.identical_bands() is not None for sample in samples):
        found = f"the same values in {identical[0]} and {identical[1]}"
        repair = "check the names of the files: one file seems to be used for two bands."
    else:
        return
    raise InputError(where, found=found, expected="images whose bands and pixels differ", repair=repair)


def _refuse_wrong_scale(samples: Sequence[FrameSample], where: str, setting: Setting) -> None:
    """Refuse reflectance that is 10,000 times too small or too large."""
    units = samples[0].frame.units
    reflectance = np.concatenate([sample.reflectance for sample in samples], axis=1)
    brightest = float(np.median(reflectance, axis=1).max())
    stored = (brightest - units.offset) / units.scale
    if 3e-3 < brightest < 3 or abs(stored) <= 1e-3:
        return
    plausible_scales = [scale for scale in (1.0, 1e-4) if 0.01 < stored * scale < 2]
    if plausible_scales:
        advice = setting(scale=plausible_scales[0], offset=0.0)
    elif brightest < 3:
        return
    else:
        advice = "'--set scale=...' with the product's factor"
    raise InputError(
        where,
        found=f"a median reflectance of {brightest:.4g} in the brightest band (stored {stored:.4g}, {units})",
        expected="a reflectance between 0 and 1",
        repair=f"add {advice}.",
    )


def _refuse_landsat_as_hls(first: FrameSample, samples: Sequence[FrameSample], where: str, setting: Setting) -> None:
    """Refuse Landsat Collection 2 numbers, where a reflectance of 0 is stored as 7273, read with the scale of HLS."""
    units = first.frame.units
    if units.scale != HLS.scale or not _for_most(dark_end(sample.reflectance) > 0.65 for sample in samples):
        return
    darkest = min(dark_end(sample.reflectance) for sample in samples)
    raise InputError(
        where,
        found=f"no clear pixel darker than {darkest:.2f} in any band ({units})",
        expected=f"reflectance of ground; the numbers look like {LANDSAT_C2.source}",
        repair=f"add {setting(scale=LANDSAT_C2.scale, offset=LANDSAT_C2.offset)}.",
    )


def _refuse_wrong_offset(first: FrameSample, samples: Sequence[FrameSample], where: str, setting: Setting) -> None:
    """Refuse Sentinel-2 numbers whose offset was left in or removed twice, where there is ground that is surely dark.

    Args:
        first: First of the frames, whose units they share.
        samples: Frames with enough pixels.
        where: Scene, sensor and frames, for the error.
        setting: Returns the setting that repairs it.
    """
    units = first.frame.units
    with_vegetation = [sample for sample in samples if has_vegetation(sample.reflectance, sample.sensor)]
    if _for_most(median_visible(sample.reflectance, sample.sensor) < -0.03 for sample in samples):
        median = np.median([median_visible(sample.reflectance, sample.sensor) for sample in samples])
        found = f"a visible reflectance of {median:.2f} on most of the clear pixels ({units})"
        offset = units.offset + SHIFT
    elif _for_most(dark_end(sample.reflectance) >= DARK for sample in with_vegetation):
        median = np.median([dark_end(sample.reflectance) for sample in with_vegetation])
        found = f"no clear pixel darker than {median:.2f} although there is vegetation ({units})"
        offset = units.offset - SHIFT
    else:
        return
    raise InputError(
        where,
        found=found,
        expected="dark ground near 0: from processing baseline 04.00 (January 2022) on Sentinel-2 stores "
        "reflectance + 0.1, unless the provider has taken that out",
        repair=f"add {setting(offset=round(offset, 6))}.",
    )


def _refuse_wrong_order(samples: Sequence[FrameSample], where: str) -> None:
    """Refuse bands in the wrong order; open water has an order of its own and does not count."""
    sensor = samples[0].sensor
    land = np.concatenate([sample.land() for sample in samples], axis=1)
    if land.shape[1] < MIN_PIXELS:
        return
    pixels = (land - sensor.offset) / sensor.scale
    try:
        check_band_order(sensor, [pixels.T], where, single=True)
        _refuse_unequal_infrared(sensor, np.median(land, axis=1), where)
    except InputError as error:
        raise InputError(
            error.where,
            found=error.found,
            expected=error.expected,
            repair="look at 'agrifm scene show' and put the files, or the bands of a file, in that order.",
        ) from error


def _refuse_unequal_infrared(sensor: Sensor, medians: np.ndarray, where: str) -> None:
    pair = unequal_infrared(sensor, medians)
    if pair is None:
        return
    one, other = pair
    reflectance_of_one = medians[sensor.band_ids.index(one)]
    reflectance_of_other = medians[sensor.band_ids.index(other)]
    raise InputError(
        where,
        found=f"{one} at {reflectance_of_one:.2f} and {other} at {reflectance_of_other:.2f}, which see the same near "
        "infrared",
        expected=f"bands in the order {', '.join(sensor.band_ids)}",
        repair="reorder the bands.",
    )
