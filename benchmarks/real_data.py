"""Real series as chips in our HDF5 layout, split by blocks of ground.

A fold is one way to hand out the blocks: most train, some choose the epoch (val), the rest are tested. Over all folds
every labeled pixel is tested once. A chip is a block, so a model sees nothing of the others; in training, labels that
touch a block of another split are dropped (-1), so that no pixel mixed at an edge is both learned and tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from agrifm.data.chips import Georeference, write_chip
from agrifm.sample import Sample, days_since_epoch
from agrifm.sensors import LANDSAT, S2, Band, Sensor

SPLITS = ("train", "val", "test")
UNLABELED = -1
DRAWS = 2000  # block assignments to choose the most even one from
SCL_CLEAR = (4, 5, 6, 7)  # vegetation, soil, water, unclassified: winter fields and roofs are mostly the last
QA_CLEAR = (322, 324, 386, 388)  # Landsat Collection 1: clear or water, cloud confidence low
SATURATED = 16_000  # larger numbers are no reflectance (Landsat Collection 1 product guide)
CROPS = {1200: 0, 9120: 1, 7900: 2}  # maize, grass, other legumes; cabbage and potato are one field each
COVER = {60: 3, 99: 4}  # built-up, not cropland: where no crop is named

# NDVI and EVI are bands of the product like any other (MOD13Q1 User Guide, Didan et al., 2015).
MOD13Q1 = Sensor(
    name="MOD13Q1",
    gsd=231.66,
    scale=1.0,
    bands=(
        Band("blue", "blue", 0.469),
        Band("red", "red", 0.645),
        Band("nir", "nir", 0.858),
        Band("mir", "swir22", 2.130),
        Band("ndvi", "ndvi", 0.0),
        Band("evi", "evi", 0.0),
    ),
)

# These points have no values of the narrow near infrared.
S2_WITHOUT_B8A = Sensor(
    name="S2", gsd=S2.gsd, scale=S2.scale, bands=tuple(band for band in S2.bands if band.id != "B8A")
)
NDVI = Sensor(name="NDVI", gsd=231.66, scale=1.0, bands=(Band("ndvi", "ndvi", 0.0),))
LEAST_POINTS = 10  # of a class of french points
LEAST_PARCELS = 50  # of a land use of Central Asia
NO_DATA_16_BITS = 65_535


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``side`` label pixels, dealt out to ``folds`` groups."""

    side: int
    folds: int
    seed: int


@dataclass(frozen=True)
class Prepared:
    """Chips on disk.

    Args:
        classes: names, in the order of the label's integers.
        sensors: that the chips hold.
        folds: per fold the entries of an experiment's ``data`` section that say where its chips are.
    """

    classes: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    folds: tuple[Mapping[str, Path], ...]


def belgium(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """Sentinel-2 and Landsat-8 over 640 m of Flanders in 2018, one chip for each block of 12 x 12 pixels (120 m).

    The first and last 30 m cells stick out of the patch, so it is widened to 24 x 24 whole cells: every sensor lies on
    its own grid over one footprint, and no Landsat pixel in two blocks. The rim is masked and unlabeled.
    """
    with np.load(data / "worldcereal_patches" / "npz" / "be_a_2018.npz") as arrays:
        sample = _belgium(arrays)
        left, top = float(arrays["bounds"][0]) - 20, float(arrays["bounds"][3]) + 10
        place = Georeference(f"EPSG:{int(arrays['epsg'])}", (10.0, 0.0, left, 0.0, -10.0, top))
    classes = ("maize", "grass", "other legumes", "built-up", "not cropland")
    return _write(out, [sample], Prepared(classes, (S2, LANDSAT), ()), place, Blocks(12, folds, seed))


def _widen(array: np.ndarray, fill: int) -> np.ndarray:
    """Add the rim that makes 72 x 72 pixels of 10 m, so that cells of 30 m begin with the first."""
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(1, 7), (2, 6)], constant_values=fill)


def _twice(array: np.ndarray) -> np.ndarray:
    """20 m cells as four pixels of 10 m each."""
    return array.repeat(2, -2).repeat(2, -1)


