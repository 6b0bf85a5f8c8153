"""Quality layers of products, and the rules that turn them into masks of clear ground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import numpy as np
from odc.geo.geobox import GeoBox
from pydantic import Field

from agrifm.rasters.cube_band import CubeBand
from agrifm.rasters.file_band import FileBand


@dataclass(frozen=True)
class Rule:
    """Rule that reads a quality layer.

    A pixel is clear if its value is one of ``clear`` (where that is given) and has none of the bits of ``clouded``.

    Args:
        source: Product guide that defines the values.
        clear: Values of clear ground.
        clouded: Bits that must not be set.
        fill: Value of missing pixels.
    """

    source: str
    clear: tuple[int, ...] = ()
    clouded: int = 0
    fill: int = 0

    def __call__(self, layer: np.ndarray) -> np.ndarray:
        """Return a mask that is true where the ground is clear."""
        if layer.dtype.kind == "u" and layer.dtype.itemsize <= 2:
            # There are far fewer codes than pixels, so each code is tested once.
            codes = np.arange(np.iinfo(layer.dtype).max + 1, dtype=layer.dtype)
            return self._test(codes)[layer]
        return self._test(layer)

    def _test(self, codes: np.ndarray) -> np.ndarray:
        mask = codes != self.fill
        if self.clear:
            mask &= np.isin(codes, self.clear)
        return mask & ((codes.astype(np.int64) & self.clouded) == 0)


def _bits(*bits: int) -> int:
    return sum(1 << bit for bit in bits)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # Vegetation, bare soil, water and unclassified, which is mostly roofs and winter fields; not dark areas,
        # shadows, clouds, cirrus and snow.
        "SCL": Rule("Sen2Cor scene classification, Sentinel-2 Products Specification (ESA)", clear=(4, 5, 6, 7)),
        # Cloud, next to cloud, shadow, snow.
        "Fmask": Rule("HLS User Guide v2.0, table 9", clouded=_bits(1, 2, 3, 4), fill=255),
        # Fill, dilated cloud, cirrus, cloud, shadow, snow.
        "QA_PIXEL": Rule("Landsat 8-9 Collection 2 Level 2 Product Guide, QA_PIXEL", clouded=_bits(0, 1, 2, 3, 4, 5)),
        # Fill, shadow, snow, cloud; of Collection 1.
        "pixel_qa": Rule("Landsat 8 Surface Reflectance Code Product Guide (Collection 1)", clouded=_bits(0, 3, 4, 5)),
        # Cloudy or mixed, shadow, cirrus average or high, internal cloud and snow flags, next to cloud.
        "sur_refl_state_500m": Rule(
            "MOD09 User's Guide v1.4, table 13", clouded=_bits(0, 2, 9, 10, 12, 13, 15), fill=65535
        ),
        # A mask that the user made: anything but 0 is clear.
        "mask": Rule("a mask in which 0 means not seen"),
    }
)


@dataclass(frozen=True)
class Quality:
    """Quality layer of a frame.

    Args:
        raster: Band that holds it.
        rule: Name of the rule that reads it, a key of ``RULES``.
    """

    raster: Annotated[FileBand | CubeBand, Field(discriminator="kind")]
    rule: str

    def clear(self, box: GeoBox) -> np.ndarray:
        """Return the mask of clear ground ``(h, w)`` on another grid."""
        rule = RULES[self.rule]
        pixels = self.raster.read(box, average=False)
        return rule(pixels.filled(rule.fill))


def rule_of(name: str) -> str | None:
    """Return the rule that reads a quality layer of this name, in any case; None if the name is not a known one."""
    for rule in RULES:
        if rule.lower() == name.lower():
            return rule
    return None
