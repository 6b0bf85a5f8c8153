"""Chips in the original's HDF5 layout, with the optional extras this project adds.

One file is one sample: a dataset ``<sensor> (T, C, H, W)`` for each sensor and an integer ``label (H, W)``.
Beyond the original, all optional: ``<sensor>_dates (T)`` ISO dates, ``<sensor>_mask (T, H, W)`` with 1 where
the ground was seen, ``instances (H, W)`` with the number of the field, 0 where there is none and -1 where nobody knows,
the attribute ``bands`` on a sensor's dataset, and ``crs`` and ``transform`` (a, b, c, d, e, f
of the label's grid) on the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path

import h5py
import numpy as np
import torch

from agrifm.data.chip_values import chronological, days_of, torch_numbers
from agrifm.data.georeference import Georeference, read_place
from agrifm.data.hdf5 import ChipFile, attribute, open_chip
from agrifm.errors import InputError
from agrifm.io import whole
from agrifm.sample import Sample
from agrifm.sensors import Sensor

__all__ = [
    "FrameChoice",
    "Georeference",
    "band_positions",
    "check_header",
    "open_chip",
    "read_chip",
    "read_place",
    "write_chip",
]

FrameChoice = Callable[[int], np.ndarray]


def read_chip(
    path: Path,
    sensors: Sequence[Sensor],
    *,
    label_key: str | tuple[str, ...] | None = "label",
    allow_missing: bool = False,
    allow_links: bool = False,
    frames: FrameChoice | None = None,
) -> Sample:
    """Read one chip: only the named sensors, their bands and the chosen frames, in the order of their dates.

    Args:
        path: the HDF5 file; its stem becomes the sample's name.
        sensors: what to read.
        label_key: dataset that holds the label, or several, stacked to ``(n, h, w)``; None reads none.
        allow_missing: accept a chip that lacks some, not all, of the sensors.
        allow_links: follow links to other files, virtual data sets and external storage.
        frames: takes a frame count and returns the sorted frame numbers to read.

    Raises:
        InputError: a key is missing or has the wrong form, or links are not allowed.
    """
    with open_chip(path, allow_links=allow_links, whole=True) as file:
        present = _present(file, sensors, allow_missing=allow_missing)
        images, dates, valid = {}, {}, {}
        for sensor in present:
            name = sensor.name
            stored = _stored_image(file, sensor)
            days = _read_days(file, name, stored.shape[0])
            chosen = _chosen_frames(stored, days, frames)
            image = _read_image(file, stored, sensor, chosen)
            seen = ~sensor.unseen(image, 1) & _read_mask(file, stored, sensor, chosen)
            images[name], valid[name] = _finite(file, sensor, image, seen)
            if days is not None:
                dates[name] = torch.from_numpy(days[chosen])
        _check_dates(file, images, dates)
        label = None if label_key is None else _read_labels(file, label_key)
    _check_footprint(path, {name: image.shape[-2:] for name, image in images.items()}, label)
    return Sample(images=images, dates=dates, valid=valid, label=label, name=path.stem)


def check_header(
    path: Path, sensors: Sequence[Sensor], *, allow_missing: bool = False, allow_links: bool = False
) -> None:
    """Look at what a chip holds without reading its images.

    Raises:
        InputError: a sensor is missing, or its dataset has the wrong form.
    """
    with open_chip(path, allow_links=allow_links) as file:
        for sensor in _present(file, sensors, allow_missing=allow_missing):
            band_positions(file, _stored_image(file, sensor), sensor)


def write_chip(
    path: Path,
    sample: Sample,
    sensors: Sequence[Sensor],
    place: Georeference | None = None,
    fields: np.ndarray | None = None,
) -> None:
    """Write one chip; it appears whole, by rename. ``fields (h, w)`` become the dataset ``instances``."""
    # Writers of chips clear their folder before they begin; to list it for every chip would take longer than all else.
    with whole(path, tidy=False) as unfinished:
        unfinished.write_bytes(_to_bytes(sample, sensors, place, fields))


def _to_bytes(
    sample: Sample, sensors: Sequence[Sensor], place: Georeference | None, fields: np.ndarray | None
) -> memoryview | bytes:
    """The HDF5 file in memory: libhdf5 crashes where it meets a full disk."""
    with h5py.File("chip", "w", driver="core", backing_store=False) as file:
        for sensor in sensors:
            if sensor.name in sample.images:
                _write_sensor(file, sample, sensor)
        if sample.label is not None:
            label = sample.label.numpy()
            fits = label.size == 0 or (label.min() >= -(1 << 15) and label.max() < 1 << 15)
            file.create_dataset("label", data=label.astype(np.int16 if fits else np.int64), compression="gzip")
        if fields is not None:
            file.create_dataset("instances", data=fields.astype(np.int32), compression="gzip")
        if place is not None:
            file.attrs["crs"], file.attrs["transform"] = place.crs, place.transform
        file.flush()
        return file.id.get_file_image()


def _write_sensor(file: h5py.File, sample: Sample, sensor: Sensor) -> None:
    image = sample.images[sensor.name].numpy()
    stored = file.create_dataset(
        sensor.name,
        data=image,
        chunks=(1, *image.shape[1:]),
        compression="gzip",
        compression_opts=2,
        shuffle=True,
    )
    stored.attrs["bands"] = list(sensor.band_ids)
    if sensor.name in sample.dates:
        days = sample.dates[sensor.name].numpy().astype("datetime64[D]")
        file[f"{sensor.name}_dates"] = days.astype("S10")
    if sensor.name in sample.valid:
        mask = sample.valid[sensor.name].numpy().astype(np.uint8)
        file.create_dataset(f"{sensor.name}_mask", data=mask, compression="gzip")


def _present(file: ChipFile, sensors: Sequence[Sensor], *, allow_missing: bool) -> list[Sensor]:
    """The sensors that the chip holds.

    Raises:
        InputError: one is missing although all must be there, or all are.
    """
    present = [sensor for sensor in sensors if sensor.name in file]
    if present and (len(present) == len(sensors) or allow_missing):
        return present
    missing = [sensor.name for sensor in sensors if sensor not in present]
    raise InputError(
        file.where(", ".join(missing)),
        found=f"datasets {file.names()}",
        expected=f"a dataset (T, C, H, W) for each of {', '.join(s.name for s in sensors)}",
        repair="add the dataset, drop the sensor from 'sensors', or set 'allow_missing: true' if sensors may lack.",
    )


def _stored_image(file: ChipFile, sensor: Sensor) -> h5py.Dataset:
    stored = file.numbers(sensor.name, "iuf")
    if stored.ndim != 4 or 0 in stored.shape:
        raise InputError(
            file.where(sensor.name),
            found=f"shape {stored.shape}",
            expected="(T, C, H, W) with at least one of each",
            repair="write the series with four axes; a single date is T=1.",
        )
    return stored


def _read_days(file: ChipFile, sensor: str, frames: int) -> np.ndarray | None:
    """Days of the frames since 1970-01-01 ``(t)``, or None where the chip does not say."""
    key = f"{sensor}_dates"
    stored = file.find(key)
    if stored is None:
        return None
    if stored.shape != (frames,):
        raise InputError(
            file.where(key),
            found=f"shape {stored.shape}",
            expected=f"one date for each of the {frames} frames of {sensor}",
            repair="write as many dates as frames, as a list of texts like 2023-05-14.",
        )
    return days_of(file.read(key, stored), file.where(key))


def _check_dates(file: ChipFile, images: Mapping[str, torch.Tensor], dates: Mapping[str, torch.Tensor]) -> None:
    """Refuse dates of some sensors only: the others would count as spread over the year 1970."""
    undated = [name for name in images if name not in dates]
    if dates and undated:
        raise InputError(
            file.where(f"{undated[0]}_dates"),
            found=f"no dates of {', '.join(undated)}, but dates of {', '.join(dates)}",
            expected="dates of every sensor, or of none",
            repair=f"write the dataset '{undated[0]}_dates', or leave the sensor out of 'sensors'.",
        )


def _chosen_frames(stored: h5py.Dataset, days: np.ndarray | None, frames: FrameChoice | None) -> np.ndarray:
    """Numbers of the frames to read, in the order of their dates."""
    chosen = np.arange(stored.shape[0]) if frames is None else frames(stored.shape[0])
    return chosen if days is None else chronological(days)[chosen]


def band_positions(file: ChipFile, stored: h5py.Dataset, sensor: Sensor) -> list[int]:
    """Positions along the channel axis of the sensor's bands, in the sensor's order.

    Raises:
        InputError: a band is missing, or the count is wrong and the file does not name its bands.
    """
    where = file.where(sensor.name)
    names = _band_names(stored, where)
    if names is not None:
        missing = [band for band in sensor.band_ids if names.count(band) != 1]
        if not missing and len(names) == stored.shape[1]:
            return [names.index(band) for band in sensor.band_ids]
        raise InputError(
            where,
            found=f"bands {', '.join(names)} for {stored.shape[1]} channels",
            expected=f"bands {', '.join(sensor.band_ids)}, each once",
            repair="add the missing bands, correct the attribute 'bands', or define a sensor with the bands you have.",
        )
    if stored.shape[1] != len(sensor.bands):
        raise InputError(
            where,
            found=f"{stored.shape[1]} bands",
            expected=f"{len(sensor.bands)}: {', '.join(sensor.band_ids)}",
            repair="store these bands in this order, or define a sensor with the bands you have.",
        )
    return list(range(stored.shape[1]))


def _band_names(stored: h5py.Dataset, where: str) -> list[str] | None:
    """The attribute ``bands``, or None where the file does not name its bands."""
    value = attribute(stored, "bands", f"{where}: attribute 'bands'")
    if value is None:
        return None
    listed = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else [None]
    names: list[str] = []
    for name in listed:
        text = name.decode(errors="replace") if isinstance(name, bytes) else name
        if not isinstance(text, str):
            raise InputError(
                f"{where}: attribute 'bands'",
                found=str(value)[:200],
                expected="a list of names, one for each channel",
                repair="write the names as a list of texts, or delete the attribute.",
            )
        names.append(text)
    return names


def _read_image(file: ChipFile, stored: h5py.Dataset, sensor: Sensor, chosen: np.ndarray) -> torch.Tensor:
    positions = band_positions(file, stored, sensor)
    wanted = sorted(positions)
    part = len(chosen) * len(wanted) / (stored.shape[0] * stored.shape[1])
    image = file.read(sensor.name, stored, lambda x: _read_frames(x, chosen, wanted), part)
    image = image[:, [wanted.index(position) for position in positions]]
    return torch_numbers(image, file.where(sensor.name))


def _read_frames(stored: h5py.Dataset, chosen: np.ndarray, bands: list[int]) -> np.ndarray:
    """Frames in any order; h5py wants them in ascending order."""
    rising = np.sort(chosen)
    if len(bands) < stored.shape[1]:
        image = np.stack([stored[int(frame), bands] for frame in rising])
    else:
        image = stored[:] if len(rising) == stored.shape[0] else stored[rising]
    return image if np.array_equal(rising, chosen) else image[np.searchsorted(rising, chosen)]


def _read_mask(file: ChipFile, image: h5py.Dataset, sensor: Sensor, chosen: np.ndarray) -> torch.Tensor:
    """Where the ground was seen ``(t, h, w)``, as the chip says it; everywhere if it does not."""
    t, _, h, w = image.shape
    key = f"{sensor.name}_mask"
    if key not in file:
        return torch.ones(len(chosen), h, w, dtype=torch.bool)
    stored = file.numbers(key, "iufb")
    if stored.shape != (t, h, w):
        raise InputError(
            file.where(key),
            found=f"shape {stored.shape}",
            expected=f"(T, H, W) of {sensor.name}, whose shape is {image.shape}",
            repair="write one mask value for every pixel and date; 1 where the ground was seen.",
        )
    mask = file.read(key, stored, lambda x: x[np.sort(chosen)], len(chosen) / t)
    return torch.from_numpy(mask[np.searchsorted(np.sort(chosen), chosen)] > 0)


def _finite(
    file: ChipFile, sensor: Sensor, image: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refuse NaN and infinity where the ground counts as seen; zero them where it does not."""
    if not image.is_floating_point():
        return image, valid
    bad = ~torch.isfinite(image.float())  # batches are float32, where larger numbers are infinite
    if sensor.nodata is not None and isnan(sensor.nodata):
        valid = valid & ~bad.any(1)
    seen = bad & valid.unsqueeze(1)
    if seen.any():
        raise InputError(
            file.where(sensor.name),
            found=f"{int(seen.sum())} NaN or infinite values, the first at (t, c, h, w) {seen.nonzero()[0].tolist()}",
            expected="finite numbers wherever the mask says that the ground was seen",
            repair=f"write 0 there and mark the pixels 0 in '{sensor.name}_mask', or set the sensor's 'nodata: .nan'.",
        )
    return image.masked_fill(bad, 0.0), valid