def _belgium(arrays: Mapping[str, np.ndarray]) -> Sample:
    image = _widen(np.concatenate([arrays["s2_10m"], _twice(arrays["s2_20m"])], axis=1), 0)
    clear = _widen(_twice(np.isin(arrays["s2_scl_20m"], SCL_CLEAR)), 0)
    series = {"S2": (image, clear, dates_of(arrays["s2_dates"]))}
    cells = (..., slice(1, None, 3), slice(2, None, 3))  # all nine pixels of a cell are equal; these are never rim
    landsat = _widen(arrays["l8_10m"], 0)[cells]
    clear = np.isin(_widen(arrays["l8_pixel_qa"], 0)[cells], QA_CLEAR) & (landsat < SATURATED).all(1)
    series["Landsat"] = (landsat, clear, dates_of(arrays["l8_dates"]))
    crop, cover = arrays["ct"], arrays["lc"]
    label = np.full(crop.shape, UNLABELED)
    for codes, layer in ((COVER, np.where(crop == 0, cover, 0)), (CROPS, crop)):
        for code, index in codes.items():
            label[layer == code] = index
    kept = {name: _useful(*parts) for name, parts in series.items()}
    return Sample(
        images={name: torch.from_numpy(parts[0].astype(np.int32)) for name, parts in kept.items()},
        valid={name: torch.from_numpy(parts[1]) for name, parts in kept.items()},
        dates={name: torch.from_numpy(parts[2]) for name, parts in kept.items()},
        label=torch.from_numpy(_widen(label, UNLABELED)),
        name="be_a_2018",
    )


def dates_of(text: np.ndarray) -> np.ndarray:
    return text.astype("U10").astype("datetime64[D]")


