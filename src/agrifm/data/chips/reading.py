"""Chips are read in parts: the named sensors, their bands and the chosen frames, in the order of their dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path

import h5py
import numpy as np
import torch

from agrifm.data.chip_values import chronological, parse_days, to_torch
from agrifm.data.chips.bands import band_positions, present_sensors, stored_image
from agrifm.data.hdf5 import ChipFile, open_chip
from agrifm.errors import InputError, counted
from agrifm.sample import Sample
from agrifm.sensors import Sensor

FrameChoice = Callable[[int], np.ndarray]  # takes a number of frames and returns the sorted numbers of those to read


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
        for sensor in present_sensors(file, sensors, allow_missing=allow_missing):
            name = sensor.name
            stored = stored_image(file, sensor)
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


def read_block(path: Path, *, allow_links: bool = False) -> str | None:
    """Read the name of the block that a chip belongs to; None if it names none.

    Raises:
        InputError: If the name is no text.
    """
    with open_chip(path, allow_links=allow_links) as file:
        return file.text("block")


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
