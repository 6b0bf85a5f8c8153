"""One sample for pre-training as it is stored: a series of one sensor and the shares of land cover in its cells."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from agrifm.data.chip_values import check_days
from agrifm.data.chips import FrameChoice
from agrifm.errors import InputError, refusing
from agrifm.sample import Sample, days_since_epoch

COVERS = ("cropland", "forest", "grassland", "shrubland", "wetland", "water", "impervious", "bare")
_TENSORS = ("image", "days", "clear", "fractions", "unknown")
_STORED = ("uint16", "int16")
_SLACK = 1e-3  # of the sum of shares


@dataclass(frozen=True)
class Record:
    """One sample as it is stored.

    Args:
        sensor, name: who looked, and what tells the sample apart.
        image: ``(t, c, h, w)`` uint16 or int16, in the sensor's stored numbers.
        days: since 1970-01-01 ``(t)`` int32.
        clear: 1 where the ground was seen ``(t, h, w)`` uint8.
        fractions: shares of the eight land covers in the area of each cell ``(8, y, x)`` float32.
        unknown: share of each cell without known land cover ``(y, x)`` float32.
        lon, lat: of the middle, in degrees.
        year, biome, source: of the sample; text may be empty.
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
        """Label: shares of the known part of each cell; NaN where more than half of the cell is unknown."""
        chosen = np.arange(len(self.days)) if frames is None else frames(len(self.days))
        with np.errstate(divide="ignore", invalid="ignore"):
            label = np.where(self.unknown > 0.5, np.nan, self.fractions / (1 - self.unknown))
        return Sample(
            images={self.sensor: torch.from_numpy(self.image[chosen].astype(np.int32))},
            dates={self.sensor: days_since_epoch(self.days[chosen])},
            valid={self.sensor: torch.from_numpy(self.clear[chosen] > 0)},
            label=torch.from_numpy(label.astype(np.float32)),
            name=self.name,
        )

    def to_bytes(self) -> bytes:
        """Equal records give equal bytes: safetensors, whose header is written in sorted order."""
        told = {key: str(value) for key, value in vars(self).items() if key not in _TENSORS}
        kinds = (self.image.dtype, np.int32, np.uint8, np.float32, np.float32)
        tensors = {
            key: np.ascontiguousarray(getattr(self, key), kind) for key, kind in zip(_TENSORS, kinds, strict=True)
        }
        data = safetensors.numpy.save(tensors, told)
        header, body = _split(data)
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + body

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Record:
        """Read and check one member.

        Raises:
            InputError: it is no record, or the shares of a cell do not sum to 1.
        """
        with refusing(
            where,
            expected=f"safetensors with {', '.join(_TENSORS)} and the sample's metadata",
            repair="write the shard again with 'agrifm fractions build'.",
        ):
            # The library checks the header: lengths, types and that all metadata is text.
            tensors = safetensors.numpy.load(data)
            told = _split(data)[0]["__metadata__"]
            values: dict[str, Any] = {**told, **tensors}
            values |= {"lon": float(told["lon"]), "lat": float(told["lat"]), "year": int(told["year"])}
            record = cls(**values)
            record.check(where)
        return record

    def check(self, where: str) -> None:
        """Refuse what does not fit together.

        Raises:
            InputError: shapes or types differ from the layout, or the shares of a cell do not sum to 1.
        """
        t, _, h, w = self.image.shape if self.image.ndim == 4 else (0, 0, 0, 0)
        shapes = {key: getattr(self, key).shape for key in _TENSORS}
        kinds = "".join(getattr(self, key).dtype.kind for key in _TENSORS)
        fits = 0 not in self.image.shape and shapes["days"] == (t,) and shapes["clear"] == (t, h, w)
        fits = fits and self.image.dtype.name in _STORED and re.fullmatch("[iu]i[iub]ff", kinds) is not None
        if not fits or shapes["fractions"] != (len(COVERS), *shapes["unknown"]) or self.unknown.ndim != 2:
            raise InputError(
                where,
                found=f"{self.image.dtype} {', '.join(f'{key} {shape}' for key, shape in shapes.items())}",
                expected="uint16 or int16 image (t,c,h,w), days (t), clear (t,h,w), fractions (8,y,x), unknown (y,x)",
                repair="write the record with these shapes.",
            )
        check_days(torch.from_numpy(self.days), f"{where}: days")
        if not (abs(self.lon) <= 360 and abs(self.lat) <= 90):  # also false for NaN
            raise InputError(
                where,
                found=f"longitude {self.lon:g} and latitude {self.lat:g}",
                expected="degrees",
                repair="write the record with the middle of its place in degrees.",
            )
        sums = self.fractions.sum(0) + self.unknown
        wrong = ~(np.abs(sums - 1) <= _SLACK) | (self.fractions < -_SLACK).any(0) | (self.unknown < -_SLACK)
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            raise InputError(
                f"{where}: fractions",
                found=f"{int(wrong.sum())} cells whose shares are no shares, the first (y {y}, x {x}) sums to "
                f"{sums[y, x]:.4g}",
                expected="eight shares and the unknown one, none below 0, that sum to 1 in each cell",
                repair="build the samples again from the land cover.",
            )


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of safetensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]
