"""Sensors as frozen values: bands, units, pixel size and the statistics a model normalizes with.

Sources: Sentinel-2 User Handbook (ESA, 2015); HLS User Guide v2.0 (NASA, 2023) for the Landsat L30
product; MOD09 User's Guide v1.4 (NASA, 2015) for MOD09A1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING

from agrifm.errors import InputError, counted

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1e30  # statistic; its inverse is the least standard deviation. Single precision holds both.


@dataclass(frozen=True)
class Band:
    """One spectral band of a sensor.

    Args:
        id: The sensor's own id of the band, e.g. ``B04``.
        common_name: Common name of the band in STAC, e.g. ``red``.
        wavelength: Center wavelength in micrometers.
    """

    id: str
    common_name: str
    wavelength: float


@dataclass(frozen=True)
class Statistics:
    """Statistics of the stored digital numbers of each band.

    Args:
        mean: Mean of each band.
        std: Standard deviation of each band.
        source: Where the statistics come from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Sensor:
    """A satellite product: ``reflectance = stored * scale + offset``.

    Args:
        name: Key of the sensor in chips and configurations.
        bands: Bands in the order in which they are stored along the channel axis.
        gsd: Ground sampling distance in meters.
        scale: Factor from stored numbers to reflectance.
        offset: Offset that is added after scaling.
        nodata: Stored number that marks a missing pixel, if any.
        statistics: Statistics with which a model normalizes; None until they are computed or published.
    """

    name: str
    bands: tuple[Band, ...]
    gsd: float
    scale: float = 1e-4
    offset: float = 0.0
    nodata: float | None = None
    statistics: Statistics | None = None

    def __post_init__(self) -> None:
        if not self.bands:
            raise ValueError(f"sensor {self.name} has no bands")
        if self.statistics is None:
            return
        for values in (self.statistics.mean, self.statistics.std):
            if len(values) != len(self.bands):
                raise ValueError(
                    f"sensor {self.name}: {counted(len(values), 'statistic')} for {counted(len(self.bands), 'band')}"
                )
        self._check_statistics(self.statistics)

    def _check_statistics(self, statistics: Statistics) -> None:
        """Refuse statistics with which no model can normalize: it would predict the same class everywhere."""
        for band, mean, std in zip(self.bands, statistics.mean, statistics.std, strict=True):
            if not abs(mean) < LARGEST:
                raise self._bad_statistic(f"mean of {band.id}", mean, "a finite number")
            if not 1 / LARGEST < std < LARGEST:
                raise self._bad_statistic(f"standard deviation of {band.id}", std, "a finite number above 0")

    def _bad_statistic(self, name: str, value: float, expected: str) -> InputError:
        return InputError(
            f"sensor {self.name}: {name}",
            found=f"{value}",
            expected=expected,
            repair="correct the statistics, or compute them with 'agrifm data stats CONFIG'.",
        )

    @property
    def band_ids(self) -> tuple[str, ...]:
        """The sensor's own band ids, in stored order."""
        return tuple(band.id for band in self.bands)

    def with_statistics(self, statistics: Statistics) -> Sensor:
        """Return the sensor with other statistics."""
        return replace(self, statistics=statistics)

    def known_statistics(self) -> Statistics:
        """Return the statistics.

        Raises:
            InputError: If the sensor has none.
        """
        if self.statistics is None:
            raise InputError(
                f"sensor {self.name}",
                found="no statistics: none were ever published for it",
                expected="mean and standard deviation of each band",
                repair="set 'statistics: data' in the data section, or run 'agrifm data stats CONFIG'.",
            )
        return self.statistics

    def missing(self, image: Tensor, axis: int) -> Tensor:
        """Return where a pixel is invalid because a band has no data.

        If 0 marks missing pixels, all bands must be 0: very dark ground is 0 in single bands too.

        Args:
            image: Stored numbers, with bands along an axis.
            axis: Axis of the bands; it is reduced.
        """
        if self.nodata is None:
            return (image == 0).any(axis) & False  # false everywhere, in the right shape
        if self.nodata == 0:
            return ~(image != 0).any(axis)  # torch computes any faster than all
        is_missing = image.isnan() if isnan(self.nodata) else image == self.nodata
        return is_missing.any(axis)

    def index(self, common_name: str) -> int | None:
        """Position of the first band with this STAC common name, or None."""
        for i, band in enumerate(self.bands):
            if band.common_name == common_name:
                return i
        return None


def _bands(*rows: tuple[str, str, float]) -> tuple[Band, ...]:
    return tuple(Band(*row) for row in rows)


# The original does not state its band order. Its fourth published mean is as bright as near infrared, which only the
# order "10 m bands, then 20 m bands" explains. The statistics were computed with clouds left in, so cloud-free
# composites lie 0.7 to 0.9 standard deviations lower.
S2 = Sensor(
    name="S2",
    gsd=10,
    nodata=0,
    bands=_bands(
        ("B02", "blue", 0.490),
        ("B03", "green", 0.560),
        ("B04", "red", 0.665),
        ("B08", "nir", 0.842),
        ("B05", "rededge071", 0.705),
        ("B06", "rededge075", 0.740),
        ("B07", "rededge078", 0.783),
        ("B8A", "nir08", 0.865),
        ("B11", "swir16", 1.610),
        ("B12", "swir22", 2.190),
    ),
    statistics=Statistics(
        mean=(
            4179.192015478227,
            4065.9106675194444,
            3957.274910960156,
            5207.452475253116,
            4327.12234687,
            4873.16102239,
            5049.1637925,
            5111.07806856,
            3056.86349163,
            2490.9675032,
        ),
        std=(
            4041.5212325268735,
            3691.003119315892,
            3629.331318356375,
            2973.5178530908756,
            3569.73343885,
            3085.9151435,
            2937.56005119,
            2806.04462314,
            1808.30013156,
            1694.20220774,
        ),
        source="published with AgriFM (computed with clouds left in)",
    ),
)

LANDSAT = Sensor(
    name="Landsat",
    gsd=30,
    nodata=-9999,
    bands=_bands(
        ("B02", "blue", 0.482),
        ("B03", "green", 0.561),
        ("B04", "red", 0.655),
        ("B05", "nir08", 0.865),
        ("B06", "swir16", 1.609),
        ("B07", "swir22", 2.201),
    ),
)

MODIS = Sensor(
    name="Modis",
    gsd=500,
    nodata=-28672,
    bands=_bands(
        ("sur_refl_b01", "red", 0.645),
        ("sur_refl_b02", "nir", 0.858),
        ("sur_refl_b03", "blue", 0.469),
        ("sur_refl_b04", "green", 0.555),
        ("sur_refl_b05", "nir12", 1.240),
        ("sur_refl_b06", "swir16", 1.640),
        ("sur_refl_b07", "swir22", 2.130),
    ),
)

SENSORS: dict[str, Sensor] = {sensor.name: sensor for sensor in (S2, LANDSAT, MODIS)}


def names(sensors: Sequence[Sensor]) -> tuple[str, ...]:
    """Return the names of several sensors, in order."""
    return tuple(sensor.name for sensor in sensors)
