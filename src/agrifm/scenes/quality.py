"""Which pixels saw the ground: the quality layers of the products, each with a rule that reads it."""

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
    """How to read a quality layer.

    A pixel is clear if its value is one of ``clear`` (where that is given) and has none of the bits of ``clouded``.

    Args:
        source: The product guide.
        clear: Values that mean clear ground.
        clouded: Bits that must not be set.
        fill: Value where there is no pixel.
    """

    source: str
    clear: tuple[int, ...] = ()
    clouded: int = 0
    fill: int = 0

    def __call__(self, layer: np.ndarray) -> np.ndarray:
        """True where the ground was seen."""
        seen = layer != self.fill
        if self.clear:
            seen &= np.isin(layer, self.clear)
        return seen & ((layer.astype(np.int64) & self.clouded) == 0)


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
        # A mask of the user's own: anything but 0 is clear.
        "mask": Rule("a mask in which 0 means not seen"),
    }
)


@dataclass(frozen=True)
class Quality:
    """A quality layer and the name of the rule that reads it."""

    raster: Annotated[FileBand | CubeBand, Field(discriminator="kind")]
    rule: str

    def clear(self, box: GeoBox) -> np.ndarray:
        """Where the ground was seen clearly, on another grid ``(h, w)``."""
        rule = RULES[self.rule]
        return rule(self.raster.read(box, average=False).filled(rule.fill))