def _useful(image: np.ndarray, clear: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dates of 2018 that saw at least half of the ground."""
    chosen = (clear.mean((1, 2)) >= 0.5) & (days.astype("datetime64[Y]") == np.datetime64("2018"))
    return image[chosen], clear[chosen], days[chosen].astype(np.int64)


def mato_grosso(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """Six seasons (September to August, 16-day composites) of 27 x 37 MODIS pixels, a chip for each season and block.

    A block is the same ground in every season, so no place is trained in one year and tested in another.
    """
    with np.load(data / "modis_mato_grosso" / "npz" / "raster_27x37.npz") as arrays:
        samples = [_season(arrays, start, index) for index, start in enumerate(arrays["label_season_start"])]
        classes = tuple(str(name) for name in arrays["classes"])
        place = Georeference(str(arrays["crs_proj4"]), tuple(float(x) for x in arrays["transform"]))
    return _write(out, samples, Prepared(classes, (MOD13Q1,), ()), place, Blocks(6, folds, seed))


def _season(arrays: Mapping[str, np.ndarray], start: str, index: int) -> Sample:
    days, first = dates_of(arrays["dates"]), np.datetime64(start)
    chosen = (days >= first) & (days < first + np.timedelta64(365, "D"))
    whole = [(0, -size % 6) for size in arrays["labels"].shape[1:]]  # to whole blocks
    image = np.pad(arrays["x"][chosen], [(0, 0), (0, 0), *whole], constant_values=np.nan)
    label = np.pad(arrays["labels"][index], whole, constant_values=UNLABELED)
    return _modis(image, days[chosen], label, f"season_{str(start)[:4]}")


def _modis(image: np.ndarray, days: np.ndarray, label: np.ndarray, name: str) -> Sample:
    """A MODIS sample; fill (NaN) is masked and written as 0."""
    bad = np.isnan(image)
    return Sample(
        images={MOD13Q1.name: torch.from_numpy(np.where(bad, 0, image).astype(np.float32))},
        valid={MOD13Q1.name: torch.from_numpy(~bad.any(1))},
        dates={MOD13Q1.name: days_since_epoch(days)},
        label=torch.from_numpy(label.astype(np.int64)),
        name=name,
    )


def points(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """MODIS series of single pixels over Mato Grosso, chips of 1 x 1; a block is half a degree (55 km) wide.

    Forest and Soy_Fallow were sampled in one block each, so they cannot be both learned and tested: left out.
    """
    with np.load(data / "modis_mato_grosso" / "npz" / "points.npz") as arrays:
        cell = np.floor(np.stack([arrays["lon"], arrays["lat"]], 1) * 2)
        block = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
        places = [len(np.unique(block[arrays["label_id"] == k])) for k in range(len(arrays["classes"]))]
        kept = np.flatnonzero(np.array(places) > 1)
        chosen = np.isin(arrays["label_id"], kept)
        image, days, block = arrays["x"][chosen, ..., None, None], dates_of(arrays["dates"][chosen]), block[chosen]
        label, classes = np.searchsorted(kept, arrays["label_id"][chosen]), arrays["classes"][kept]
    samples = [_modis(image[i], days[i], label[i, None, None], f"point_{i:04}") for i in range(len(image))]
    return _write_points(
        out, samples, Prepared(tuple(str(name) for name in classes), (MOD13Q1,), ()), block, folds, seed
    )


def maipo(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """Landsat-8 series of single pixels in fruit orchards of Chile, chips of 1 x 1; a block is a field.

    The eight dates are not published, so the frames count as evenly spread.
    """
    with np.load(data / "landsat8_maipo" / "npz" / "maipo.npz") as arrays:
        block = np.unique(arrays["field"], return_inverse=True)[1].ravel()
        image, label = arrays["x"][..., None, None].astype(np.int32), arrays["label_id"].astype(np.int64)
        classes = tuple(str(arrays["label"][label == k][0]) for k in range(label.max() + 1))
    samples = []
    for i in range(len(image)):
        pixel = torch.from_numpy(image[i])
        samples.append(Sample({LANDSAT.name: pixel}, label=torch.tensor([[label[i]]]), name=f"pixel_{i:04}"))
    return _write_points(out, samples, Prepared(classes, (LANDSAT,), ()), block, folds, seed)


def france_2023(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """Monthly Sentinel-2 series of points in declared parcels of France, chips of 1 x 1; a block is 0.05 degrees wide.

    Crops are grouped by the first six digits of their code; groups of fewer than ten points are left out.
    """
    with np.load(data / "worldcereal_france_2023" / "npz" / "points.npz") as arrays:
        groups, label = np.unique(arrays["ewoc"] // 10_000, return_inverse=True)
        points = np.bincount(label)
        kept = np.flatnonzero(points >= LEAST_POINTS)
        chosen = np.isin(label, kept)
        names = arrays["bands"].tolist()
        columns = [names.index(band.id) for band in S2_WITHOUT_B8A.bands]
        image = arrays["x"][chosen][:, :, columns]
        days = np.array([f"{month}-15" for month in arrays["months"]], "datetime64[D]")
        cell = np.floor(np.stack([arrays["lon"], arrays["lat"]], 1)[chosen] / 0.05)
        classes = tuple(str(group) for group in groups[kept])
        label = np.searchsorted(kept, label[chosen])
    image[image == NO_DATA_16_BITS] = np.nan
    block = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
    samples = [_pixel(image[i], days, label[i], S2_WITHOUT_B8A, f"point_{i:04}") for i in range(len(image))]
    return _write_points(out, samples, Prepared(classes, (S2_WITHOUT_B8A,), ()), block, folds, seed)


def central_asia(data: Path, out: Path, folds: int, seed: int = 0) -> Prepared:
    """NDVI of surveyed parcels in Uzbekistan and Tajikistan with gaps, chips of 1 x 1; a block is 10 km wide.

    Land uses of fewer than 50 parcels are left out. The dates are those of the 16-day composites of a year.
    """
    with np.load(data / "cawa_central_asia" / "npz" / "series.npz") as arrays:
        names, label = np.unique(arrays["label"], return_inverse=True)
        kept = np.flatnonzero(np.bincount(label) >= LEAST_PARCELS)
        chosen = np.isin(label, kept)
        image = arrays["ndvi"][chosen][..., None]
        years = arrays["year"][chosen]
        block = np.unique(arrays["cell10km"][chosen], return_inverse=True)[1].ravel()
        classes = tuple(str(name) for name in names[kept])
        label = np.searchsorted(kept, label[chosen])
    samples = []
    for i in range(len(image)):
        days = np.datetime64(f"{years[i]}-01-01") + 16 * np.arange(image.shape[1])
        samples.append(_pixel(image[i], days, label[i], NDVI, f"parcel_{i:04}"))
    return _write_points(out, samples, Prepared(classes, (NDVI,), ()), block, folds, seed)


def _pixel(series: np.ndarray, days: np.ndarray, label: int, sensor: Sensor, name: str) -> Sample:
    """The series ``(t, c)`` of one labeled pixel; dates with a missing value are masked and written as 0."""
    bad = np.isnan(series)
    valid = ~bad.any(1)
    image = np.where(bad, 0, series)[..., None, None].astype(np.float32)
    return Sample(
        images={sensor.name: torch.from_numpy(image)},
        valid={sensor.name: torch.from_numpy(valid[:, None, None])},
        dates={sensor.name: days_since_epoch(days)},
        label=torch.tensor([[int(label)]]),
        name=name,
    )


def _write_points(
    out: Path, samples: list[Sample], prepared: Prepared, block: np.ndarray, folds: int, seed: int
) -> Prepared:
    """Write single pixels, whose blocks ``(n)`` are dealt out to the folds."""
    counts = np.zeros((block.max() + 1, len(prepared.classes)))
    label = np.array([int(sample.label) for sample in samples if sample.label is not None])
    np.add.at(counts, (block, label), 1)
    group = most_even(counts, folds, seed)[block]
    for sample in samples:
        write_chip(out / "h5_samples" / f"{sample.name}.h5", sample, prepared.sensors)
    found: list[Mapping[str, Path]] = []
    for fold in range(folds):
        role = roles(group, fold, folds)
        names = {split: [samples[i].name for i in np.flatnonzero(role == k)] for k, split in enumerate(SPLITS)}
        found.append({"chips": out / "h5_samples", **_lists(out / f"fold_{fold}" / "data_lists", names)})
    return replace(prepared, folds=tuple(found))


def in_blocks(labels: np.ndarray, blocks: Blocks) -> np.ndarray:
    """The group of each pixel ``(h, w)``: square blocks, dealt out so that classes of ``labels (n, h, w)`` spread."""
    h, w = labels.shape[1:]
    row, column = np.arange(h)[:, None] // blocks.side, np.arange(w) // blocks.side
    number = row * (column.max() + 1) + column
    counts = np.zeros((number.max() + 1, labels.max() + 1))
    for layer in labels:
        np.add.at(counts, (number[layer >= 0], layer[layer >= 0]), 1)
    return most_even(counts, blocks.folds, blocks.seed)[number]


def most_even(counts: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The group of each block: of many random assignments the one that shares out every class most evenly.

    Args:
        counts: labeled pixels ``(blocks, classes)``.
        folds: number of groups.
        seed: of the draws; only labels are looked at, never an image or a score.
    """
    rng, share = np.random.default_rng(seed), counts / np.maximum(counts.sum(0), 1)
    best, least = np.zeros(len(counts), int), np.inf
    for _ in range(DRAWS):
        group = rng.permutation(np.arange(len(counts)) % folds)
        held = np.stack([share[group == k].sum(0) for k in range(folds)])
        uneven = float(np.square(held - 1 / folds).sum())
        if uneven < least:
            best, least = group, uneven
    return best


def roles(groups: np.ndarray, fold: int, folds: int) -> np.ndarray:
    """0 train, 1 val, 2 test: the fold's own group is tested, the next one validates."""
    return np.where(groups == fold, 2, np.where(groups == (fold + 1) % folds, 1, 0))


def split_labels(label: np.ndarray, groups: np.ndarray, fold: int, folds: int) -> dict[str, np.ndarray]:
    """The label ``(h, w)`` as each split sees it; training keeps one pixel of distance from the others' blocks."""
    role = roles(groups, fold, folds)
    h, w = role.shape
    padded = np.pad(role, 1, mode="edge")
    around = np.stack([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)])
    kept = {"train": (around == 0).all(0), "val": role == 1, "test": role == 2}
    return {split: np.where(mask, label, UNLABELED) for split, mask in kept.items()}