def _read_labels(file: ChipFile, keys: str | tuple[str, ...]) -> torch.Tensor:
    if isinstance(keys, str):
        return _read_label(file, keys)
    labels = [_read_label(file, key) for key in keys]
    if len({label.shape for label in labels}) > 1:
        raise InputError(
            file.where(", ".join(keys)),
            found=f"shapes {', '.join(str(tuple(label.shape)) for label in labels)}",
            expected="labels on one grid",
            repair="write them with the same rows and columns.",
        )
    return torch.stack(labels)


def _read_label(file: ChipFile, key: str) -> torch.Tensor:
    stored = file.find(key)
    if stored is None or stored.ndim != 2 or stored.dtype.kind not in "iu" or 0 in stored.shape:
        found = f"datasets {file.names()}" if stored is None else f"{stored.dtype} of shape {stored.shape}"
        raise InputError(
            file.where(key),
            found=found,
            expected="an integer label (H, W)",
            repair="write the label, or use a command that needs none (agrifm predict).",
        )
    return torch_numbers(file.read(key, stored, part=8 / stored.dtype.itemsize), file.where(key)).long()


def _check_footprint(path: Path, shapes: Mapping[str, Sequence[int]], label: torch.Tensor | None) -> None:
    """Refuse grids that cannot cover the same ground: another ratio of rows to columns, beyond a pixel."""
    shapes = {**shapes, **({} if label is None else {"label": label.shape[-2:]})}
    reference, (rows, columns) = max(shapes.items(), key=lambda item: item[1][0] * item[1][1])
    for name, (h, w) in shapes.items():
        # The sides of a pixel, in pixels of the reference, if its grid is up to a pixel larger or smaller.
        low = max(rows / (h + 1), columns / (w + 1))
        high = min(rows / max(h - 1, 1e-9), columns / max(w - 1, 1e-9))
        if low > high:
            raise InputError(
                f"{path}: {name}",
                found=f"{h} x {w} pixels where {reference} has {rows} x {columns}",
                expected="grids of one footprint on the ground: the same ratio of rows to columns",
                repair="cut all sensors and the label to the same ground.",
            )
