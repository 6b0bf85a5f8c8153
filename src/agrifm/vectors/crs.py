"""The CRS that a file states, or that the user gives."""

from __future__ import annotations

from pyproj import CRS

from agrifm.errors import InputError, refusing

REPAIR = "name it by its code, e.g. EPSG:32631, or restore the file from its source."


def known_crs(stated: str, where: str) -> CRS:
    """Return the CRS that a text means; a number alone is an EPSG code.

    Raises:
        InputError: If PROJ does not understand it, or it is not tied to the Earth's surface.
    """
    with refusing(where, expected="a CRS that PROJ understands, e.g. EPSG:32631", repair=REPAIR):
        crs = CRS.from_user_input(int(stated) if str(stated).isdecimal() else stated)
    if not (crs.is_geographic or crs.is_projected):
        raise InputError(
            where,
            found=f"'{crs.name}', which is not tied to the Earth's surface",
            expected="a geographic or projected CRS, e.g. EPSG:2154",
            repair="write the right one, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD'.",
        )
    return crs


def same_crs(stated: CRS, given: CRS, where: object) -> None:
    """Refuse a CRS that contradicts the one that a file states.

    Raises:
        InputError: If they differ.
    """
    if not stated.equals(given, ignore_axis_order=True):
        raise InputError(
            where,
            found=f"the CRS '{stated.name}', but --crs says '{given.name}'",
            expected="one CRS",
            repair="leave out --crs; it is for files that state none.",
        )
