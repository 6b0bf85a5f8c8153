"""Chips in the original's HDF5 layout, with the optional extras this project adds.

One file is one sample: a dataset ``<sensor> (T, C, H, W)`` for each sensor and an integer ``label (H, W)``.
Beyond the original, all optional: ``<sensor>_dates (T)`` ISO dates, ``<sensor>_mask (T, H, W)`` with 1 where
the ground was seen, ``instances (H, W)`` with the number of the field, 0 where there is none and -1 where nobody knows,
the attribute ``bands`` on a sensor's dataset, and ``crs`` and ``transform`` (a, b, c, d, e, f
of the label's grid) on the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import h5py
import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.sample import Sample, days_since_epoch
from agrifm.sensors import Sensor

FrameChoice = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a raster lies: CRS as text and the six affine coefficients a, b, c, d, e, f."""

    crs: str
    transform: tuple[float, ...]


def open_chip(path: Path) -> h5py.File:
    """Open a chip for reading.

    Raises:
        InputError: the file is missing, truncated or no HDF5 file.
    """
    if not path.is_file():
        raise InputError(
            path,
            found="no such file",
            expected="one HDF5 file for every name in the list",
            repair="restore the file, or delete its line from the list.",
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            path,
            found=f"a file of {path.stat().st_size} bytes that does not open: {error}",
            expected="a complete HDF5 file",
            repair="copy or write it again; it was probably cut off.",
        ) from error


def read_chip(
    path: Path,
    sensors: Sequence[Sensor],
    *,
    label_key: str | tuple[str, ...] | None = "label",
    allow_missing: bool = False,
    frames: FrameChoice | None = None,
) -> Sample:
    """Read one chip: only the named sensors, their bands and the chosen frames.

    Args:
        path: the HDF5 file; its stem becomes the sample's name.
        sensors: what to read.
        label_key: dataset that holds the label, or several, stacked to ``(n, h, w)``; None reads none.
        allow_missing: accept a chip that lacks some, not all, of the sensors.
        frames: takes a frame count and returns the sorted frame numbers to read.

    Raises:
        InputError: a key is missing or has the wrong form.
    """
    with open_chip(path) as file:
        present = [sensor for sensor in sensors if sensor.name in file]
        if not present or (len(present) < len(sensors) and not allow_missing):
            raise _missing_sensor(path, file, sensors)
        images, dates, valid = {}, {}, {}
        for sensor in present:
            chosen = _chosen_frames(path, file[sensor.name], sensor, frames)
            image = _read_image(path, file[sensor.name], sensor, chosen)
            seen = _read_valid(path, file, sensor, chosen, image)
            images[sensor.name], valid[sensor.name] = _finite(path, sensor, image, seen)
            if f"{sensor.name}_dates" in file:
                dates[sensor.name] = days_since_epoch(file[f"{sensor.name}_dates"][()])[chosen]
        label = None if label_key is None else _read_labels(path, file, label_key)
    return Sample(images=images, dates=dates, valid=valid, label=label, name=path.stem)


def write_chip(
    path: Path,
    sample: Sample,
    sensors: Sequence[Sensor],
    place: Place | None = None,
    fields: np.ndarray | None = None,
) -> None:
    """Write one chip; it appears whole, by rename. ``fields (h, w)`` become the dataset ``instances``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".h5.part")
    with h5py.File(unfinished, "w") as file:
        for sensor in sensors:
            if sensor.name in sample.images:
                _write_sensor(file, sample, sensor)
        if sample.label is not None:
            file.create_dataset("label", data=sample.label.numpy().astype(np.int16), compression="gzip")
        if fields is not None:
            file.create_dataset("instances", data=fields.astype(np.int32), compression="gzip")
        if place is not None:
            file.attrs["crs"], file.attrs["transform"] = place.crs, place.transform
    unfinished.replace(path)


def read_place(path: Path) -> Place | None:
    """Where the label's grid lies, or None where the chip does not say."""
    with open_chip(path) as file:
        if "crs" not in file.attrs or "transform" not in file.attrs:
            return None
        return Place(str(file.attrs["crs"]), tuple(float(x) for x in file.attrs["transform"][:6]))


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


def _missing_sensor(path: Path, file: h5py.File, sensors: Sequence[Sensor]) -> InputError:
    missing = [sensor.name for sensor in sensors if sensor.name not in file]
    return InputError(
        f"{path}: {', '.join(missing)}",
        found=f"datasets {', '.join(sorted(file)) or '(none)'}",
        expected=f"a dataset (T, C, H, W) for each of {', '.join(s.name for s in sensors)}",
        repair="add the dataset, drop the sensor from 'sensors', or set 'allow_missing: true' if sensors may lack.",
    )


def _chosen_frames(path: Path, stored: h5py.Dataset, sensor: Sensor, frames: FrameChoice | None) -> np.ndarray:
    if stored.ndim != 4 or 0 in stored.shape:
        raise InputError(
            f"{path}: {sensor.name}",
            found=f"shape {stored.shape}",
            expected="(T, C, H, W) with at least one of each",
            repair="write the series with four axes; a single date is T=1.",
        )
    return np.arange(stored.shape[0]) if frames is None else frames(stored.shape[0])


