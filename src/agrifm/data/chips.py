"""Chips in the HDF5 layout of the original, with optional extensions.

One file is one sample: a dataset ``<sensor> (T, C, H, W)`` for each sensor and an integer ``label (H, W)``. Extensions:
``<sensor>_dates (T)``, ISO dates; ``<sensor>_mask (T, H, W)``, 1 where the ground is visible; ``instances (H, W)``, the
number of the field, 0 outside of fields and -1 where it is unknown; the attribute ``bands`` of a sensor's dataset; and
the attributes ``crs`` and ``transform`` (a, b, c, d, e, f of the label's grid) and ``block`` of the file: chips of one
block stay in one fold of a cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path

import h5py
import numpy as np
import torch

from agrifm.data.chip_values import chronological, parse_days, to_torch
from agrifm.data.georeference import Georeference, read_georeference
from agrifm.data.hdf5 import ChipFile, attribute, open_chip
from agrifm.errors import InputError, counted
from agrifm.io import whole
from agrifm.sample import Sample
from agrifm.sensors import Sensor

__all__ = [
    "FrameChoice",
    "Georeference",
    "band_positions",
    "check_header",
    "open_chip",
    "read_block",
    "read_chip",
    "read_georeference",
    "write_chip",
]

FrameChoice = Callable[[int], np.ndarray]  # takes a number of frames and returns the sorted numbers of those to read

INT16 = np.iinfo(np.int16)


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
        path: Path of the HDF5 file; its stem becomes the sample's name.
        sensors: Sensors to read.
        label_key: Dataset of the label, or several that are stacked to ``(n, h, w)``; None reads no label.
        allow_missing: Accept a chip that lacks some, but not all, of the sensors.
        allow_links: Follow links to other files, virtual datasets and external storage.
        frames: Choice of the frames to read.

    Raises:
        InputError: If a key is missing or has the wrong form, or links are not allowed.
    """
    images: dict[str, torch.Tensor] = {}
    dates: dict[str, torch.Tensor] = {}
    valid: dict[str, torch.Tensor] = {}
    label = None
    with open_chip(path, allow_links=allow_links, whole=True) as file:
        for sensor in _present_sensors(file, sensors, allow_missing=allow_missing):
            name = sensor.name
            stored = _stored_image(file, sensor)
            days = _read_days(file, name, stored.shape[0])
            chosen = _chosen_frames(stored, days, frames)
            image = _read_image(file, stored, sensor, chosen)
            mask = _read_mask(file, stored, sensor, chosen)
            has_data = ~sensor.missing(image, 1)
            images[name], valid[name] = _check_finite(file, sensor, image, has_data & mask)
            if days is not None:
                dates[name] = torch.from_numpy(days[chosen])
        _check_dates(file, images, dates)
        if label_key is not None:
            label = _read_labels(file, label_key)
    shapes = {name: tuple(image.shape[-2:]) for name, image in images.items()}
    if label is not None:
        shapes["label"] = tuple(label.shape[-2:])
    _check_footprint(path, shapes)
    return Sample(images=images, dates=dates, valid=valid, label=label, name=path.stem)


def check_header(
    path: Path, sensors: Sequence[Sensor], *, allow_missing: bool = False, allow_links: bool = False
) -> None:
    """Check what a chip holds without reading its images.

    Raises:
        InputError: If a sensor is missing, or its dataset has the wrong form.
    """
    with open_chip(path, allow_links=allow_links) as file:
        for sensor in _present_sensors(file, sensors, allow_missing=allow_missing):
            band_positions(file, _stored_image(file, sensor), sensor)


def read_block(path: Path, *, allow_links: bool = False) -> str | None:
    """Read the name of the block that a chip belongs to; None if it names none.

    Raises:
        InputError: If the name is no text.
    """
    with open_chip(path, allow_links=allow_links) as file:
        return file.text("block")


def write_chip(
    path: Path,
    sample: Sample,
    sensors: Sequence[Sensor],
    place: Georeference | None = None,
    fields: np.ndarray | None = None,
    block: str | None = None,
) -> None:
    """Write one chip; the file appears whole, by rename.

    Args:
        path: Path of the HDF5 file.
        sample: Sample to write.
        sensors: Sensors to write, of those that the sample holds.
        place: Georeference of the label's grid.
        fields: Numbers of the fields ``(h, w)``; they become the dataset ``instances``.
        block: Name of the block that the chip belongs to.
    """
    # Writers of chips clear their folder before they begin: listing it for every chip would dominate the time.
    with whole(path, tidy=False) as unfinished:
        unfinished.write_bytes(_to_bytes(sample, sensors, place, fields, block))


