"""Headers of raster files: data type, no-data value, scale and band names, without reading pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rasterio.enums import ColorInterp

from agrifm.errors import InputError, Unreadable, counted
from agrifm.rasters.file_band import FileBand, located, open_raster
from agrifm.scenes.description import Source
from agrifm.scenes.folders import placeholder_error, refuse_special
from agrifm.scenes.naming.patterns import normalized
from agrifm.scenes.naming.products import BandSource
from agrifm.scenes.scene import READERS


@dataclass(frozen=True)
class Header:
    """Header of a raster file; all fields have one entry for each band.

    Args:
        names: Descriptions of the bands, empty where there is none.
        dtypes: Data types.
        nodata: No-data values, None where the file states none.
        scaling: Scales and offsets.
        alpha: Whether the band is a mask of the others.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scaling: tuple[tuple[float, float], ...]
    alpha: tuple[bool, ...]


def read_headers(bands: Sequence[BandSource]) -> tuple[dict[str, Header], dict[str, InputError]]:
    """Read the headers of all raster files among the sources of bands.

    Returns:
        Headers by path, and the errors of files that do not open.
    """
    hrefs = sorted({band.raster.href for band in bands if isinstance(band.raster, FileBand)})
    headers: dict[str, Header] = {}
    broken: dict[str, InputError] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for href, result in zip(hrefs, pool.map(_read_header, hrefs), strict=True):
            if isinstance(result, Header):
                headers[href] = result
            else:
                broken[href] = result
    return headers, broken


def _read_header(href: str) -> Header | InputError:
    try:
        refuse_special(Path(href))
    except Unreadable as error:
        return error
    try:
        with open_raster(href) as file:
            located(file, href)
            scales = [float(scale) for scale in file.scales]
            offsets = [float(offset) for offset in file.offsets]
            return Header(
                names=tuple(normalized(name or "") for name in file.descriptions),
                dtypes=file.dtypes,
                nodata=file.nodatavals,
                scaling=tuple(zip(scales, offsets, strict=True)),
                alpha=tuple(color == ColorInterp.alpha for color in file.colorinterp),
            )
    except Unreadable as error:
        return placeholder_error(Path(href)) or error
    except InputError as error:
        return error


def split_bands(band: BandSource, headers: Mapping[str, Header], source: Source) -> Iterator[BandSource]:
    """Split a file that holds several bands into one source for each; any other source stays as it is.

    Args:
        band: Source of one band, or of a file whose name states no band.
        headers: Headers by path.
        source: Description by the user, which may name the bands.

    Raises:
        InputError: If the user lists another number of bands than the file has.
    """
    header = headers.get(band.raster.href)
    listed = None if isinstance(source.bands, Mapping) else source.bands
    if header is None or not (listed or _holds_several(band, header)):
        yield band
        return
    count = len(header.names) - sum(header.alpha)
    if listed and len(listed) not in (count, len(header.names)):
        raise InputError(
            band.raster.href,
            found=counted(count, "band"),
            expected=f"{len(listed)}, as many as are listed in bands: {', '.join(listed)}",
            repair="list all bands of the file in order, or name those that are used by position, e.g. "
            "--set bands='{1: B02, 2: B03}'.",
        )
    by_position = source.bands if isinstance(source.bands, Mapping) else {}
    alpha_is_listed = listed is not None and len(listed) == len(header.names)
    for index, description in enumerate(header.names, start=1):
        given_name = by_position.get(str(index))
        if header.alpha[index - 1] and not given_name and not alpha_is_listed:
            continue
        name = given_name or description or str(index)
        if listed and index <= len(listed):
            name = listed[index - 1]
        yield replace(band, raster=FileBand(band.raster.href, index), name=name, stamp=Path(band.label).stem)


def _holds_several(band: BandSource, header: Header) -> bool:
    """Whether a file holds several bands: its name states none, or its product is unknown and it has more than one."""
    if not band.name:
        return True
    return len(header.names) - sum(header.alpha) > 1 and not band.scheme.sensor