def band_positions(path: Path, stored: h5py.Dataset, sensor: Sensor) -> list[int]:
    """Positions along the channel axis of the sensor's bands, in the sensor's order.

    Raises:
        InputError: a band is missing, or the count is wrong and the file does not name its bands.
    """
    where = f"{path}: {sensor.name}"
    if "bands" in stored.attrs:
        names = [x.decode() if isinstance(x, bytes) else str(x) for x in stored.attrs["bands"]]
        missing = [band for band in sensor.band_ids if band not in names]
        if not missing and len(names) == stored.shape[1]:
            return [names.index(band) for band in sensor.band_ids]
        raise InputError(
            where,
            found=f"bands {', '.join(names)} for {stored.shape[1]} channels",
            expected=f"bands {', '.join(sensor.band_ids)}",
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


def _read_image(path: Path, stored: h5py.Dataset, sensor: Sensor, chosen: np.ndarray) -> torch.Tensor:
    positions = band_positions(path, stored, sensor)
    wanted = sorted(positions)
    try:
        image = _read_frames(stored, chosen, wanted)
    except OSError as error:
        raise InputError(
            f"{path}: {sensor.name}",
            found=f"data that cannot be read: {error}",
            expected="a complete HDF5 file",
            repair="copy or write it again; it was probably cut off.",
        ) from error
    image = image[:, [wanted.index(position) for position in positions]]
    wide = np.int32 if image.dtype == np.uint16 else image.dtype
    return torch.from_numpy(np.ascontiguousarray(image, dtype=wide))


def _read_frames(stored: h5py.Dataset, chosen: np.ndarray, bands: list[int]) -> np.ndarray:
    if len(bands) == stored.shape[1]:
        return stored[:] if len(chosen) == stored.shape[0] else stored[chosen]
    return np.stack([stored[int(frame), bands] for frame in chosen])


def _read_valid(path: Path, file: h5py.File, sensor: Sensor, chosen: np.ndarray, image: torch.Tensor) -> torch.Tensor:
    valid = torch.ones(image.shape[0], *image.shape[2:], dtype=torch.bool)
    if sensor.nodata is not None:
        valid &= (image != sensor.nodata).any(1)
    key = f"{sensor.name}_mask"
    if key not in file:
        return valid
    stored = file[key]
    if stored.shape[1:] != tuple(image.shape[2:]) or stored.shape[0] != file[sensor.name].shape[0]:
        raise InputError(
            f"{path}: {key}",
            found=f"shape {stored.shape}",
            expected=f"(T, H, W) of {sensor.name}, whose shape is {file[sensor.name].shape}",
            repair="write one mask value for every pixel and date; 1 where the ground was seen.",
        )
    return valid & torch.from_numpy(stored[chosen] > 0)


def _finite(path: Path, sensor: Sensor, image: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Refuse NaN and infinity where the ground counts as seen; zero them where it does not."""
    if not image.is_floating_point():
        return image, valid
    bad = ~torch.isfinite(image)
    if sensor.nodata is not None and isnan(sensor.nodata):
        valid = valid & ~bad.any(1)
    seen = bad & valid.unsqueeze(1)
    if seen.any():
        raise InputError(
            f"{path}: {sensor.name}",
            found=f"{int(seen.sum())} NaN or infinite values, the first at (t, c, h, w) {seen.nonzero()[0].tolist()}",
            expected="finite numbers wherever the mask says that the ground was seen",
            repair=f"write 0 there and mark the pixels 0 in '{sensor.name}_mask', or set the sensor's 'nodata: .nan'.",
        )
    return image.masked_fill(bad, 0.0), valid


def _read_labels(path: Path, file: h5py.File, keys: str | tuple[str, ...]) -> torch.Tensor:
    if isinstance(keys, str):
        return _read_label(path, file, keys)
    labels = [_read_label(path, file, key) for key in keys]
    if len({label.shape for label in labels}) > 1:
        raise InputError(
            f"{path}: {', '.join(keys)}",
            found=f"shapes {', '.join(str(tuple(label.shape)) for label in labels)}",
            expected="labels on one grid",
            repair="write them with the same rows and columns.",
        )
    return torch.stack(labels)


def _read_label(path: Path, file: h5py.File, key: str) -> torch.Tensor:
    if key not in file or file[key].ndim != 2 or file[key].dtype.kind not in "iu":
        found = (
            f"{file[key].dtype} of shape {file[key].shape}" if key in file else f"datasets {', '.join(sorted(file))}"
        )
        raise InputError(
            f"{path}: {key}",
            found=found,
            expected="an integer label (H, W)",
            repair="write the label, or use a command that needs none (agrifm predict).",
        )
    return torch.from_numpy(file[key][()].astype(np.int64))
