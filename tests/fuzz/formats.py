"""Every input format of this project: a valid example, how it is mutated, and what reading it promises."""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
import torch
import xarray
import yaml
from mutation import mutate_bytes, mutate_json, mutate_name, mutate_text
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from agrifm.checkpoint import Checkpoint, build
from agrifm.chips.classes import ClassTable
from agrifm.chips.labels import read_labels
from agrifm.compat.weights import describe_weights
from agrifm.config import load, parse
from agrifm.data.chips import Georeference, read_chip, read_georeference, write_chip
from agrifm.data.folder import ChipFolder
from agrifm.data.records import COVERS, Record
from agrifm.errors import printable
from agrifm.maps.files.cog import class_map, write_cog
from agrifm.maps.files.legend import Legend
from agrifm.maps.map_scene import MapOptions, map_scene
from agrifm.opening import open_scene
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.pretraining.shards import Shards
from agrifm.products.reproduce import reproduce
from agrifm.sample import Sample
from agrifm.scenes.checks.units import check_units
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, S2, Statistics
from agrifm.stac import search as stac
from agrifm.statistics.area_sample import Plan, draw, write_sample
from agrifm.statistics.design import Design
from agrifm.statistics.interpretation import estimates, read_answers
from agrifm.viewer.interpretation.answer_file import AnswerFile

