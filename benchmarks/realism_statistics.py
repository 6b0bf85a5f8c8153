"""The statistics of realism.py, whose docstring defines them, on grids of realism_data.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from realism_data import Grid, Place
from scipy import ndimage

GROUPS = {"visible": (0.4, 0.69), "red edge": (0.69, 0.80), "NIR": (0.80, 0.90), "SWIR": (1.5, 2.4)}  # micrometers
BLUE, RED, NIR = (0.45, 0.51), (0.63, 0.68), (0.83, 0.88)
LEAST = 12  # inner pixels of a field whose deviation counts
LEAST_DATES = 8  # dates with a curve beneath the statistics of noise
LEAST_FOR_LAGS = 60  # inner pixels of a field whose autocorrelation counts
WINDOW = 12.0  # days; deviation of the weights of the smooth curve
NEIGHBORHOOD = 15  # days within which observations follow one another
MAD = 1.4826  # deviation of normal numbers by their median absolute deviation
HAZE, SHADOW = 0.02, 0.2
Values = dict[str, list[float]]


def inner_pixels(fields: np.ndarray, least: int) -> dict[int, np.ndarray]:
    """Pixels ``(h, w)`` of each field that are not at its border, for fields with enough of them."""
    found = {}
    for number in np.unique(fields[fields > 0]):
        inside = ndimage.binary_erosion(fields == number)
        if inside.sum() >= least:
            found[int(number)] = inside
    return found


def bands_in(grid: Grid, limits: tuple[float, float]) -> np.ndarray:
    """Indices of the bands between two wavelengths."""
    low, high = limits
    return np.flatnonzero((grid.wavelengths >= low) & (grid.wavelengths < high))


def measure_variation(grid: Grid, values: Values) -> None:
    """Deviation within fields, and between fields of one crop."""
    inner = inner_pixels(grid.fields, LEAST)
    for t in range(len(grid.days)):
        means = defaultdict(list)
        for inside in inner.values():
            if not grid.clear[t][inside].all():
                continue
            pixels = grid.image[t][:, inside]
            means[int(grid.crop[inside][0])].append(pixels.mean(1))
            for name, limits in GROUPS.items():
                bands = bands_in(grid, limits)
                values[f"within {name}"] += pixels[bands].std(1).tolist()
        for several in means.values():
            if len(several) < 3:
                continue
            deviation = np.std(several, axis=0, ddof=1)
            for name, limits in GROUPS.items():
                values[f"between {name}"] += deviation[bands_in(grid, limits)].tolist()


def measure_lags(grid: Grid, values: Values) -> None:
    """Spatial autocorrelation of near infrared within fields, on pixels of 10 m and 30 m."""
    bands = bands_in(grid, NIR)
    if grid.gsd == 20 or len(bands) == 0:
        return
    for inside in inner_pixels(grid.fields, LEAST_FOR_LAGS).values():
        for t in range(len(grid.days)):
            if not grid.clear[t][inside].all():
                continue
            band = grid.image[t, bands[0]]
            departure = np.where(inside, band - band[inside].mean(), 0)
            variance = (departure[inside] ** 2).mean()
            for lag in (1, 3):
                values[f"lag {lag}"].append(_lagged_product(departure, inside, lag) / variance)


def _lagged_product(departure: np.ndarray, inside: np.ndarray, lag: int) -> float:
    """Mean product of pixels and those ``lag`` pixels to the east or south, where both lie inside."""
    total = 0.0
    pairs = 0
    for here, there in ((np.s_[:, :-lag], np.s_[:, lag:]), (np.s_[:-lag], np.s_[lag:])):
        both = inside[here] & inside[there]
        total += (departure[here] * departure[there])[both].sum()
        pairs += both.sum()
    return total / max(pairs, 1)


def smooth_curve(series: np.ndarray, clear: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Curve at all dates from the clear observations of other dates ``(t, n)``; NaN without any on either side."""
    apart = (days[None, :] - days[:, None]).astype(np.float64)
    kernel = np.exp(-0.5 * (apart / WINDOW) ** 2) * (abs(apart) < 3 * WINDOW) * (apart != 0)
    before = (kernel * (apart < 0)) @ clear
    after = (kernel * (apart > 0)) @ clear
    weights = clear.astype(np.float64)
    for _ in range(3):
        curve = _local_line(series, weights, kernel, apart)
        residual = np.ma.masked_invalid(np.where(clear, series - curve, np.nan))
        scale = 6 * np.ma.median(abs(residual), axis=0).filled(1.0)
        relative = residual.filled(np.inf) / np.maximum(scale, 1e-6)
        weights = clear * np.maximum(1 - relative**2, 0) ** 2
    return np.where((before > 0.2) & (after > 0.2), curve, np.nan)


