"""Dates of chips whose numbers contradict the other dates: each chip is judged by itself, then they vote by day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from agrifm.checks.band_order import BandOrder
from agrifm.checks.series import Fault, Series, faults
from agrifm.checks.survey import Survey
from agrifm.sample import Sample
from agrifm.sensors import Sensor

PLACES = 256  # of a chip at which its dates are compared
MANY = 3  # chips that must show a date before it is refused


def vote(seen: Survey, sample: Sample, sensor: Sensor) -> None:
    """Note for every date of a chip whether it could be judged, and what is wrong with it."""
    if sensor.name not in sample.images:
        return
    series, days = _series(sample, sensor)
    votes = seen.votes.setdefault(sensor.name, {})
    for day in days:
        votes.setdefault(day, Counter())["shown"] += 1
    for step in series.judged:
        votes.setdefault(days[step], Counter())["judged"] += 1
    for fault in faults(series):
        counts = votes.setdefault(days[fault.step], Counter())
        counts["judged"] += int(fault.step not in series.judged)
        counts[_kind(fault)] += 1
        counts["sure", *_kind(fault)] += int(fault.sure)


def _kind(fault: Fault) -> tuple:
    return fault.kind, fault.amount, fault.bands


def _series(sample: Sample, sensor: Sensor) -> tuple[Series, list[int | str]]:
    """Some pixels of a chip through its dates, and the dates: days since 1970, or numbers of frames."""
    image, mask = sample.images[sensor.name], sample.mask(sensor.name)
    t, c = image.shape[:2]
    stride = max(1, image.shape[-2] * image.shape[-1] // PLACES)
    stored = image.reshape(t, c, -1)[:, :, ::stride].numpy().astype(np.float32)
    clear = mask.reshape(t, -1)[:, ::stride].numpy()
    gone = (stored == 0).all(1) if sensor.nodata is None else (stored == sensor.nodata).all(1)
    reflectance = stored * np.float32(sensor.scale) + np.float32(sensor.offset)
    reflectance[np.broadcast_to(gone[:, None], reflectance.shape)] = np.nan
    masked = np.full(t, bool((mask.logical_not() & torch.from_numpy(~_all_gone(image, sensor))).any()))
    days: list[int | str] = [f"frame {i + 1}" for i in range(t)]
    if sensor.name in sample.dates:
        days = sample.dates[sensor.name].tolist()
    order = np.argsort(days, kind="stable") if sensor.name in sample.dates else np.arange(t)
    series = Series(sensor, reflectance[order], clear[order], masked, least=30)
    return series, [days[i] for i in order]


def _all_gone(image: torch.Tensor, sensor: Sensor) -> np.ndarray:
    return (image == (0 if sensor.nodata is None else sensor.nodata)).all(1).numpy()


def odd_days(seen: Survey, sensor: Sensor) -> Iterator[BandOrder]:
    """Dates on which most chips contradict their other dates; those that haze may explain become warnings."""
    odd: dict[tuple, list[tuple[int | str, int, int]]] = {}
    for day, votes in seen.votes.get(sensor.name, {}).items():
        kinds = [kind for kind in votes if isinstance(kind, tuple) and kind[0] != "sure"]
        if not kinds:
            continue
        kind = max(kinds, key=lambda one: votes[one])
        count, judged, sure = votes[kind], votes["judged"], votes["sure", *kind]
        # Haze comes with clouds, which keep chips from being judged, and hides the fields.
        if judged >= MANY and judged >= votes["shown"] / 2 and sure >= 0.6 * judged:
            odd.setdefault(kind, []).append((day, count, judged))
        elif count > judged / 2:
            error = _odd_days(kind, [(day, count, judged)], sensor)
            seen.warnings.append(f"{error.where}: {error.found}: haze, or wrong numbers")
    for kind, days in odd.items():
        yield _odd_days(kind, sorted(days, key=lambda entry: str(entry[0])), sensor)


def _odd_days(kind: tuple, days: Sequence[tuple[int | str, int, int]], sensor: Sensor) -> BandOrder:
    names = [day if isinstance(day, str) else str(np.datetime64(day, "D")) for day, _, _ in days]
    what, amount, bands = kind
    found = {
        "offset": f"reflectance lies {abs(amount):g} {'above' if amount > 0 else 'below'} that of the other dates in "
        "every band",
        "scale": f"reflectance is about {amount:g} times that of the other dates in every band",
        "order": f"{' and '.join(bands or ())} seem exchanged, and all other bands are as on the other dates",
    }[what]
    option = {
        "offset": f"--set offsets='{{{', '.join(f'{name}: {round(-amount, 6):g}' for name in names)}}}'",
        "scale": f"--set scales='{{{', '.join(f'{name}: {1e-4 / (amount or 1):g}' for name in names)}}}'",
    }.get(what, "")
    again = f"--set skip_dates='[{', '.join(names)}]'" + (f", or with {option}" if option else "")
    dated = not any(isinstance(day, str) for day, _, _ in days)
    repair = f"cut the chips again, e.g. by 'agrifm chips' with {again}" if dated else "write these frames again"
    return BandOrder(
        f"all chips: {sensor.name}, {', '.join(names[:6])}{' and more' * (len(names) > 6)}",
        found=f"{found} ({days[0][1]} of {days[0][2]} chips that show {names[0]} without clouds)",
        expected="the same scale, offset and order of bands on every date",
        repair=f"{repair}; or set 'check_bands: false' in the data section if the numbers are right.",
    )
