"""What is in a scene, for people: grid, dates, clear shares, bands, units; and a picture of some dates."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from agrifm.figures import save_png
from agrifm.rasters.grid import meters_per_unit, pixel_size, sides
from agrifm.scenes.checks.pixels import coarse
from agrifm.scenes.quality import RULES
from agrifm.scenes.scene import READERS, Frame, Layer, MissingPixels, Scene
from agrifm.scenes.units import Units
from agrifm.sensors import Sensor

PIXELS = 128  # along a side, for clear shares
FINER = 400  # along a side, for the picture
DATES = 12  # of a sensor, in the picture
WIDTH = 2.9  # inches of one date in the picture
LONGEST = 44  # letters of a product's name
ALBUM = ("red", "green", "blue")
VEIL = np.array((0.72, 0.82, 0.95))  # over what was not seen clearly
NOTHING = 0.90  # gray where there are no data


@dataclass(frozen=True)
class Glimpse:
    """One date of a sensor, small.

    Args:
        image: Red, green and blue ``(3, h, w)``, NaN where there are no data.
        clear: ``(h, w)``.
        impossible: ``(h, w)`` where it would be clear, but red, green or blue is no reflectance of land.
    """

    image: np.ndarray
    clear: np.ndarray
    impossible: np.ndarray

    @property
    def share(self) -> float:
        """Clear part of the footprint, 0 to 1."""
        return float(self.clear.mean())

    @property
    def odd(self) -> float:
        """Share of impossible pixels among those that would be clear."""
        return float(self.impossible.sum() / max(1, self.clear.sum() + self.impossible.sum()))


def glimpses(scene: Scene, layer: Layer, days: Iterable[dt.date], size: int, console: Console) -> list[Glimpse]:
    """Some dates of a sensor over all of the scene, at most ``size`` pixels along a side.

    Raises:
        InputError: If a file cannot be read.
    """
    box, wanted = coarse(scene, layer.sensor, size), list(days)
    told = f"reading {layer.sensor.name}"
    with ThreadPoolExecutor(READERS) as pool:
        looks = pool.map(lambda day: _glimpse(layer, day, box), wanted)
        shown = track(looks, told, total=len(wanted), console=console, transient=True, disable=not console.is_terminal)
        return list(shown)


def clear_shares(scene: Scene, console: Console | None = None) -> dict[str, list[float]]:
    """The clear part of the footprint for each sensor and each of its days, 0 to 1, from a coarse look.

    Raises:
        InputError: If a file cannot be read.
    """
    looks = _all_glimpses(scene, console or Console(quiet=True))
    return {sensor: [look.share for look in found] for sensor, found in looks.items()}


def _all_glimpses(scene: Scene, console: Console) -> dict[str, list[Glimpse]]:
    return {layer.sensor.name: glimpses(scene, layer, layer.days, PIXELS, console) for layer in scene.layers}


def _glimpse(layer: Layer, day: dt.date, box: GeoBox) -> Glimpse:
    image = np.full((3, *box.shape), np.nan, np.float32)
    there, clear, impossible = (np.zeros(box.shape, bool) for _ in range(3))
    for frame in layer.on(day):
        new, has_data, seen, odd = _read(frame, layer.sensor, box)
        better = (has_data & ~there) | (seen & ~clear)
        image[:, better], clear[better], impossible[better] = new[:, better], seen[better], odd[better]
        there |= has_data
    return Glimpse(image, clear, impossible)


def _read(frame: Frame, sensor: Sensor, box: GeoBox) -> tuple[np.ndarray, ...]:
    """Reflectance in red, green and blue, NaN without data; where there are data, clear ground, impossible values."""
    absent, odd, stored = MissingPixels(sensor, box), np.zeros(box.shape, bool), []
    limits = frame.possible.stored(frame.units)
    for band in _album(sensor):
        pixels = frame.bands[band].read(box)
        absent.add(pixels)
        odd |= pixels.outside(limits)
        stored.append(pixels.filled(0).astype(np.float32))
    there = absent.there()
    clear = there if frame.quality is None else np.logical_and(there, frame.quality.clear(box))
    image = np.where(there, np.stack(stored) * frame.units.scale + frame.units.offset, np.nan)
    return image, there, clear & ~odd, clear & odd


def _album(sensor: Sensor) -> list[str]:
    """Band ids of red, green and blue."""
    return [band.id for name in ALBUM for band in sensor.bands if band.common_name == name]


def show(scene: Scene, picture: Path | None, console: Console) -> None:
    """Print what is in a scene, and draw a contact sheet if ``picture`` is given (PNG).

    Raises:
        InputError: If a file cannot be read.
    """
    looks = _all_glimpses(scene, console)
    shares = {sensor: [look.share for look in found] for sensor, found in looks.items()}
    console.print(Text(f"{scene.name}: {_place(scene)}"))
    for layer in scene.layers:
        console.print(_table(layer, shares[layer.sensor.name]))
        for line in (*_about(layer), *_odd(layer, looks[layer.sensor.name])):
            console.print(Text(line), soft_wrap=True)
    for href in scene.skipped:
        console.print(Text(f"left out: {href}"), soft_wrap=True)
    if picture is not None:
        draw(scene, shares, picture, console)
        console.print(Text(f"picture: {picture}"), soft_wrap=True)


def _place(scene: Scene) -> str:
    rows, columns = scene.grid.shape
    crs = scene.grid.crs
    if crs is None:
        return f"{rows} x {columns} pixels"
    area = scene.grid.extent.to_crs("EPSG:6933").area
    if crs.projected:
        area = scene.grid.extent.area * meters_per_unit(crs) ** 2
    name = crs.proj.name if crs.proj.name != "unknown" else "a CRS without a name"
    told = f"{crs!s} ({name})" if crs.to_epsg() else f"{name} ({str(crs)[:80]})"
    return f"{rows} x {columns} pixels of {_meters(scene.grid)}, {area / 1e6:,.2f} km2, {told}"


def _meters(grid: GeoBox) -> str:
    """The size of a pixel, in meters or degrees."""
    meters = grid.crs is not None and grid.crs.projected
    across, down = pixel_size(grid) if meters else sides(grid)
    both = f"{across:g}" if abs(across - down) < 1e-6 * across else f"{across:g} x {down:g}"
    return f"{both} {'m' if meters else 'degrees'}"


def _table(layer: Layer, shares: list[float]) -> Table:
    table = Table(title=f"{layer.sensor.name}: {len(layer.days)} dates", title_justify="left")
    table.add_column("date", no_wrap=True)
    table.add_column("product")
    table.add_column("clear", justify="right", no_wrap=True)
    for day, share in zip(layer.days, shares, strict=True):
        names = [frame.name for frame in layer.on(day)]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        table.add_row(f"{day}", Text(_short(names[0]) + more), _percent(share), style=None if share else "dim")
    return table


def _odd(layer: Layer, looks: Sequence[Glimpse]) -> list[str]:
    """A line on dates with reflectance that land cannot have."""
    found = [f"{day} {_percent(look.odd)}" for day, look in zip(layer.days, looks, strict=True) if look.odd]
    if not found:
        return []
    limits = layer.frames[0].possible
    odd = f"red, green or blue outside {limits.low:g}..{limits.high:g}"
    return [f"impossible reflectance, which does not count as seen ({odd}): {', '.join(found)}"]


def _short(name: str) -> str:
    """A name without its middle, if it is long: missions and dates stand at both ends."""
    head = LONGEST * 2 // 3
    return name if len(name) <= LONGEST else f"{name[:head]}...{name[len(name) - (LONGEST - head - 3) :]}"


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _about(layer: Layer) -> list[str]:
    """Bands, units, quality rule and native grids of a sensor, a line for each."""
    frames, lines = layer.frames, [f"bands: {' '.join(layer.sensor.band_ids)}"]
    for units, count in Counter(frame.units for frame in frames).items():
        lines.append(f"units: {_formula(units)}; {units.source}" + _of(count, frames))
    for rule, count in Counter(frame.quality.rule if frame.quality else "" for frame in frames).items():
        told = f"{rule}: {RULES[rule].source}" if rule else "no quality layer, all pixels with data count as clear"
        lines.append(f"clear: {told}" + _of(count, frames))
    sizes: dict[str, list[str]] = {}
    for band in layer.sensor.band_ids:
        sizes.setdefault(_meters(frames[0].bands[band].grid()), []).append(band)
    told = "; ".join(f"{size}: {' '.join(bands)}" for size, bands in sizes.items())
    return [*lines, f"pixels in the files: {told}"]


def _formula(units: Units) -> str:
    shift = f" {'-' if units.offset < 0 else '+'} {abs(units.offset):g}" if units.offset else ""
    return f"reflectance = stored x {units.scale:g}{shift}"


def _of(count: int, frames: tuple[Frame, ...]) -> str:
    return "" if count == len(frames) else f" ({count} of {len(frames)} products)"


def draw(scene: Scene, shares: dict[str, list[float]], path: Path, console: Console) -> None:
    """Draw the clearest date of each of up to 12 stretches of the season, for every sensor, and write a PNG whole."""
    from matplotlib.figure import Figure

    rows, columns = scene.grid.shape
    across = 4 if columns <= 1.6 * rows else 3
    height = WIDTH * min(max(rows / columns, 0.3), 2.2) + 0.25
    picked = {name: _picked(clear) for name, clear in shares.items()}
    lines = [-(-len(picked[sensor.name]) // across) for sensor in scene.sensors]
    size = (across * WIDTH, height * sum(lines) + 0.5 * len(lines) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{scene.name}\nunder a blue veil: not seen clearly; gray: no data", fontsize=10)
    parts = figure.subfigures(len(lines), 1, height_ratios=lines, squeeze=False)[:, 0]
    for part, layer, count in zip(parts, scene.layers, lines, strict=True):
        chosen = {layer.days[i]: shares[layer.sensor.name][i] for i in picked[layer.sensor.name]}
        looks = glimpses(scene, layer, chosen, FINER, console)
        few = len(chosen) == len(layer.days)
        dates = (
            f"{len(chosen)} dates" if few else f"{len(chosen)} of {len(layer.days)} dates, the clearest of their time"
        )
        part.suptitle(f"{layer.sensor.name}: true color ({', '.join(_album(layer.sensor))}), {dates}", fontsize=10)
        axes = part.subplots(count, across, squeeze=False).ravel()
        for axis, image, (day, share) in zip(axes, _stretched(looks), chosen.items(), strict=False):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(f"{day}   {_percent(share)} clear", fontsize=9)
        for axis in axes:
            axis.set_axis_off()
    save_png(figure, path, dpi=110)


def _picked(shares: list[float]) -> list[int]:
    """Positions of up to 12 dates: the clearest of each of so many equal stretches of the series."""
    parts = np.array_split(np.arange(len(shares)), min(DATES, len(shares)))
    return [int(part[np.argmax([shares[i] for i in part])]) for part in parts]


def _stretched(looks: list[Glimpse]) -> list[np.ndarray]:
    """Pictures ``(h, w, 3)`` in 0..1: all dates between the same percentiles of what was seen clearly."""
    seen = np.concatenate([look.image[:, look.clear] for look in looks], axis=1)
    if not seen.size:
        seen = np.concatenate([look.image[:, np.isfinite(look.image).all(0)] for look in looks], axis=1)
    low, high = np.percentile(seen, (2, 98), axis=1) if seen.size else (np.zeros(3), np.ones(3))
    pictures = []
    for look in looks:
        picture = ((look.image.transpose(1, 2, 0) - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
        picture[~look.clear] = 0.45 * picture[~look.clear] + 0.55 * VEIL
        pictures.append(np.where(np.isnan(picture), NOTHING, picture))
    return pictures
