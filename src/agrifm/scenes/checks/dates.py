"""Compare every date of a scene with the dates around it, and name the dates that contradict them.

Of each frame a small window in the center of the scene is read; where that is clouded, a coarse overview of the scene.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.checks.band_order import exchanged_bands, unequal_infrared
from agrifm.checks.date_faults import Fault, find_faults
from agrifm.checks.series import Series
from agrifm.errors import InputError, Unreadable, counted
from agrifm.scenes.checks.date_settings import dates_setting, named_frames, skip_setting
from agrifm.scenes.checks.pixels import FrameSample, center_window, overview
from agrifm.scenes.frame_pixels import MissingPixels
from agrifm.scenes.scene import READERS, Frame, Layer, Scene
from agrifm.sensors import Sensor

MIN_GROUND = 100  # pixels of ground; below, a date is not judged
MAX_PIXELS = 4096  # of a frame that are kept
MAX_BYTES = 64 * 2**20  # that all frames of a sensor may take
MAX_DATES = 6  # that are named in the first line of an error

TRUST = "If the numbers are right, '--set check_units=false' leaves this check out."
EXPECTED = {
    "offset": "dark ground near 0 on every date",
    "scale": "one scale for all dates",
    "order": "one order of bands",
}


@dataclass(frozen=True)
class FrameGrid:
    """Pixels of a frame at fixed places of the scene, so that frames can be compared.

    Args:
        frame: Frame of the pixels.
        reflectance: Reflectance ``(c, n)``, NaN where there are no data.
        clear: Mask ``(n)`` of what the quality layer calls clear.
    """

    frame: Frame
    reflectance: np.ndarray
    clear: np.ndarray

    def clear_pixels(self, sensor: Sensor) -> FrameSample:
        """Return the clear pixels with data."""
        selected = self.clear & np.isfinite(self.reflectance).all(0)
        return FrameSample(self.frame, sensor, self.reflectance[:, selected].astype(np.float64))


FrameGrids = Mapping[int, FrameGrid]  # by position of the frame in its layer


@dataclass(frozen=True)
class DateSamples:
    """Pixels of the frames of a sensor.

    Args:
        center: Frames with clear ground in the center of the scene, read there.
        overview: The other frames, and the dates around them, read on a coarse grid of the whole scene.
    """

    center: dict[int, FrameGrid]
    overview: dict[int, FrameGrid]

    @classmethod
    def read(cls, layer: Layer, scene: Scene, positions: Sequence[int], *, skip_unreadable: bool) -> DateSamples:
        """Read the pixels.

        Args:
            layer: Layer of the sensor.
            scene: Scene of the layer.
            positions: Positions of the frames in the layer.
            skip_unreadable: Leave out frames that cannot be read.

        Raises:
            InputError: If a file cannot be read.
        """
        center_box = center_window(scene, layer.sensor)
        overview_box = overview(scene, layer.sensor)
        center = _read_grids(layer, positions, center_box, skip_unreadable)
        clouded = [position for position in positions if position not in center]
        if not clouded or center_box == overview_box:
            return cls(center, {})
        coarse = _read_grids(layer, clouded, overview_box, skip_unreadable)
        # The dates around them are what they are compared with, and are read on the same grid.
        neighbors: set[int] = set()
        for position in coarse:
            neighbors.update(_neighbors(position, sorted(center)))
        coarse |= _read_grids(layer, sorted(neighbors), overview_box, skip_unreadable)
        return cls(center, coarse)

    def clear_pixels(self, positions: Sequence[int], sensor: Sensor) -> list[FrameSample]:
        """Return the clear pixels of frames: those in the center if there are any, or else those of the overview."""
        in_center = any(position in self.center for position in positions)
        grids = self.center if in_center else self.overview
        return [grids[position].clear_pixels(sensor) for position in positions if position in grids]

    def impossible_shares(self, sensor: Sensor) -> dict[dt.date, float]:
        """Return the share of clear pixels that reflect as no land does, by day.

        Frames without a quality layer are left out: clouds under a low sun reflect that much.
        """
        impossible: dict[dt.date, float] = {}
        total: dict[dt.date, float] = {}
        for grid in (self.overview | self.center).values():
            sample = grid.clear_pixels(sensor)
            if grid.frame.quality is None or not sample.size:
                continue
            day = grid.frame.day
            impossible[day] = impossible.get(day, 0.0) + sample.impossible_share * sample.size
            total[day] = total.get(day, 0.0) + sample.size
        return {day: impossible[day] / count for day, count in total.items()}


def _neighbors(position: int, known: Sequence[int]) -> list[int]:
    """Return the two nearest known positions on each side."""
    before = [other for other in known if other < position]
    after = [other for other in known if other > position]
    return before[-2:] + after[:2]


def _read_grids(layer: Layer, positions: Sequence[int], box: GeoBox, skip_unreadable: bool) -> dict[int, FrameGrid]:
    """Read the frames that show some clear ground in a box."""
    bytes_per_pixel = 4 * len(layer.sensor.bands) * max(1, len(positions))
    # The longer the series, the fewer pixels of each frame.
    max_pixels = min(MAX_PIXELS, max(256, MAX_BYTES // bytes_per_pixel))
    stride = max(1, int(np.ceil(np.sqrt(box.shape[0] * box.shape[1] / max_pixels))))

    def read(position: int) -> FrameGrid | None:
        try:
            return _read_grid(layer.frames[position], layer.sensor, box, stride)
        except Unreadable:
            if skip_unreadable:
                return None
            raise

    grids = {}
    with ThreadPoolExecutor(READERS) as pool:
        for position, grid in zip(positions, pool.map(read, positions), strict=True):
            if grid is not None:
                grids[position] = grid
    return grids


def _read_grid(frame: Frame, sensor: Sensor, box: GeoBox, stride: int) -> FrameGrid | None:
    """Read every ``stride``-th pixel of a frame along rows and columns; None if no clear pixel is among them."""
    clear = frame.clear_mask(box)[::stride, ::stride].ravel()
    if not clear.any():
        return None
    missing = MissingPixels(sensor, box)
    stored = []
    for band in sensor.band_ids:
        pixels = frame.bands[band].read(box)
        missing.add(pixels)
        stored.append(pixels.filled(0)[::stride, ::stride].ravel().astype(np.float32))
    has_data = missing.has_data()[::stride, ::stride].ravel()
    if not (clear & has_data).any():
        return None
    reflectance = np.stack(stored) * np.float32(frame.units.scale) + np.float32(frame.units.offset)
    reflectance[:, ~has_data] = np.nan
    return FrameGrid(frame, reflectance, clear)


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
        raise _contradiction(first, [layer.frames[position] for position in affected], layer, scene)
    _refuse_impossible_order(grids, positions, layer, scene)
    notes = {}
    for fault in faults:
        difference = f"{abs(fault.amount):g} {_side(fault)} that of the dates around"
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
            _where(frames, layer, scene),
            found=found,
            expected="images whose bands and pixels differ",
            repair=f"get the files of {_format_days(frames)} again, or {skip_setting(frames, layer, scene)}.",
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
        _where(frames, layer, scene),
        found=f"a median reflectance of {medians[ids.index(one)]:.2f} in {one} and {medians[ids.index(other)]:.2f} in "
        f"{other}, which land never shows; the other dates are right",
        expected=f"bands in the order {', '.join(ids)}",
        repair=f"{_exchange_bands(frames, layer, scene)} {TRUST}",
    )


def _contradiction(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> InputError:
    """Return the error for frames that share a fault."""
    describe = {"offset": _describe_offset, "scale": _describe_scale, "order": _describe_order}[fault.kind]
    found, repair = describe(fault, frames, layer, scene)
    return InputError(
        _where(frames, layer, scene),
        found=found,
        expected=f"{EXPECTED[fault.kind]} ({frames[0].units})",
        repair=f"{repair} {TRUST}",
    )


def _describe_offset(fault: Fault, frames: Sequence[Frame], layer: Layer, scene: Scene) -> tuple[str, str]:
    found = (
        f"reflectance lies {abs(fault.amount):g} {_side(fault)} that of the dates around in every band: "
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
    return found, _exchange_bands(frames, layer, scene)


def _exchange_bands(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    return (
        f"put the bands of {_format_days(frames)} in order (exchange the names of the files), or "
        f"{skip_setting(frames, layer, scene)}."
    )


def _side(fault: Fault) -> str:
    return "above" if fault.amount > 0 else "below"


def _where(frames: Sequence[Frame], layer: Layer, scene: Scene) -> str:
    return f"{scene.name}: {layer.sensor.name}, {_format_days(frames)}"


def _format_days(frames: Iterable[Frame]) -> str:
    days = sorted({frame.day for frame in frames})
    text = ", ".join(map(str, days[:MAX_DATES]))
    if len(days) > MAX_DATES:
        text += f" and {counted(len(days) - MAX_DATES, 'more date')}"
    return text
