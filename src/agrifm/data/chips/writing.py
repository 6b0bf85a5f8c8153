"""Chips are written whole, in the layout that they are read in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from agrifm.data.georeference import Georeference
from agrifm.io import whole
from agrifm.sample import Sample
from agrifm.sensors import Sensor

INT16 = np.iinfo(np.int16)


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
