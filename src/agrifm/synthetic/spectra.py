"""End-member spectra of both synthetic worlds; the levels follow common textbook spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agrifm.sensors import Band

_WAVELENGTHS = (0.45, 0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.86, 1.24, 1.61, 2.20)  # micrometers
_REFLECTANCE = {
    "soil": (0.060, 0.075, 0.105, 0.145, 0.160, 0.170, 0.180, 0.200, 0.270, 0.300, 0.260),
    "straw": (0.075, 0.095, 0.145, 0.205, 0.230, 0.250, 0.265, 0.290, 0.350, 0.330, 0.230),
    "leaf": (0.025, 0.030, 0.065, 0.035, 0.085, 0.320, 0.420, 0.460, 0.420, 0.220, 0.100),
    "flower": (0.040, 0.055, 0.220, 0.200, 0.250, 0.420, 0.480, 0.510, 0.440, 0.240, 0.120),
    "canopy": (0.018, 0.022, 0.042, 0.024, 0.060, 0.210, 0.280, 0.300, 0.260, 0.125, 0.055),
    "water": (0.055, 0.055, 0.050, 0.030, 0.025, 0.020, 0.018, 0.014, 0.008, 0.005, 0.004),
    "built": (0.100, 0.115, 0.130, 0.150, 0.160, 0.170, 0.180, 0.190, 0.220, 0.240, 0.220),
    "needle": (0.016, 0.019, 0.034, 0.022, 0.045, 0.150, 0.190, 0.210, 0.175, 0.090, 0.042),
    "shrub": (0.030, 0.038, 0.062, 0.058, 0.090, 0.195, 0.235, 0.265, 0.275, 0.190, 0.115),
    "turbid": (0.070, 0.085, 0.120, 0.130, 0.115, 0.075, 0.070, 0.055, 0.020, 0.010, 0.007),
    "roof": (0.160, 0.185, 0.215, 0.250, 0.265, 0.275, 0.285, 0.300, 0.330, 0.350, 0.320),
    "sand": (0.130, 0.165, 0.235, 0.320, 0.345, 0.360, 0.375, 0.400, 0.470, 0.510, 0.470),
    "rock": (0.090, 0.100, 0.125, 0.150, 0.158, 0.165, 0.170, 0.180, 0.215, 0.235, 0.215),
    "snow": (0.860, 0.870, 0.860, 0.830, 0.820, 0.800, 0.780, 0.740, 0.380, 0.070, 0.055),
    "cloud": (0.560, 0.550, 0.540, 0.540, 0.545, 0.550, 0.550, 0.560, 0.520, 0.420, 0.330),
}


def spectra(bands: Sequence[Band], members: Sequence[str]) -> np.ndarray:
    """Interpolate the reflectance of end members at the wavelengths of bands.

    Args:
        bands: Bands of a sensor.
        members: Names of end members.

    Returns:
        Reflectance ``(m, c)``.
    """
    wavelengths = [band.wavelength for band in bands]
    return np.array([np.interp(wavelengths, _WAVELENGTHS, _REFLECTANCE[member]) for member in members])
