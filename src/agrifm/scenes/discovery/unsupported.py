"""Files that are refused because they hold no surface reflectance, or cannot be read here."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path

from agrifm.errors import InputError, counted
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.folders import names_upward, refuse_special
from agrifm.scenes.naming.dates import days_in, is_top_of_atmosphere, not_surface_reflectance, parse_day, product_of
from agrifm.scenes.naming.products import NAMING_SCHEMES, STACKED, BandSource
from agrifm.scenes.naming.safe import refuse_top_of_atmosphere
from agrifm.sensors import MODIS, S2

IMAGES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
HDF4 = re.compile(r"(M[OY]D09A1)\.A(?P<date>\d{7})\..*\.hdf", re.IGNORECASE)


def refuse_level_1(bands: Sequence[BandSource], root: Path) -> None:
    """Refuse images that are not corrected for the atmosphere, by their names or the metadata of their product.

    Raises:
        InputError: If there is one.
    """
    checked_folders = set()
    for band in bands:
        path = Path(band.raster.href)
        if is_top_of_atmosphere(names_upward(path, root)):
            raise not_surface_reflectance(path, "a Level-1 product, by its name")
        if path.parent not in checked_folders and band.scheme.sensor in ("", S2.name):
            refuse_top_of_atmosphere(path)
            checked_folders.add(path.parent)


def level_1_days(
    paths: Sequence[Path], bands: Sequence[BandSource], root: Path, start: dt.date | None, end: dt.date | None
) -> dict[str, InputError]:
    """Find days of which there is an image of Level 1 only.

    Args:
        paths: All files below the scene's folder.
        bands: Bands that are read.
        root: Folder of the scene.
        start, end: First and last day of the scene.

    Returns:
        One error for each of these days, by the path of the image.
    """
    used_paths = {band.raster.href for band in bands}
    used_days = {band.day for band in bands}
    path_of_day: dict[dt.date, Path] = {}
    for path in paths:
        if path.suffix.lower() not in IMAGES or str(path) in used_paths:
            continue
        names = names_upward(path, root)
        if not is_top_of_atmosphere(names):
            continue
        day = _day_of(path, names)
        if day is not None and day not in used_days and (start or day) <= day <= (end or day):
            path_of_day.setdefault(day, path)
    errors = {}
    for day, path in path_of_day.items():
        errors[str(path)] = not_surface_reflectance(path, f"the only image of {day}, of a Level-1 product")
    return errors


def _day_of(path: Path, names: Sequence[str]) -> dt.date | None:
    product = product_of(names)
    if product is not None:
        return product.day
    days = days_in(path.name)
    return days[0] if days else None


def refuse_special_sidecars(paths: Sequence[Path], bands: Sequence[BandSource]) -> None:
    """Refuse pipes and devices beside an image whose name they share: GDAL would open them with it.

    Raises:
        Unreadable: If there is one.
    """
    images = set()
    stems = set()  # paths without the last suffix
    for band in bands:
        images.add(band.raster.href)
        if isinstance(band.raster, FileBand):
            stems.add(str(Path(band.raster.href).with_suffix("")))
    for path in paths:
        if str(path) in images:
            continue
        shortest_stem = str(path.with_name(path.name.partition(".")[0]))
        if shortest_stem in stems or str(path.with_suffix("")) in images:
            refuse_special(path)


def refuse_hdf4(paths: Sequence[Path], bands: Sequence[BandSource]) -> None:
    """Refuse HDF4 files of MODIS whose bands do not lie beside them as other files.

    Raises:
        InputError: If there is one.
    """
    converted_days = {band.day for band in bands if band.scheme.sensor == MODIS.name}
    for path in paths:
        match = HDF4.fullmatch(path.name)
        if match is None or parse_day(match["date"]) in converted_days:
            continue
        grid = f'HDF4_EOS:EOS_GRID:"{path.name}":MOD_Grid_500m_Surface_Reflectance:$band'
        raise InputError(
            path,
            found="an HDF4 file",
            expected="one GeoTIFF for each band; the GDAL inside the Python wheels reads no HDF4",
            repair="convert it with a GDAL that does, e.g. of conda: for band in sur_refl_b0{1..7} "
            f"sur_refl_state_500m; do gdal_translate '{grid}' {path.stem}_$band.tif; done".replace("'", ""),
        )


def nothing_recognized(root: Path, paths: Sequence[Path], pattern: str | None) -> InputError:
    """Return the error for a folder none of whose files follows a naming scheme."""
    for path in paths:
        if is_top_of_atmosphere(names_upward(path, root)):
            return not_surface_reflectance(path, "a Level-1 product, by its name")
    names = ", ".join(path.name for path in paths[:3])
    if len(paths) > 3:
        names += ", ..."
    if pattern:
        expected = f"names that follow '{pattern}'"
    else:
        examples = {scheme.title: scheme.example for scheme in (*NAMING_SCHEMES, STACKED)}
        schemes = "; ".join(f"{title}: {example}" for title, example in examples.items())
        expected = f"{schemes}; or netCDF or Zarr with a time axis"
    return InputError(
        root,
        found=f"{counted(len(paths), 'file that is', 'files that are')} not recognized: {names}",
        expected=expected,
        repair="say how the files are named, e.g. --set pattern='{date}_{band}_{res}.jp2', or --set "
        "pattern='{date}.tif' for files with several bands.",
    )