def _local_line(series: np.ndarray, weights: np.ndarray, kernel: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Value at each date of the line through its neighbors, by weighted least squares ``(t, n)``."""
    weighted = weights * np.where(weights > 0, series, 0)
    sum_0 = kernel @ weights
    sum_1 = (kernel * apart) @ weights
    sum_2 = (kernel * apart**2) @ weights
    product_0 = kernel @ weighted
    product_1 = (kernel * apart) @ weighted
    determinant = sum_0 * sum_2 - sum_1**2
    return (sum_2 * product_0 - sum_1 * product_1) / np.where(determinant > 1e-6, determinant, np.nan)


def measure_noise(grid: Grid, values: Values) -> None:
    """Temporal noise of the inner pixels of fields, and what a cloud mask has missed."""
    inner = inner_pixels(grid.fields, LEAST)
    if not inner:
        return
    number = np.zeros(grid.fields.shape, int)
    for field_number, inside in inner.items():
        number[inside] = field_number
    chosen = number > 0
    clear = grid.clear[:, chosen]
    for band, wavelength in enumerate(grid.wavelengths):
        series = grid.image[:, band][:, chosen].astype(np.float64)
        curve = smooth_curve(series, clear, grid.days)
        residual = np.where(clear, series - curve, np.nan)
        known = np.isfinite(residual)
        if known.any(1).sum() < LEAST_DATES:
            continue
        for name, (low, high) in GROUPS.items():
            if low <= wavelength < high:
                values[f"noise {name}"].append(MAD * float(np.median(abs(residual[known]))))
        if BLUE[0] <= wavelength < BLUE[1]:
            values["haze left"] += (residual[known] > HAZE).tolist()
        if NIR[0] <= wavelength < NIR[1]:
            values["shadow left"] += (residual[known] < -SHADOW * curve[known]).tolist()
            if grid.gsd != 20:
                _describe_noise(residual, number[chosen], grid.days, values)


def _describe_noise(residual: np.ndarray, field: np.ndarray, days: np.ndarray, values: Values) -> None:
    """Share of the noise ``(t, n)`` that a field has in common, and correlation with the next observation."""
    limit = 3 * MAD * np.nanmedian(abs(residual))
    cut = np.clip(residual, -limit, limit)
    for number in np.unique(field):
        members = cut[:, field == number]
        whole = np.isfinite(members).all(1)
        if whole.sum() >= 4:
            values["common"].append(members[whole].mean(1).var() / members[whole].var())
    pairs = []
    for pixel in cut.T:
        seen = np.flatnonzero(np.isfinite(pixel))
        close = np.diff(days[seen]) <= NEIGHBORHOOD
        pairs.append(np.stack([pixel[seen[:-1]], pixel[seen[1:]]])[:, close])
    first, second = np.concatenate(pairs, axis=1)
    if len(first) > 100:
        values["noise lag"].append(float((first * second).mean() / (cut[np.isfinite(cut)] ** 2).mean()))


def measure_sky(grid: Grid, values: Values) -> None:
    """Share of clear observations, and days between them, of the pixels of fields."""
    chosen = grid.fields > 0
    clear = grid.clear[:, chosen]
    values["clear"] += clear.mean(0).tolist()
    for pixel in clear.T:
        values["gaps"] += np.diff(grid.days[pixel]).tolist()


def measure_edges(grid: Grid, values: Values) -> None:
    """Share of pixels at the borders of fields, and how sharp these are."""
    edge = np.zeros(grid.fields.shape, bool)
    bands = bands_in(grid, NIR)
    inner = inner_pixels(grid.fields, LEAST)
    steps = defaultdict(list)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1, :], np.s_[1:, :])):
        one, other = grid.fields[first], grid.fields[second]
        border = one != other
        edge[first] |= border
        edge[second] |= border
        step = grid.image[:, bands[0]][(slice(None), *second)] - grid.image[:, bands[0]][(slice(None), *first)]
        for y, x in np.argwhere(border & (one > 0) & (other > 0)):
            steps[(one[y, x], other[y, x])].append(step[:, y, x])
    values["edges"] += edge[grid.fields > 0].tolist()
    for (one, other), of_pair in steps.items():
        if one not in inner or other not in inner or len(of_pair) < 6:
            continue
        both = inner[one] | inner[other]
        for t in np.flatnonzero(grid.clear[:, both].all(1)):
            band = grid.image[t, bands[0]]
            contrast = band[inner[other]].mean() - band[inner[one]].mean()
            if abs(contrast) > 0.06:
                values["sharpness"].append(np.mean(of_pair, axis=0)[t] / contrast)


def measure_seasons(grid: Grid, ends: dict[int, list[float]]) -> None:
    """Days on which the NDVI of fields with annual crops has fallen half-way from its peak, by crop."""
    red, nir = bands_in(grid, RED), bands_in(grid, NIR)
    if len(red) == 0 or len(nir) == 0:
        return
    for inside in inner_pixels(grid.fields, LEAST).values():
        crop = int(grid.crop[inside][0])
        seen = grid.clear[:, inside].mean(1) > 0.9
        if crop not in grid.annual or seen.sum() < 8:
            continue
        of_field = grid.image[seen][:, :, inside].mean(-1)
        ndvi = (of_field[:, nir[0]] - of_field[:, red[0]]) / (of_field[:, nir[0]] + of_field[:, red[0]])
        end = season_end(grid.days[seen], ndvi)
        if end is not None:
            ends[crop].append(end)


def season_end(days: np.ndarray, ndvi: np.ndarray) -> int | None:
    """Day on which a series has fallen half-way from its peak, or None if it does not fall by 0.25."""
    every_day = np.arange(days[0], days[-1] + 1)
    curve = ndimage.gaussian_filter1d(np.interp(every_day, days, ndvi), 8)
    peak = int(curve.argmax())
    falling = curve[peak:]
    if curve[peak] - falling.min() < 0.25:
        return None
    below = falling < (falling.min() + curve[peak]) / 2
    return int(every_day[peak + below.argmax()])


def spread(days: dict[int, list[float]]) -> float:
    """Scaled median absolute deviation of days from the median of their crop; NaN for fewer than ten fields."""
    groups = [np.array(group) for group in days.values() if len(group) >= 3]
    if sum(map(len, groups)) < 10:
        return np.nan
    departures = np.concatenate([group - np.median(group) for group in groups])
    return float(MAD * np.median(abs(departures)))


def measure(places: Iterable[Place], of_dates: bool = True) -> dict[str, float]:
    """All statistics of one set; ``of_dates`` says whether its dates were left as they came."""
    values: Values = defaultdict(list)
    ends: dict[int, list[float]] = defaultdict(list)
    for place in places:
        for grid in place:
            measure_variation(grid, values)
            measure_lags(grid, values)
            if of_dates:
                measure_noise(grid, values)
        finest = place[0]
        measure_edges(finest, values)
        if of_dates:
            measure_sky(finest, values)
            measure_seasons(finest, ends)
    result = {}
    for name, numbers in values.items():
        if not numbers:
            continue
        shares = name in ("haze left", "shadow left", "clear", "edges")
        result[name] = float(np.mean(numbers) if shares else np.median(numbers))
    if values["gaps"]:
        result["long gaps"] = float(np.quantile(values["gaps"], 0.9))
    result["ends"] = spread(ends)
    return result