def _to_bytes(
    sample: Sample,
    sensors: Sequence[Sensor],
    place: Georeference | None,
    fields: np.ndarray | None,
    block: str | None,
) -> memoryview | bytes:
    """Return the HDF5 file as bytes. It is built in memory because libhdf5 crashes on a full disk."""
    with h5py.File("chip", "w", driver="core", backing_store=False) as file:
        for sensor in sensors:
            if sensor.name in sample.images:
                _write_sensor(file, sample, sensor)
        if sample.label is not None:
            label = sample.label.numpy()
            fits_int16 = label.size == 0 or (label.min() >= INT16.min and label.max() <= INT16.max)
            label = label.astype(np.int16 if fits_int16 else np.int64)
            file.create_dataset("label", data=label, compression="gzip")
        if fields is not None:
            file.create_dataset("instances", data=fields.astype(np.int32), compression="gzip")
        if place is not None:
            file.attrs["crs"] = place.crs
            file.attrs["transform"] = place.transform
        if block is not None:
            file.attrs["block"] = block
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


def _present_sensors(file: ChipFile, sensors: Sequence[Sensor], *, allow_missing: bool) -> list[Sensor]:
    """Return the sensors that the chip holds.

    Raises:
        InputError: If one is missing although all are required, or all are missing.
    """
    present = [sensor for sensor in sensors if sensor.name in file]
    if present and (allow_missing or len(present) == len(sensors)):
        return present
    missing = [sensor.name for sensor in sensors if sensor not in present]
    raise InputError(
        file.where(", ".join(missing)),
        found=f"datasets {file.names()}",
        expected=f"a dataset (T, C, H, W) for each of {', '.join(sensor.name for sensor in sensors)}",
        repair="add the dataset, remove the sensor from 'sensors', or set 'allow_missing: true' if chips may lack "
        "sensors.",
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
    """Return the days of the frames since 1970-01-01 ``(t)``, or None if the chip has no dates."""
    key = f"{sensor}_dates"
    stored = file.find(key)
    if stored is None:
        return None
    if stored.shape != (frames,):
        raise InputError(
            file.where(key),
            found=f"shape {stored.shape}",
            expected=f"one date for each of the {counted(frames, 'frame')} of {sensor}",
            repair="write as many dates as frames, as a list of texts like 2023-05-14.",
        )
    return parse_days(file.read(key, stored), file.where(key))


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
    """Return the numbers of the frames to read, in the order of their dates."""
    total = stored.shape[0]
    chosen = np.arange(total) if frames is None else frames(total)
    return chosen if days is None else chronological(days)[chosen]


def band_positions(file: ChipFile, stored: h5py.Dataset, sensor: Sensor) -> list[int]:
    """Return the positions of the sensor's bands along the channel axis, in the sensor's order.

    Raises:
        InputError: If a band is missing, or the count is wrong and the file does not name its bands.
    """
    where = file.where(sensor.name)
    channels = stored.shape[1]
    names = _band_names(stored, where)
    if names is not None:
        has_each_once = all(names.count(band) == 1 for band in sensor.band_ids)
        if has_each_once and len(names) == channels:
            return [names.index(band) for band in sensor.band_ids]
        raise InputError(
            where,
            found=f"bands {', '.join(names)} for {counted(channels, 'channel')}",
            expected=f"bands {', '.join(sensor.band_ids)}, each once",
            repair="add the missing bands, correct the attribute 'bands', or define a sensor with the bands you have.",
        )
    if channels != len(sensor.bands):
        raise InputError(
            where,
            found=counted(channels, "band"),
            expected=f"{len(sensor.bands)}: {', '.join(sensor.band_ids)}",
            repair="store these bands in this order, or define a sensor with the bands you have.",
        )
    return list(range(channels))


def _band_names(stored: h5py.Dataset, where: str) -> list[str] | None:
    """Return the attribute ``bands``, or None if the file does not name its bands."""
    where = f"{where}: attribute 'bands'"
    value = attribute(stored, "bands", where)
    if value is None:
        return None
    entries = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else [None]
    names: list[str] = []
    for entry in entries:
        name = entry.decode(errors="replace") if isinstance(entry, bytes) else entry
        if not isinstance(name, str):
            raise InputError(
                where,
                found=str(value)[:200],
                expected="a list of names, one for each channel",
                repair="write the names as a list of texts, or delete the attribute.",
            )
        names.append(name)
    return names


def _read_image(file: ChipFile, stored: h5py.Dataset, sensor: Sensor, chosen: np.ndarray) -> torch.Tensor:
    positions = band_positions(file, stored, sensor)
    # h5py reads channels in ascending order; they are put into the sensor's order afterwards.
    ascending = sorted(positions)
    order = [ascending.index(position) for position in positions]
    share = len(chosen) * len(positions) / (stored.shape[0] * stored.shape[1])
    image = file.read(sensor.name, stored, lambda dataset: _read_frames(dataset, chosen, ascending), share)
    return to_torch(image[:, order], file.where(sensor.name))


def _read_frames(stored: h5py.Dataset, chosen: np.ndarray, bands: list[int]) -> np.ndarray:
    """Read frames in any order; h5py reads them in ascending order only."""
    ascending = np.sort(chosen)
    if len(bands) < stored.shape[1]:
        image = np.stack([stored[int(frame), bands] for frame in ascending])
    elif len(ascending) == stored.shape[0]:
        image = stored[:]
    else:
        image = stored[ascending]
    if np.array_equal(ascending, chosen):
        return image
    return image[np.searchsorted(ascending, chosen)]


def _read_mask(file: ChipFile, image: h5py.Dataset, sensor: Sensor, chosen: np.ndarray) -> torch.Tensor:
    """Return the mask of valid pixels ``(t, h, w)``; everything is valid if the chip has none."""
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
    ascending = np.sort(chosen)
    mask = file.read(key, stored, lambda dataset: dataset[ascending], len(chosen) / t)
    return torch.from_numpy(mask[np.searchsorted(ascending, chosen)] > 0)


def _check_finite(
    file: ChipFile, sensor: Sensor, image: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refuse NaN and infinity in valid pixels; set them to 0 in others."""
    if not image.is_floating_point():
        return image, valid
    bad = ~torch.isfinite(image.float())  # batches are float32, in which larger numbers are infinite
    if sensor.nodata is not None and isnan(sensor.nodata):
        valid = valid & ~bad.any(1)
    bad_and_valid = bad & valid.unsqueeze(1)
    if bad_and_valid.any():
        count = int(bad_and_valid.sum())
        first = bad_and_valid.nonzero()[0].tolist()
        raise InputError(
            file.where(sensor.name),
            found=f"{count} NaN or infinite values, the first at (t, c, h, w) {first}",
            expected="finite numbers wherever the mask marks the ground as visible",
            repair=f"write 0 there and mark the pixels 0 in '{sensor.name}_mask', or set the sensor's 'nodata: .nan'.",
        )
    return image.masked_fill(bad, 0.0), valid


def _read_labels(file: ChipFile, keys: str | tuple[str, ...]) -> torch.Tensor:
    """Read one label ``(h, w)``, or several ``(n, h, w)``."""
    if isinstance(keys, str):
        return _read_label(file, keys)
    labels = [_read_label(file, key) for key in keys]
    shapes = [tuple(label.shape) for label in labels]
    if len(set(shapes)) > 1:
        raise InputError(
            file.where(", ".join(keys)),
            found=f"shapes {', '.join(map(str, shapes))}",
            expected="labels on one grid",
            repair="write them with the same rows and columns.",
        )
    return torch.stack(labels)


def _read_label(file: ChipFile, key: str) -> torch.Tensor:
    stored = file.find(key)
    if stored is None or stored.ndim != 2 or stored.dtype.kind not in "iu" or 0 in stored.shape:
        raise InputError(
            file.where(key),
            found=f"datasets {file.names()}" if stored is None else f"{stored.dtype} of shape {stored.shape}",
            expected="an integer label (H, W)",
            repair="write the label, or use a command that needs none (agrifm predict).",
        )
    bytes_in_memory = 8  # of a number: labels become int64
    values = file.read(key, stored, part=bytes_in_memory / stored.dtype.itemsize)
    return to_torch(values, file.where(key)).long()


def _check_footprint(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse grids that cannot cover the same ground: their ratios of rows to columns differ by more than a pixel."""
    reference = max(shapes, key=lambda name: shapes[name][0] * shapes[name][1])
    rows, columns = shapes[reference]
    for name, (h, w) in shapes.items():
        # Least and largest size of a pixel, in pixels of the reference, if its grid is up to one pixel off.
        smallest = max(rows / (h + 1), columns / (w + 1))
        largest = min(rows / max(h - 1, 1e-9), columns / max(w - 1, 1e-9))
        if smallest > largest:
            raise InputError(
                f"{path}: {name}",
                found=f"{h} x {w} pixels where {reference} has {rows} x {columns}",
                expected="grids of one footprint on the ground: the same ratio of rows to columns",
                repair="cut all sensors and the label to the same ground.",
            )
