"""How features are stored: as floating-point numbers, or as one byte with a scale and an offset for each band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NODATA = -128  # of int8; floating-point features are NaN where no sensor saw the ground
LEVELS = 127  # int8 features lie between -127 and 127
MARGIN = 0.1  # share of the sampled range by which the range of int8 is wider on both sides
DIGITS = 6  # significant digits of scales and offsets, so that text in files says exactly what was used
HALF = 65504.0  # largest float16


@dataclass(frozen=True, eq=False)
class Coding:
    """Storage of features.

    Args:
        dtype: ``int8``, ``float16`` or ``float32``.
        scale: Factor ``(c)`` from stored numbers to features; None for floating-point numbers.
        offset: Feature ``(c)`` of the stored number 0; None for floating-point numbers.
    """

    dtype: str
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None

    @classmethod
    def spanning(cls, low: np.ndarray, high: np.ndarray) -> Coding:
        """Return int8 whose levels span a range ``low`` to ``high`` of each band, and a margin."""
        width = (high - low).astype(np.float64) * (1 + 2 * MARGIN)
        middle = (low.astype(np.float64) + high) / 2
        width[width <= 0] = 1.0  # a band that is constant in the sample
        return cls("int8", _rounded(width / (2 * LEVELS)), _rounded(middle))

    @property
    def nodata(self) -> float:
        """Stored number of pixels that no sensor saw."""
        return NODATA if self.dtype == "int8" else float("nan")

    def encode(self, features: np.ndarray) -> tuple[np.ndarray, int]:
        """Store features ``(c, h, w)``, NaN where there are none.

        Returns:
            Stored numbers, and how many of them were clipped to the range of the type.
        """
        if self.dtype == "float32":
            return features.astype(np.float32), 0
        if self.dtype == "float16":
            clipped = int((np.abs(features) > HALF).sum())
            return features.clip(-HALF, HALF).astype(np.float16), clipped
        assert self.scale is not None
        assert self.offset is not None
        levels = np.rint((features - self.offset[:, None, None]) / self.scale[:, None, None])
        clipped = int((np.abs(levels) > LEVELS).sum())
        stored = np.where(np.isnan(levels), NODATA, levels.clip(-LEVELS, LEVELS))
        return stored.astype(np.int8), clipped

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Features ``(c, h, w)`` float32 of stored numbers."""
        if self.scale is None or self.offset is None:
            return stored.astype(np.float32)
        features = stored * self.scale[:, None, None] + self.offset[:, None, None]
        return np.where(stored == NODATA, np.nan, features).astype(np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])
