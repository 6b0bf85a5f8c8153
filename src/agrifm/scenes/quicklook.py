"""What is in a scene, for people: grid, dates, clear shares, bands and units; and a picture of some dates."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from agrifm.errors import counted
from agrifm.figures import save_png
from agrifm.rasters.grid import meters_per_unit, pixel_size, sides
from agrifm.scenes.checks.pixels import overview
from agrifm.scenes.frame_pixels import FramePixels, MissingPixels
from agrifm.scenes.quality import RULES
from agrifm.scenes.scene import READERS, Frame, Layer, Scene
from agrifm.scenes.units import Units
from agrifm.sensors import Sensor

SHARE_PIXELS = 128  # along a side, for clear shares
PICTURE_PIXELS = 400  # along a side, for the picture
MAX_DATES = 12  # of a sensor, in the picture
DATE_WIDTH = 2.9  # inches of one date in the picture
MAX_NAME = 44  # letters of a product's name in the table
Colors = Sequence[Sequence[str]]  # STAC common names for red, green and blue of an image
TRUE_COLOR = (("red",), ("green",), ("blue",))
INFRARED = (("nir", "nir08"), ("red",), ("green",))
VEIL = np.array((0.72, 0.82, 0.95))  # blue, over pixels that are not clear
NO_DATA_GRAY = 0.90
EQUAL_AREA = "EPSG:6933"


def read_thumbnails(scene: Scene, console: Console) -> dict[str, list[FramePixels]]:
    """Read red, green and blue of all dates on a coarse grid, by sensor.

    Args:
        scene: Scene to read.
        console: Console for progress.

    Raises:
        InputError: If a file cannot be read.
    """
    thumbnails = {}
    for layer in scene.layers:
        thumbnails[layer.sensor.name] = _read_dates(scene, layer, layer.days, SHARE_PIXELS, console)
    return thumbnails


def _read_dates(scene: Scene, layer: Layer, days: Sequence[dt.date], size: int, console: Console) -> list[FramePixels]:
    """Read some dates of a sensor over the whole scene, at most ``size`` pixels along a side."""
    box = overview(scene, layer.sensor, size)
    with ThreadPoolExecutor(READERS) as pool:
        thumbnails = track(
            pool.map(lambda day: read_composite(layer, day, box), days),
            f"reading {layer.sensor.name}",
            total=len(days),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        return list(thumbnails)


def read_composite(
    layer: Layer, day: dt.date, box: GeoBox, colors: Sequence[Sequence[str]] = TRUE_COLOR
) -> FramePixels:
    """Read three bands of one date as an image.

    Args:
        layer: Layer of a sensor.
        day: One of its days.
        box: Grid of the image.
        colors: STAC common names for red, green and blue of the image; of several, the first that the sensor has.

    Returns:
        Reflectance ``(3, h, w)`` as float32, NaN where there are no data, and its masks.

    Raises:
        InputError: If a file cannot be read.
    """
    composite = FramePixels.empty((3, *box.shape), np.nan, np.float32)
    for frame in layer.on(day):
        composite.merge(_read_frame(frame, layer.sensor, box, composite_bands(layer.sensor, colors)))
    return composite


def _read_frame(frame: Frame, sensor: Sensor, box: GeoBox, bands: Sequence[str]) -> FramePixels:
    """Read bands of a frame as reflectance, NaN where there are no data."""
    limits = frame.possible.stored(frame.units)
    missing = MissingPixels(sensor, box)
    outside = np.zeros(box.shape, bool)
    stored = []
    for band in bands:
        pixels = frame.bands[band].read(box)
        missing.add(pixels)
        outside |= pixels.outside(limits)
        stored.append(pixels.filled(0).astype(np.float32))
    has_data = missing.has_data()
    clear = has_data & frame.clear_mask(box)
    reflectance = np.stack(stored) * frame.units.scale + frame.units.offset
    image = np.where(has_data, reflectance, np.nan)
    return FramePixels(image, has_data, clear & ~outside, clear & outside)


def composite_bands(sensor: Sensor, colors: Colors = TRUE_COLOR) -> list[str]:
    """Return the band ids of a composite; fewer than three if the sensor lacks one."""
    ids = []
    for names in colors:
        positions = [sensor.index(name) for name in names]
        found = [position for position in positions if position is not None]
        if found:
            ids.append(sensor.bands[found[0]].id)
    return ids


def show(scene: Scene, picture: Path | None, console: Console) -> None:
    """Print what is in a scene, and draw a contact sheet.

    Args:
        scene: Scene to show.
        picture: Path of the contact sheet (PNG); None draws none.
        console: Console to print on.

    Raises:
        InputError: If a file cannot be read.
    """
    thumbnails = read_thumbnails(scene, console)
    shares = {}
    for sensor, series in thumbnails.items():
        shares[sensor] = [thumbnail.clear_share for thumbnail in series]
    console.print(Text(f"{scene.name}: {_describe_grid(scene)}"))
    for layer in scene.layers:
        console.print(_table_of_dates(layer, shares[layer.sensor.name]))
        lines = _describe_layer(layer) + _describe_impossible(layer, thumbnails[layer.sensor.name])
        for line in lines:
            console.print(Text(line), soft_wrap=True)
    for href in scene.skipped:
        console.print(Text(f"left out: {href}"), soft_wrap=True)
    if picture is not None:
        _draw_contact_sheet(scene, shares, picture, console)
        console.print(Text(f"picture: {picture}"), soft_wrap=True)


def _describe_grid(scene: Scene) -> str:
    rows, columns = scene.grid.shape
    crs = scene.grid.crs
    if crs is None:
        return f"{rows} x {columns} pixels"
    if crs.projected:
        area = scene.grid.extent.area * meters_per_unit(crs) ** 2
    else:
        area = scene.grid.extent.to_crs(EQUAL_AREA).area
    name = crs.proj.name if crs.proj.name != "unknown" else "a CRS without a name"
    crs_text = f"{crs!s} ({name})" if crs.to_epsg() else f"{name} ({str(crs)[:80]})"
    return f"{rows} x {columns} pixels of {_format_pixel_size(scene.grid)}, {area / 1e6:,.2f} km2, {crs_text}"


def _format_pixel_size(grid: GeoBox) -> str:
    """Format the size of a pixel in meters or degrees."""
    in_meters = grid.crs is not None and grid.crs.projected
    unit = "m" if in_meters else "degrees"
    across, down = pixel_size(grid) if in_meters else sides(grid)
    if abs(across - down) < 1e-6 * across:
        return f"{across:g} {unit}"
    return f"{across:g} x {down:g} {unit}"


def _table_of_dates(layer: Layer, shares: list[float]) -> Table:
    table = Table(title=f"{layer.sensor.name}: {counted(len(layer.days), 'date')}", title_justify="left")
    table.add_column("date", no_wrap=True)
    table.add_column("product")
    table.add_column("clear", justify="right", no_wrap=True)
    for day, share in zip(layer.days, shares, strict=True):
        names = [frame.name for frame in layer.on(day)]
        products = _shorten(names[0])
        if len(names) > 1:
            products += f" and {len(names) - 1} more"
        table.add_row(f"{day}", Text(products), _percent(share), style=None if share else "dim")
    return table


def _shorten(name: str) -> str:
    """Cut the middle out of a long name: mission and date stand at its ends."""
    if len(name) <= MAX_NAME:
        return name
    head = MAX_NAME * 2 // 3
    tail = MAX_NAME - head - len("...")
    return f"{name[:head]}...{name[-tail:]}"


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _describe_impossible(layer: Layer, thumbnails: Sequence[FramePixels]) -> list[str]:
    """Return a line on dates with reflectance that land cannot have, if there are any."""
    dates = []
    for day, thumbnail in zip(layer.days, thumbnails, strict=True):
        if thumbnail.impossible_share:
            dates.append(f"{day} {_percent(thumbnail.impossible_share)}")
    if not dates:
        return []
    limits = layer.frames[0].possible
    condition = f"red, green or blue outside {limits.low:g}..{limits.high:g}"
    return [f"impossible reflectance, which does not count as clear ({condition}): {', '.join(dates)}"]


def _describe_layer(layer: Layer) -> list[str]:
    """Return lines on bands, units, quality rules and pixel sizes of a sensor."""
    frames = layer.frames
    lines = [f"bands: {' '.join(layer.sensor.band_ids)}"]
    for units, count in Counter(frame.units for frame in frames).items():
        lines.append(f"units: {_formula(units)}; {units.source}" + _format_count(count, len(frames)))
    rules = Counter(frame.quality.rule if frame.quality else None for frame in frames)
    for rule, count in rules.items():
        text = "no quality layer, all pixels with data count as clear"
        if rule is not None:
            text = f"{rule}: {RULES[rule].source}"
        lines.append(f"clear: {text}" + _format_count(count, len(frames)))
    bands_of_size: dict[str, list[str]] = {}
    for band in layer.sensor.band_ids:
        size = _format_pixel_size(frames[0].bands[band].grid())
        bands_of_size.setdefault(size, []).append(band)
    sizes = [f"{size}: {' '.join(bands)}" for size, bands in bands_of_size.items()]
    lines.append(f"pixels in the files: {'; '.join(sizes)}")
    return lines


def _formula(units: Units) -> str:
    formula = f"reflectance = stored x {units.scale:g}"
    if units.offset:
        sign = "-" if units.offset < 0 else "+"
        formula += f" {sign} {abs(units.offset):g}"
    return formula


def _format_count(count: int, total: int) -> str:
    return "" if count == total else f" ({count} of {counted(total, 'product')})"


def _draw_contact_sheet(scene: Scene, shares: dict[str, list[float]], path: Path, console: Console) -> None:
    """Draw the clearest date of each of up to 12 stretches of the series, for every sensor, and write a PNG.

    Args:
        scene: Scene to draw.
        shares: Clear shares of all dates, by sensor.
        path: Path of the picture.
        console: Console for progress.
    """
    # Importing matplotlib takes long.
    from matplotlib.figure import Figure

    rows, columns = scene.grid.shape
    per_line = 4 if columns <= 1.6 * rows else 3
    line_height = DATE_WIDTH * min(max(rows / columns, 0.3), 2.2) + 0.25
    selected = [_clearest_positions(shares[sensor.name]) for sensor in scene.sensors]
    line_counts = [math.ceil(len(positions) / per_line) for positions in selected]
    height = line_height * sum(line_counts) + 0.5 * len(line_counts) + 0.5
    figure = Figure(figsize=(per_line * DATE_WIDTH, height), layout="constrained")
    figure.suptitle(f"{scene.name}\nunder a blue veil: not clear; gray: no data", fontsize=10)
    parts = figure.subfigures(len(line_counts), 1, height_ratios=line_counts, squeeze=False)[:, 0]
    for part, layer, positions, line_count in zip(parts, scene.layers, selected, line_counts, strict=True):
        days = [layer.days[position] for position in positions]
        dates = counted(len(days), "date")
        if len(days) < len(layer.days):
            dates = f"{len(days)} of {len(layer.days)} dates, the clearest of their time"
        bands = ", ".join(composite_bands(layer.sensor))
        part.suptitle(f"{layer.sensor.name}: true color ({bands}), {dates}", fontsize=10)
        images = _stretch(_read_dates(scene, layer, days, PICTURE_PIXELS, console))
        axes = part.subplots(line_count, per_line, squeeze=False).ravel()
        for axis, image, position in zip(axes, images, positions, strict=False):
            share = shares[layer.sensor.name][position]
            axis.imshow(image, interpolation="nearest")
            axis.set_title(f"{layer.days[position]}   {_percent(share)} clear", fontsize=9)
        for axis in axes:
            axis.set_axis_off()
    save_png(figure, path, dpi=110)


def _clearest_positions(shares: list[float]) -> list[int]:
    """Return positions of up to 12 dates: the clearest of each of so many equal stretches of the series."""
    stretches = np.array_split(np.arange(len(shares)), min(MAX_DATES, len(shares)))
    return [max(stretch.tolist(), key=lambda position: shares[position]) for stretch in stretches]


def _stretch(thumbnails: list[FramePixels]) -> list[np.ndarray]:
    """Return images ``(h, w, 3)`` in 0..1; all dates are stretched between the same limits."""
    limits = stretch_limits(thumbnails)
    images = []
    for thumbnail in thumbnails:
        image = veiled(stretched(thumbnail.image, limits), thumbnail.clear)
        images.append(np.where(np.isnan(image), NO_DATA_GRAY, image))
    return images


def stretch_limits(composites: Sequence[FramePixels]) -> tuple[np.ndarray, np.ndarray]:
    """Return the darkest and brightest reflectance ``(3)`` of images: percentiles 2 and 98 of their clear pixels."""
    reference = np.concatenate([composite.image[:, composite.clear] for composite in composites], axis=1)
    if not reference.size:
        reference = np.concatenate([composite.image[:, composite.has_data] for composite in composites], axis=1)
    if not reference.size:
        return np.zeros(3), np.ones(3)
    low, high = np.percentile(reference, (2, 98), axis=1)
    return low, high


def stretched(image: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Stretch reflectance ``(3, h, w)`` between limits to ``(h, w, 3)`` in 0..1; NaN stays."""
    low, high = limits
    return ((image.transpose(1, 2, 0) - low) / np.maximum(high - low, 1e-6)).clip(0, 1)


def veiled(image: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return an image ``(h, w, 3)`` with a blue veil over pixels that are not clear."""
    mixed = 0.45 * image + 0.55 * VEIL
    return np.where(clear[..., None], image, mixed)