def _write(out: Path, samples: list[Sample], prepared: Prepared, place: Georeference, blocks: Blocks) -> Prepared:
    """Write every fold as a data set of its own, in the layout that ``agrifm train`` reads."""
    groups = in_blocks(np.stack([sample.label for sample in samples if sample.label is not None]), blocks)
    for fold in range(blocks.folds):
        names: dict[str, list[str]] = {name: [] for name in SPLITS}
        for sample in samples:
            for name, label in split_labels(np.asarray(sample.label), groups, fold, blocks.folds).items():
                whole = replace(sample, label=torch.from_numpy(label), name=f"{sample.name}_{name}")
                for chip, where in _cut(whole, place, blocks.side):
                    write_chip(out / f"fold_{fold}" / "h5_samples" / f"{chip.name}.h5", chip, prepared.sensors, where)
                    names[name].append(chip.name)
        _lists(out / f"fold_{fold}" / "data_lists", names)
    return replace(prepared, folds=tuple({"root": out / f"fold_{fold}"} for fold in range(blocks.folds)))


def _cut(sample: Sample, place: Georeference, side: int) -> Iterator[tuple[Sample, Georeference]]:
    """The labeled squares of a sample, ``side`` label pixels wide, each with its place."""
    assert sample.label is not None
    height, width = sample.label.shape
    a, b, left, d, e, top = place.transform
    for y, x in ((y, x) for y in range(0, height, side) for x in range(0, width, side)):
        piece = replace(
            sample,
            images={key: _square(image, height, y, x, side) for key, image in sample.images.items()},
            valid={key: _square(mask, height, y, x, side) for key, mask in sample.valid.items()},
            label=_square(sample.label, height, y, x, side),
            name=f"{sample.name}_{y}_{x}",
        )
        if piece.label is not None and bool((piece.label != UNLABELED).any()):
            yield piece, Georeference(place.crs, (a, b, left + a * x + b * y, d, e, top + d * x + e * y))


def _square(image: torch.Tensor, height: int, y: int, x: int, side: int) -> torch.Tensor:
    """The same ground from a grid of any pixel size; ``height`` counts the label's rows."""
    step = height // image.shape[-2]
    return image[..., y // step : (y + side) // step, x // step : (x + side) // step]


def _lists(folder: Path, names: Mapping[str, list[str]]) -> dict[str, Path]:
    """Write the list files and return their paths by split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, members in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))
    return {split: folder / f"{split}.txt" for split in names}
