"""Compare every date of a scene with the dates around it, and name the dates that contradict them.

Of each frame a small window in the center of the scene is read; where that is clouded, a coarse overview of the scene.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from agrifm.checks.band_order import exchanged_bands, unequal_infrared
from agrifm.checks.date_faults import Fault, find_faults
from agrifm.checks.series import Series
from agrifm.errors import InputError
from agrifm.scenes.checks.date_errors import TRUST, contradiction, exchange_bands, format_days, side_of, where_of
from agrifm.scenes.checks.date_samples import MIN_GROUND, DateSamples, FrameGrids
from agrifm.scenes.checks.date_settings import skip_setting
from agrifm.scenes.scene import Layer, Scene
from agrifm.sensors import Sensor


def refuse_contradicting_dates(layer: Layer, scene: Scene, samples: DateSamples) -> dict[int, str]:
    """Refuse dates that surely contradict the dates around them.

    Returns:
        Notes on frames that may be wrong, by position in the layer.

    Raises:
        InputError: If there are such dates; the error names them all.
    """
    only_in_overview = set(samples.overview) - set(samples.center)
    notes = _judge_dates(samples.center, set(samples.center), layer, scene)
    notes |= _judge_dates(samples.overview, only_in_overview, layer, scene)
    return notes


def _judge_dates(grids: FrameGrids, judged: set[int], layer: Layer, scene: Scene) -> dict[int, str]:
    """Judge frames that were read on one grid.

    Args:
        grids: Pixels of the frames.
        judged: Positions of the frames that are judged; the others serve for comparison.
        layer: Layer of the frames.
        scene: Scene of the layer.
    """
    if not grids:
        return {}
    positions = sorted(grids, key=lambda position: (grids[position].frame.day, position))
    _refuse_without_content(grids, positions, layer, scene)
    series = _series(grids, positions, layer.sensor)
    faults = [fault for fault in find_faults(series) if positions[fault.step] in judged]
    sure_faults = [fault for fault in faults if fault.sure]
    if sure_faults:
        first = sure_faults[0]
        same_kind = {positions[fault.step] for fault in sure_faults if _kind(fault) == _kind(first)}
        compared = {positions[step] for step in series.judged}
        affected = sorted(same_kind | _hidden_between(same_kind, compared, layer))
        raise contradiction(first, [layer.frames[position] for position in affected], layer, scene)
    _refuse_impossible_order(grids, positions, layer, scene)
    notes = {}
    for fault in faults:
        difference = f"{abs(fault.amount):g} {side_of(fault)} that of the dates around"
        notes[positions[fault.step]] = f"reflectance lies {difference}: haze, or a wrong offset"
    return notes


def _kind(fault: Fault) -> tuple:
    return fault.kind, fault.amount, fault.bands


def _hidden_between(faulty: set[int], compared: set[int], layer: Layer) -> set[int]:
    """Return frames that clouds hide from the check, between faulty ones: they have the same fault."""
    by_day = sorted(range(len(layer.frames)), key=lambda position: (layer.frames[position].day, position))
    compared_places = [place for place, position in enumerate(by_day) if position in compared]
    hidden: set[int] = set()
    for before, after in pairwise(compared_places):
        if by_day[before] in faulty and by_day[after] in faulty:
            hidden.update(by_day[before + 1 : after])
    return hidden


def _series(grids: FrameGrids, positions: Sequence[int], sensor: Sensor) -> Series:
    in_order = [grids[position] for position in positions]
    orbits = []
    # Frames of one relative orbit see the ground from the same side, and are compared first.
    for grid in in_order:
        match = re.search(r"_R(\d{3})_", grid.frame.name)
        orbits.append(match[1] if match else "")
    return Series(
        sensor,
        reflectance=np.stack([grid.reflectance for grid in in_order]),
        clear=np.stack([grid.clear for grid in in_order]),
        masked=np.array([grid.frame.quality is not None for grid in in_order]),
        min_ground=MIN_GROUND,
        orbits=orbits,
    )


def _refuse_without_content(grids: FrameGrids, positions: Sequence[int], layer: Layer, scene: Scene) -> None:
    """Refuse dates with one value everywhere, or with one image in two bands, unless most dates are so.

    Where most are, the check of all dates together refuses the scene as a whole.
    """
    samples = {position: grids[position].clear_pixels(layer.sensor) for position in positions}
    samples = {position: sample for position, sample in samples.items() if sample.size >= MIN_GROUND}
    constant = [position for position, sample in samples.items() if sample.is_constant()]
    identical = [position for position, sample in samples.items() if sample.identical_bands()]
    for affected in (constant, identical):
        if not affected or len(affected) > len(positions) / 2:
            continue
        bands = samples[affected[0]].identical_bands()
        found = "one value everywhere in every band"
        if bands is not None:
            found = f"the same values in {bands[0]} and {bands[1]}"
        frames = [layer.frames[position] for position in affected]
        raise InputError(
            where_of(frames, layer, scene),
            found=found,
            expected="images whose bands and pixels differ",
            repair=f"get the files of {format_days(frames)} again, or {skip_setting(frames, layer, scene)}.",
        )


def _refuse_impossible_order(grids: FrameGrids, positions: Sequence[int], layer: Layer, scene: Scene) -> None:
    """Refuse dates whose bands are in an order that land never shows, while most dates are right."""
    sensor = layer.sensor
    wrong: dict[int, tuple[tuple[str, str], np.ndarray]] = {}
    judged = 0
    for position in positions:
        sample = grids[position].clear_pixels(sensor)
        land = sample.land()
        if land.shape[1] < max(MIN_GROUND, sample.size / 2):
            continue
        judged += 1
        medians = np.median(land, axis=1)
        pair = exchanged_bands(sensor, medians, np.zeros(len(land)), slack=0.6) or unequal_infrared(sensor, medians)
        if pair:
            wrong[position] = pair, medians
    if not wrong or len(wrong) > judged / 2:
        return
    frames = [layer.frames[position] for position in wrong]
    (one, other), medians = next(iter(wrong.values()))
    ids = sensor.band_ids
    raise InputError(
        where_of(frames, layer, scene),
        found=f"a median reflectance of {medians[ids.index(one)]:.2f} in {one} and {medians[ids.index(other)]:.2f} in "
        f"{other}, which land never shows; the other dates are right",
        expected=f"bands in the order {', '.join(ids)}",
        repair=f"{exchange_bands(frames, layer, scene)} {TRUST}",
    )
