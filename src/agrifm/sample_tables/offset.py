"""The offset of Sentinel-2 in tables: numbers that were downloaded as they are stored, and not corrected.

From processing baseline 04.00 on, products store reflectance + 0.1 (:mod:`agrifm.scenes.units` names the source). A
table does not say of which baseline its numbers are, so it is judged by them, as a scene is: where there is vegetation,
some band is dark.
"""

from __future__ import annotations

import datetime as dt

import numpy as np

from agrifm.checks.ground import dark_end, has_vegetation
from agrifm.scenes.checks.units import DARK
from agrifm.scenes.units import SHIFT, SHIFTED_FROM
from agrifm.sensors import S2, Sensor

FEWEST = 30  # observations that say whether some are dark


def offset_warning(values: np.ndarray, sensor: Sensor, days: np.ndarray | None = None) -> str:
    """Return a sentence about an offset that was left in; empty if there is no sign of one.

    Args:
        values: Stored numbers of the sensor ``(n, c)``.
        sensor: Sensor of the numbers.
        days: Days since 1970-01-01 ``(n)``, if they are known; early dates may have no offset where later ones do.
    """
    if sensor.name != S2.name:
        return ""
    reflectance = values.T * sensor.scale + sensor.offset
    if _is_shifted(reflectance, sensor):
        repair = f"if so, write the data set again with --scale 1e-4 --offset {-SHIFT:g} (--scale 1 for reflectance)"
        return f"{_found(reflectance)}; {repair}"
    if days is None:
        return ""
    late = reflectance[:, days >= (SHIFTED_FROM - dt.date(1970, 1, 1)).days]
    if _is_shifted(late, sensor):
        return f"from {SHIFTED_FROM} on, {_found(late)}; if so, subtract it from the values of these dates in the table"
    return ""


def _is_shifted(reflectance: np.ndarray, sensor: Sensor) -> bool:
    """Whether no observation ``(c, n)`` is dark in any band, although some are surely vegetation."""
    if reflectance.shape[1] < FEWEST:
        return False
    return has_vegetation(reflectance, sensor) and dark_end(reflectance) >= DARK


def _found(reflectance: np.ndarray) -> str:
    return (
        f"no band of Sentinel-2 is darker than {dark_end(reflectance):.2f} although there is vegetation: the values "
        f"seem to include the {SHIFT:g} (1,000 in stored numbers) that products add from processing baseline 04.00 on"
    )
