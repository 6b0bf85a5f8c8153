"""The MIT-licensed real series as shards for pre-training: Slovenia 2015 (land use), Flanders 2019 (crops and grass).

``python benchmarks/real_shards.py --data ../shared/data --out runs/real_shards`` cuts squares of 48 pixels, which may
overlap, each with all of its dates. Cells whose cover nobody named count as unknown: a teacher still sees them.
Flanders 2018, on which few labels are tried out (labels.py), is not among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from pyproj import Transformer
from real_data import SCL_CLEAR

from agrifm.data.records import COVERS, Record
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.sensors import S2

SIDE, CELLS = 48, 8
SLOVENIA = {1: "cropland", 2: "forest", 3: "grassland", 4: "shrubland", 5: "water", 6: "wetland", 8: "impervious"}
FLANDERS = {11: "cropland", 13: "grassland"}  # 99, "no cropland", may be anything
OPAQUE = 2200  # blue reflectance of cloud, times 10,000, where no mask was made


def fractions(codes: np.ndarray, names: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the covers ``(8, y, x)`` and of the unknown ``(y, x)`` in cells of a square ``(h, w)``."""
    size = len(codes) // CELLS
    cells = codes.reshape(CELLS, size, CELLS, size)
    shares = np.zeros((len(COVERS), CELLS, CELLS), np.float32)
    for code, name in names.items():
        shares[COVERS.index(name)] += (cells == code).mean((1, 3), dtype=np.float32)
    return shares, np.clip(1 - shares.sum(0), 0, 1)


def squares(series: tuple[np.ndarray, np.ndarray, np.ndarray], codes: np.ndarray, **told: object) -> Iterator[Record]:
    """Records of overlapping squares of a series: image ``(t, c, h, w)``, clear ``(t, h, w)``, days ``(t)``."""
    image, clear, days = series
    names = told.pop("names")
    for top, left in np.ndindex(*((n - SIDE) // 8 + 1 for n in codes.shape)):
        place = (..., slice(8 * top, 8 * top + SIDE), slice(8 * left, 8 * left + SIDE))
        seen = clear[place].mean((1, 2)) > 0.3
        shares, unknown = fractions(codes[place], names)
        yield Record(
            sensor="S2",
            name=f"{told['source']}-{top}-{left}".replace(" ", "_"),
            image=image[place][seen],
            days=days[seen].astype(np.int32),
            clear=clear[place][seen].astype(np.uint8),
            fractions=shares,
            unknown=unknown,
            **told,
        )


def slovenia(data: Path) -> Iterator[Record]:
    """Five dates of top-of-atmosphere reflectance, with the land use of the parcel register."""
    with np.load(data / "eolearn_slovenia" / "npz" / "slovenia.npz") as arrays:
        bands = [list(arrays["s2_bands"]).index(band.id) for band in S2.bands]
        image = arrays["s2_l1c"][:, bands]
        clear = (image > 0).all(1) & (image[:, 0] < OPAQUE)
        told = _told(arrays, 2015, "Slovenia, land use register")
        yield from squares((image, clear, _days(arrays["s2_dates"])), arrays["lulc"], names=SLOVENIA, **told)


def flanders(data: Path) -> Iterator[Record]:
    """Dates from August 2018 to November 2019, with the growers' crops."""
    with np.load(data / "worldcereal_patches" / "npz" / "be_b_2019.npz") as arrays:
        image = np.concatenate([arrays["s2_10m"], arrays["s2_20m"].repeat(2, -2).repeat(2, -1)], axis=1)
        clear = np.isin(arrays["s2_scl_20m"], SCL_CLEAR).repeat(2, -2).repeat(2, -1) & (image > 0).all(1)
        told = _told(arrays, 2019, "Flanders, declared crops")
        yield from squares((image, clear, _days(arrays["s2_dates"])), arrays["lc"], names=FLANDERS, **told)


def _days(text: np.ndarray) -> np.ndarray:
    return text.astype("U10").astype("datetime64[D]").astype(np.int64)


def _told(arrays: Mapping[str, np.ndarray], year: int, source: str) -> dict[str, object]:
    west, south, east, north = arrays["bounds"]
    to_degrees = Transformer.from_crs(int(arrays["epsg"]), 4326, always_xy=True)
    lon, lat = to_degrees.transform((west + east) / 2, (south + north) / 2)
    return {"lon": round(lon, 4), "lat": round(lat, 4), "year": year, "source": source}


def main() -> None:
    """Read the command line, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_shards"))
    asked = parser.parse_args()
    with ShardWriter(asked.out, size=64, overwrite=True) as writer:
        for source in (slovenia, flanders):
            records = list(source(asked.data))
            for record in records:
                writer.add(record)
            dates = [len(record.days) for record in records]
            known = np.mean([1 - record.unknown.mean() for record in records])
            print(f"{records[0].source}: {len(records)} squares, {min(dates)} to {max(dates)} dates, {known:.0%} known")


if __name__ == "__main__":
    main()