CRS = "EPSG:32631"
SIDE = 24
CORNER = (500_000.0, 4_800_000.0)
TRANSFORM = Affine(10, 0, CORNER[0], 0, -10, CORNER[1])
GRID = GeoBox((SIDE, SIDE), TRANSFORM, CRS)
DAYS = (dt.date(2018, 4, 1), dt.date(2018, 5, 11), dt.date(2018, 7, 10))
CLASSES = ["other", "wheat", "maize"]
TINY = {"width": 8, "depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8], "drop_path": 0.0}
SECRET = 31_337  # every pixel of a raster that no case may read

Mutate = Callable[[Path, random.Random, list[str]], None]


class BrokenPromise(Exception):
    """An input was accepted, and the result breaks a promise of its format."""


class SecretRead(Exception):
    """Pixels of a file outside of the case were read."""


@dataclass(frozen=True)
class Format:
    """One kind of input.

    Args:
        prepare: writes a valid input into an empty folder.
        mutate: changes one file of a copy of that folder.
        read: reads the folder as the product does and checks what comes out.
    """

    prepare: Callable[[Path], None]
    mutate: Mutate
    read: Callable[[Path], object]


def promise(holds: object, text: str) -> None:
    """Raise where a promise does not hold."""
    if not holds:
        raise BrokenPromise(text)


# Tokens that mutations put in the place of names, paths and values


def write_secret(folder: Path) -> Path:
    """A raster outside of the case, which no input may reach."""
    folder.mkdir(parents=True)
    path = folder / "secret.tif"
    _write_tif(path, np.full((1, SIDE, SIDE), SECRET, np.uint16))
    vrt = f"""<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{CRS}</SRS>
    <GeoTransform>{CORNER[0]}, 10, 0, {CORNER[1]}, 0, -10</GeoTransform>
    <VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{path}</SourceFilename>
    <SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
    path.with_suffix(".vrt").write_text(vrt)
    return path


def tokens(secret: Path, port: int) -> list[str]:
    """Words that readers must not be led astray by."""
    return [
        str(secret),
        str(secret.with_suffix(".vrt")),
        "../outside/secret.tif",
        "../../outside/secret",
        f"file://{secret}",
        f"/vsicurl/http://127.0.0.1:{port}/x.tif",
        f"http:/127.0.0.1:{port}/x.tif",
        f"HTTP:\\\\127.0.0.1:{port}\\x.tif",
        f"vrt://{secret}",
        secret.with_suffix(".vrt").read_text(),
        "/dev/zero",
        "/proc/self/mem",
        "a/../../../etc/passwd",
        "!!python/object/apply:os.system ['touch /tmp/owned']",
        "__import__('os').system('id')",
        "(a+)+$" * 4,
        "{date}" * 3 + "*" * 40,
        "nan",
        "-inf",
        "1e999",
        "9" * 5_000,
        "2018-02-30",
        "EPSG:999999",
        "maïs",
        "=cmd|' /C calc'!A0",
        "null",
        "0",
        "-1",
        "S3",
    ]


def _write_tif(path: Path, values: np.ndarray, **more: object) -> None:
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "crs": CRS, "transform": TRANSFORM}
    with rasterio.open(path, "w", **{**profile, "dtype": values.dtype, **more}) as file:
        file.write(values)


def _reflectance(seed: int) -> np.ndarray:
    """Ten bands of vegetated fields in stored numbers, with some dark ground."""
    rng = np.random.default_rng(seed)
    level = np.array([400, 700, 500, 3000, 1000, 2400, 2900, 3100, 1800, 900])[:, None, None]
    fields = np.kron(rng.uniform(0.7, 1.3, (1, SIDE // 4, SIDE // 4)), np.ones((1, 4, 4)))
    image = level * fields * rng.normal(1, 0.03, (10, SIDE, SIDE))
    image[:, :3, :6] = level * 0.2
    return image.round().astype(np.uint16)


# Mutations of one file, chosen by pattern


def _some_file(case: Path, rng: random.Random, pattern: str) -> Path:
    return rng.choice(sorted(path for path in case.rglob(pattern) if path.is_file()))


def in_bytes(pattern: str) -> Mutate:
    """Change bytes of a file."""

    def mutate(case: Path, rng: random.Random, words: list[str]) -> None:
        path = _some_file(case, rng, pattern)
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))

    return mutate


def in_text(pattern: str) -> Mutate:
    """Change words and lines of a text file."""

    def mutate(case: Path, rng: random.Random, words: list[str]) -> None:
        path = _some_file(case, rng, pattern)
        path.write_bytes(mutate_text(path.read_text(), rng, words))

    return mutate


def in_json(pattern: str) -> Mutate:
    """Change the structure of a JSON file."""

    def mutate(case: Path, rng: random.Random, words: list[str]) -> None:
        path = _some_file(case, rng, pattern)
        path.write_bytes(mutate_json(path.read_text(), rng, words))

    return mutate


def in_names(pattern: str) -> Mutate:
    """Rename one to three files."""

    def mutate(case: Path, rng: random.Random, words: list[str]) -> None:
        for _ in range(rng.choice((1, 1, 3))):
            path = _some_file(case, rng, pattern)
            path.rename(path.with_name(mutate_name(path.name, rng, words)))

    return mutate


def one_of(*choices: Mutate) -> Mutate:
    """Any of several kinds of mutation."""

    def mutate(case: Path, rng: random.Random, words: list[str]) -> None:
        rng.choice(choices)(case, rng, words)

    return mutate


# What samples, scenes and weights promise


def check_sample(sample: Sample) -> None:
    """Shapes agree, what counts as seen is finite, dates are of the satellites' time."""
    promise(sample.images, "a sample without images")
    for name, image in sample.images.items():
        seen = sample.mask(name)
        promise(seen.shape == (image.shape[0], *image.shape[2:]), f"{name}: shape of the mask")
        promise(torch.isfinite(image.float()).all(1)[seen].all(), f"{name}: numbers that are not finite count as seen")
        promise(image.float().abs().nan_to_num(0, 0, 0).max() < 1e6, f"{name}: numbers no satellite stores")
        if name in sample.dates:
            days = sample.dates[name]
            promise(len(days) == len(image), f"{name}: number of dates")
            promise(bool(((days > 0) & (days < 60_000)).all()), f"{name}: dates {days.tolist()}")
        if int((image == SECRET).sum()) > SIDE:
            raise SecretRead(f"{name}: pixels of a file outside")
    if sample.label is not None:
        promise(not sample.label.is_floating_point() or not sample.label.isinf().any(), "labels that are infinite")


def read_scene(path: Path) -> None:
    """Open, check units, read all pixels, as a map does."""
    scene = check_units(open_scene(path))
    height, width = scene.grid.shape
    promise(0 < height * width < 1e7, f"a grid of {height} x {width}")
    area = Area(0, 0, min(height, 96), min(width, 96))
    sample = cut_sample(scene.read(area), area)
    check_sample(sample)
    for layer in scene.layers:
        promise(all(1970 < day.year < 2100 for day in layer.days), f"days {layer.days}")


# HDF5 chips and their lists


def _chip(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = np.stack([_reflectance(seed + i) for i in range(3)]).astype(np.int32)
    landsat = rng.integers(200, 4000, (2, 6, 8, 8)).astype(np.int16)
    dates = torch.tensor([17_600, 17_640, 17_700])
    sample = Sample(
        {"S2": torch.from_numpy(images), "Landsat": torch.from_numpy(landsat)},
        {"S2": dates, "Landsat": dates[:2]},
        {"S2": torch.ones(3, SIDE, SIDE, dtype=torch.bool)},
        torch.from_numpy(rng.integers(-1, 3, (SIDE, SIDE))),
    )
    write_chip(folder / f"{name}.h5", sample, (S2, LANDSAT), Georeference(CRS, tuple(TRANSFORM)[:6]))


def _read_chip(case: Path) -> None:
    sample = read_chip(case / "a.h5", (S2, LANDSAT), allow_missing=True)
    check_sample(sample)
    place = read_georeference(case / "a.h5")
    promise(place is None or np.isfinite(place.transform).all(), f"transform {place}")


def _prepare_list(folder: Path) -> None:
    for i, name in enumerate("abc"):
        _chip(folder / "chips", name, i)
    (folder / "train.txt").write_text("a\nb\nc\n")


def _read_list(case: Path) -> None:
    chips = ChipFolder.from_list(case / "chips", case / "train.txt", (S2, LANDSAT))
    for i in range(len(chips)):
        check_sample(chips.read(i))
        promise((case / "chips") in chips.path(i).resolve().parents, "a chip outside of its folder")


# Weights and experiments


def _settings() -> dict:
    return {
        "name": "fuzz",
        "data": {"root": "data", "sensors": ["S2"]},
        "model": {"size": TINY},
        "task": {"classes": CLASSES},
        "augment": {"crop": 16},
        "training": {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3, "workers": 0},
    }


def write_checkpoint(path: Path) -> None:
    """A model with random weights."""
    experiment = parse({**_settings(), "data": {"root": "data", "sensors": ["S2"], "footprint": SIDE * 10}})
    statistics = Statistics((2_000.0,) * 10, (1_000.0,) * 10, "fuzz")
    experiment = experiment.with_sensors([S2.with_statistics(statistics)])
    torch.manual_seed(0)
    Checkpoint(experiment, build(experiment).state_dict()).save(path)


def _read_checkpoint(case: Path) -> None:
    checkpoint = Checkpoint.load(case / "best.safetensors")
    model = checkpoint.model()
    finite = all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    promise(finite, "weights that are not finite")
    for sensor in checkpoint.experiment.data.sensors:
        promise(min(sensor.known_statistics().std) > 0, "a standard deviation that is not positive")


def _prepare_torch(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        "encoders.encoders.S2.patch_emd.proj.weight": torch.randn(8, 10, 4, 4, 4, generator=generator),
        "encoders.encoders.S2.patch_emd.proj.bias": torch.randn(8, generator=generator),
    }
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, folder / "weights.pth")


def _read_torch(case: Path) -> None:
    promise(describe_weights(case / "weights.pth"), "no description")


def _prepare_experiment(folder: Path) -> None:
    (folder / "experiment.yaml").write_text(yaml.safe_dump(_settings(), sort_keys=False))


def _read_experiment(case: Path) -> None:
    experiment = load(case / "experiment.yaml", ["training.epochs=3"])
    again = parse(yaml.safe_load(experiment.to_yaml()))
    promise(again == experiment, "an experiment that does not survive being written")


# Scenes


def _prepare_stack(folder: Path) -> None:
    scene = folder / "scene"
    scene.mkdir()
    for i, day in enumerate(DAYS):
        _write_tif(scene / f"sentinel2_{day:%Y%m%d}.tif", _reflectance(i), nodata=0, compress="deflate")
    settings = {"sources": [{"path": "scene", "sensor": "S2", "bands": list(S2.band_ids)}]}
    (folder / "scene.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def _prepare_bands(folder: Path) -> None:
    scene = folder / "scene"
    scene.mkdir()
    for i, day in enumerate(DAYS[:2]):
        image = _reflectance(i)
        for band, values in zip(S2.band_ids, image, strict=True):
            _write_tif(scene / f"{day:%Y%m%d}_{band}_10m.tif", values[None])
        _write_tif(scene / f"{day:%Y%m%d}_SCL_20m.tif", np.full((1, SIDE, SIDE), 4, np.uint8))


def _cube() -> xarray.Dataset:
    images = np.stack([_reflectance(i) for i in range(len(DAYS))]).astype(np.int16)
    y = CORNER[1] - 10 * (np.arange(SIDE) + 0.5)
    x = CORNER[0] + 10 * (np.arange(SIDE) + 0.5)
    dataset = xarray.Dataset(
        {band: (("time", "y", "x"), images[:, i]) for i, band in enumerate(S2.band_ids)},
        {"time": np.array(DAYS, "datetime64[ns]"), "y": y, "x": x},
    )
    for name in dataset.data_vars:
        dataset[name].attrs["grid_mapping"] = "spatial_ref"
    dataset["spatial_ref"] = xarray.DataArray(0, attrs={"crs_wkt": rasterio.CRS.from_string(CRS).to_wkt()})
    return dataset


def _prepare_netcdf(folder: Path) -> None:
    _cube().to_netcdf(folder / "sentinel2.nc", engine="h5netcdf")


def _prepare_zarr(folder: Path) -> None:
    _cube().to_zarr(folder / "sentinel2.zarr", zarr_format=2, consolidated=True)


def _item(day: dt.date) -> dict:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"item-{day}",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Point", "coordinates": [3.0, 43.35]},
        "bbox": [2.9, 43.3, 3.1, 43.4],
        "properties": {"datetime": f"{day}T10:50:31Z", "platform": "sentinel-2a", "eo:cloud_cover": 3.0},
        "assets": {
            band: {"href": f"./{day}_{band}.tif", "raster:bands": [{"scale": 1e-4, "offset": 0}]}
            for band in S2.band_ids
        },
        "links": [],
    }


def _write_assets(folder: Path) -> None:
    for i, day in enumerate(DAYS[:2]):
        for band, values in zip(S2.band_ids, _reflectance(i), strict=True):
            _write_tif(folder / f"{day}_{band}.tif", values[None], nodata=0)


def _prepare_items(folder: Path) -> None:
    _write_assets(folder)
    items = {"type": "FeatureCollection", "features": [_item(day) for day in DAYS[:2]]}
    (folder / "items.json").write_text(json.dumps(items))


def _prepare_catalog(folder: Path) -> None:
    names = [f"item{i}.json" for i in range(2)]
    for name, day in zip(names, DAYS, strict=False):
        (folder / name).write_text(json.dumps(_item(day)))
    links = [{"rel": "item", "href": f"./{name}"} for name in names]
    collection = {"type": "Collection", "id": "sentinel-2-l2a", "stac_version": "1.0.0", "description": "x"}
    (folder / "collection.json").write_text(json.dumps({**collection, "links": links}))


def _read_catalog(case: Path) -> None:
    where = {"bbox": (2.9, 43.3, 3.1, 43.4), "start": "2018-03-01", "end": "2018-09-30"}
    found = stac.search(str(case / "collection.json"), ["sentinel-2-l2a"], **where)
    promise(isinstance(found["features"], list), "no features")


# Labels and tables


def _parcels() -> geopandas.GeoDataFrame:
    shapes, crops = [], []
    for row in range(0, SIDE, 6):
        for column in range(0, SIDE, 6):
            x, y = CORNER[0] + 10 * column, CORNER[1] - 10 * row
            shapes.append(shapely.box(x + 1.7, y - 52.9, x + 52.3, y - 2.1))
            crops.append(CLASSES[(row + column) // 6 % 3])
    return geopandas.GeoDataFrame({"crop": crops}, geometry=shapes, crs=CRS)


def _prepare_labels(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        frame = _parcels()
        frame = frame.to_crs("EPSG:4326") if name.endswith(".geojson") else frame
        frame.to_file(folder / name)

    return prepare


def _read_labels(name: str) -> Callable[[Path], None]:
    def read(case: Path) -> None:
        labels = read_labels(case / name, GRID)
        promise(labels.label.shape == GRID.shape, "shape of the labels")
        promise(-1 <= labels.label.min() <= labels.label.max() < len(labels.classes), "a label without a class")
        promise(len(labels.classes) < 255, f"{len(labels.classes)} classes")

    return read


def _prepare_label_raster(folder: Path) -> None:
    codes = np.kron(np.random.default_rng(0).integers(1, 4, (1, 4, 4)), np.ones((1, 6, 6))).astype(np.uint8)
    _write_tif(folder / "labels.tif", codes, nodata=0)


def _prepare_class_table(folder: Path) -> None:
    rows = [["code", "name", "color"], ["1", "wheat", "#e3b23c"], ["2", "maize", "#117733"], ["3", "grass", "#88ccee"]]
    with (folder / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = [{"codes": row[0], "name": row[1], "color": row[2]} for row in rows[1:]]
    (folder / "classes.yaml").write_text(yaml.safe_dump(table))


def _read_class_table(case: Path) -> None:
    for path in sorted(case.glob("classes.*")):
        table = ClassTable.read(path)
        promise(0 < len(table.classes) < 255, f"{len(table.classes)} classes")


# Shards, provenance of maps, samples of areas


def _prepare_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "shards", size=2) as writer:
        for i in range(3):
            record = Record(
                "S2",
                f"sample{i}",
                _reflectance(i)[None].repeat(2, 0),
                np.array([17_600, 17_700], np.int32),
                np.ones((2, SIDE, SIDE), np.uint8),
                rng.dirichlet(np.ones(len(COVERS)), (2, 2)).transpose(2, 0, 1).astype(np.float32),
                np.zeros((2, 2), np.float32),
                3.0,
                43.0,
                2018,
            )
            writer.add(record)


def _read_shards(case: Path) -> None:
    shards = Shards.open(case / "shards")
    for i in range(min(len(shards), 8)):
        check_sample(shards.read(i))


def _prepare_provenance(folder: Path) -> None:
    _prepare_stack(folder)
    write_checkpoint(folder / "best.safetensors")
    (folder / "map").mkdir()
    options = MapOptions(extras=("confidence",))
    map_scene(folder / "best.safetensors", open_scene(folder / "scene.yaml"), folder / "map" / "map.tif", options)


def _read_provenance(case: Path) -> None:
    reproduce(case / "map" / "map.passport.json", case / "best.safetensors", case / "again")
    made = {path.name for path in (case / "again").iterdir()}
    promise(all(name.startswith(("map", ".")) for name in made), f"files {made}")


def _prepare_area(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    legend = Legend(tuple(CLASSES), ("#9a9a9a", "#e3b23c", "#117733"))
    write_cog(folder / "crops.tif", GRID, class_map(legend), [(0, 0, pixels)])
    design, _ = draw(folder / "crops.tif", Plan(size=30, floor=5))
    write_sample(folder / "sample.csv", design, open_book=True)
    rows = list(csv.reader((folder / "sample.csv").read_text().splitlines()))
    reference, names = rows[0].index("reference"), {entry.code: entry.name for entry in design.classes}
    for row, unit in zip(rows[1:], design.units, strict=True):
        row[reference] = names[unit.map_class]
    with (folder / "sample.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _read_area(case: Path) -> None:
    answers = read_answers(case / "sample.csv")
    for estimate in estimates(answers):
        for entry in estimate.classes:
            promise(np.isfinite(entry.hectares.value) and entry.hectares.value >= 0, f"{entry.hectares} hectares")
    promise(isinstance(answers.design, Design), "no design")


def _prepare_interpretation(folder: Path) -> None:
    _prepare_area(folder)
    design = Design.load(folder / "sample.csv")
    write_sample(folder / "sample.gpkg", design)
    for name in ("sample.csv", "sample.gpkg"):
        Design.beside(folder / name).unlink()


def _read_interpretation(case: Path) -> None:
    for path in (case / "sample.csv", case / "sample.gpkg"):
        _answer_one(path)


def _answer_one(path: Path) -> None:
    sample = AnswerFile.open(path)
    number = sample.points[0].id
    answer = sample.response.classes[-1]
    sample.save({"id": number, "answer": answer, "before": printable(sample.answers[number])})
    written = AnswerFile.open(path).answers
    promise(written == sample.answers and written[number] == answer, "other answers than those that were saved")


FORMATS = {
    "area sample": Format(_prepare_area, one_of(in_text("*.csv"), in_json("*.design.json")), _read_area),
    "bands of a scene": Format(_prepare_bands, in_names("*.tif"), lambda case: read_scene(case / "scene")),
    "checkpoint": Format(
        lambda folder: write_checkpoint(folder / "best.safetensors"), in_bytes("*.safetensors"), _read_checkpoint
    ),
    "chip": Format(lambda folder: _chip(folder, "a", 0), in_bytes("a.h5"), _read_chip),
    "chip list": Format(_prepare_list, in_text("train.txt"), _read_list),
    "class table": Format(_prepare_class_table, in_text("classes.*"), _read_class_table),
    "experiment": Format(_prepare_experiment, in_text("*.yaml"), _read_experiment),
    "GeoJSON": Format(_prepare_labels("fields.geojson"), in_json("*.geojson"), _read_labels("fields.geojson")),
    "GeoPackage": Format(_prepare_labels("fields.gpkg"), in_bytes("*.gpkg"), _read_labels("fields.gpkg")),
    "GeoTIFF": Format(_prepare_stack, in_bytes("*.tif"), lambda case: read_scene(case / "scene.yaml")),
    "interpreted sample": Format(
        _prepare_interpretation,
        one_of(in_text("*.csv"), in_bytes("*.gpkg"), in_json("*.response.json")),
        _read_interpretation,
    ),
    "item list": Format(_prepare_items, in_json("items.json"), lambda case: read_scene(case / "items.json")),
    "label raster": Format(_prepare_label_raster, in_bytes("*.tif"), _read_labels("labels.tif")),
    "netCDF": Format(_prepare_netcdf, in_bytes("*.nc"), lambda case: read_scene(case / "sentinel2.nc")),
    "provenance": Format(_prepare_provenance, in_json("*.passport.json"), _read_provenance),
    "scene.yaml": Format(_prepare_stack, in_text("scene.yaml"), lambda case: read_scene(case / "scene.yaml")),
    "shapefile": Format(_prepare_labels("fields.shp"), in_bytes("fields.*"), _read_labels("fields.shp")),
    "shards": Format(_prepare_shards, one_of(in_bytes("*.tar"), in_json("*.json")), _read_shards),
    "STAC catalog": Format(_prepare_catalog, in_json("*.json"), _read_catalog),
    "torch weights": Format(_prepare_torch, in_bytes("*.pth"), _read_torch),
    "Zarr": Format(
        _prepare_zarr, one_of(in_json(".z*"), in_bytes("*")), lambda case: read_scene(case / "sentinel2.zarr")
    ),
}
