"""One pre-training sample as it is stored: a series of one sensor and the land-cover fractions of its cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from agrifm.data.chip_values import check_days
from agrifm.data.chips import FrameChoice
from agrifm.errors import InputError, counted, refusing
from agrifm.sample import Sample, days_since_epoch

COVERS = ("cropland", "forest", "grassland", "shrubland", "wetland", "water", "impervious", "bare")
TENSORS = ("image", "days", "clear", "fractions", "unknown")
# Kinds of numbers, as numpy names them, in which each tensor may be stored.
TENSOR_KINDS = {"image": "iu", "days": "i", "clear": "iub", "fractions": "f", "unknown": "f"}
IMAGE_TYPES = ("uint16", "int16")
TOLERANCE = 1e-3  # of the sum of fractions
MAX_UNKNOWN = 0.5  # share of unknown land cover above which a cell is not learned


@dataclass(frozen=True)
class Record:
    """One sample as it is stored.

    Args:
        sensor: Name of the sensor.
        name: Unique name of the sample.
        image: ``(t, c, h, w)`` uint16 or int16, in the sensor's stored numbers.
        days: Days since 1970-01-01 ``(t)`` int32.
        clear: 1 where the ground is visible ``(t, h, w)`` uint8.
        fractions: Share of each of the eight land covers in the area of each cell ``(8, y, x)`` float32.
        unknown: Share of each cell without known land cover ``(y, x)`` float32.
        lon: Longitude of the center in degrees.
        lat: Latitude of the center in degrees.
        year: Year of the series.
        biome: Biome of the place; may be empty.
        source: Source of the land cover; may be empty.
    """

    sensor: str
    name: str
    image: np.ndarray
    days: np.ndarray
    clear: np.ndarray
    fractions: np.ndarray
    unknown: np.ndarray
    lon: float
    lat: float
    year: int
    biome: str = ""
    source: str = ""

    def sample(self, frames: FrameChoice | None = None) -> Sample:
        """Return the sample, whose label holds the fractions of the known part of each cell.

        Cells of which more than half is unknown are NaN.
        """
        chosen = np.arange(len(self.days)) if frames is None else frames(len(self.days))
        with np.errstate(divide="ignore", invalid="ignore"):
            label = np.where(self.unknown > MAX_UNKNOWN, np.nan, self.fractions / (1 - self.unknown))
        return Sample(
            images={self.sensor: torch.from_numpy(self.image[chosen].astype(np.int32))},
            dates={self.sensor: days_since_epoch(self.days[chosen])},
            valid={self.sensor: torch.from_numpy(self.clear[chosen] > 0)},
            label=torch.from_numpy(label.astype(np.float32)),
            name=self.name,
        )

    def to_bytes(self) -> bytes:
        """Return the record as safetensors with a sorted header, so that equal records give equal bytes."""
        metadata = {key: str(value) for key, value in vars(self).items() if key not in TENSORS}
        tensors = {
            "image": np.ascontiguousarray(self.image),
            "days": np.ascontiguousarray(self.days, np.int32),
            "clear": np.ascontiguousarray(self.clear, np.uint8),
            "fractions": np.ascontiguousarray(self.fractions, np.float32),
            "unknown": np.ascontiguousarray(self.unknown, np.float32),
        }
        header, body = _split_header(safetensors.numpy.save(tensors, metadata))
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors after it are aligned to 8 bytes
        return len(text).to_bytes(8, "little") + text + body

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Record:
        """Read and check a record.

        Raises:
            InputError: If it is no record, or the fractions of a cell do not sum to 1.
        """
        with refusing(
            where,
            expected=f"safetensors with {', '.join(TENSORS)} and the sample's metadata",
            repair="write the shard again with 'agrifm fractions build'.",
        ):
            # The library checks the header: lengths, types and that all metadata is text.
            tensors = safetensors.numpy.load(data)
            header, _ = _split_header(data)
            metadata = header["__metadata__"]
            values: dict[str, Any] = {**metadata, **tensors}
            values["lon"] = float(metadata["lon"])
            values["lat"] = float(metadata["lat"])
            values["year"] = int(metadata["year"])
            record = cls(**values)
            record.check(where)
        return record

    def check(self, where: str) -> None:
        """Refuse a record whose parts do not fit together.

        Raises:
            InputError: If shapes or types differ from the layout, or the fractions of a cell do not sum to 1.
        """
        if not self._has_layout():
            shapes = ", ".join(f"{key} {getattr(self, key).shape}" for key in TENSORS)
            raise InputError(
                where,
                found=f"{self.image.dtype} {shapes}",
                expected="uint16 or int16 image (t,c,h,w), days (t), clear (t,h,w), fractions (8,y,x), unknown (y,x)",
                repair="write the record with these shapes.",
            )
        check_days(torch.from_numpy(self.days), f"{where}: days")
        if not (abs(self.lon) <= 360 and abs(self.lat) <= 90):  # also false for NaN
            raise InputError(
                where,
                found=f"longitude {self.lon:g} and latitude {self.lat:g}",
                expected="degrees",
                repair="write the record with the center of its place in degrees.",
            )
        self._check_fractions(where)

    def _has_layout(self) -> bool:
        if self.image.ndim != 4 or 0 in self.image.shape or self.image.dtype.name not in IMAGE_TYPES:
            return False
        for key, kinds in TENSOR_KINDS.items():
            if getattr(self, key).dtype.kind not in kinds:
                return False
        t, _, h, w = self.image.shape
        if self.days.shape != (t,) or self.clear.shape != (t, h, w) or self.unknown.ndim != 2:
            return False
        return self.fractions.shape == (len(COVERS), *self.unknown.shape)

    def _check_fractions(self, where: str) -> None:
        sums = self.fractions.sum(0) + self.unknown
        is_sum_wrong = ~(np.abs(sums - 1) <= TOLERANCE)  # also true for NaN
        is_negative = (self.fractions < -TOLERANCE).any(0) | (self.unknown < -TOLERANCE)
        wrong = is_sum_wrong | is_negative
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            raise InputError(
                f"{where}: fractions",
                found=f"{counted(int(wrong.sum()), 'cell')} with wrong fractions, the first (y {y}, x {x}) sums to "
                f"{sums[y, x]:.4g}",
                expected="eight fractions and the unknown share, none below 0, that sum to 1 in each cell",
                repair="build the samples again from the land cover.",
            )


def _split_header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and body of safetensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]
