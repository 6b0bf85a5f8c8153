"""Chips in the HDF5 layout of the original, with optional extensions.

One file is one sample: a dataset ``<sensor> (T, C, H, W)`` for each sensor and an integer ``label (H, W)``. Extensions:
``<sensor>_dates (T)``, ISO dates; ``<sensor>_mask (T, H, W)``, 1 where the ground is visible; ``instances (H, W)``, the
number of the field, 0 outside of fields and -1 where it is unknown; the attribute ``bands`` of a sensor's dataset; and
the attributes ``crs`` and ``transform`` (a, b, c, d, e, f of the label's grid) and ``block`` of the file: chips of one
block stay in one fold of a cross-validation.
"""

from agrifm.data.chips.bands import band_positions, check_header
from agrifm.data.chips.reading import FrameChoice, read_block, read_chip
from agrifm.data.chips.writing import write_chip
from agrifm.data.georeference import Georeference, read_georeference
from agrifm.data.hdf5 import open_chip

__all__ = [
    "FrameChoice",
    "Georeference",
    "band_positions",
    "check_header",
    "open_chip",
    "read_block",
    "read_chip",
    "read_georeference",
    "write_chip",
]
