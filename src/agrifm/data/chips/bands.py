"""The dataset of a sensor in a chip, and the positions of its bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from agrifm.data.hdf5 import ChipFile, attribute, open_chip
from agrifm.errors import InputError, counted
from agrifm.sensors import Sensor


def check_header(
    path: Path, sensors: Sequence[Sensor], *, allow_missing: bool = False, allow_links: bool = False
) -> None:
    """Check what a chip holds without reading its images.

    Raises:
        InputError: If a sensor is missing, or its dataset has the wrong form.
    """
    with open_chip(path, allow_links=allow_links) as file:
        for sensor in present_sensors(file, sensors, allow_missing=allow_missing):
            band_positions(file, stored_image(file, sensor), sensor)


def present_sensors(file: ChipFile, sensors: Sequence[Sensor], *, allow_missing: bool) -> list[Sensor]:
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


def stored_image(file: ChipFile, sensor: Sensor) -> h5py.Dataset:
    """Return the dataset of a sensor.

    Raises:
        InputError: If it is missing, or no series of images.
    """
    stored = file.numbers(sensor.name, "iuf")
    if stored.ndim != 4 or 0 in stored.shape:
        raise InputError(
            file.where(sensor.name),
            found=f"shape {stored.shape}",
            expected="(T, C, H, W) with at least one of each",
            repair="write the series with four axes; a single date is T=1.",
        )
    return stored


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
