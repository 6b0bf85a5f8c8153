"""Pixels that are copied are those that a warp by GDAL gives, and every file is opened once."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from agrifm.opening import open_scene
from agrifm.rasters import file_band
from agrifm.rasters.file_band import FileBand, read_bands
from agrifm.rasters.matching import Matching
from agrifm.scenes.scene import Area
from agrifm.sensors import S2

UTM, LEFT, TOP, SIDE = "EPSG:32631", 500_000.0, 4_800_000.0, 48
HALVED = ("B05", "B06", "B07", "B8A", "B11", "B12")  # bands of 20 m


def place(meters=10.0, left=LEFT, top=TOP):
    return Affine(meters, 0, left, 0, -meters, top)


def numbers(side, seed=0, kind="uint16"):
    """Reflectance from 0 to 1; a tenth of the numbers are 0."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 10_000, (side, side))
    return np.where(rng.random((side, side)) < 0.1, 0, values).astype(kind)


def write(path, values, transform, crs=UTM, **more):
    bands = values.reshape(-1, *values.shape[-2:])
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    profile = {"driver": "GTiff", "crs": crs, "transform": transform, "dtype": bands.dtype, **shape}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile | more) as file:
        file.write(bands)
    return path


def warped(path, box, index=1, marker=None):
    """Nearest neighbors by GDAL, in a type that holds them and -1 for missing pixels."""
    with rasterio.open(path) as file:
        options = {"src_nodata": marker, "nodata": -1, "dtype": "float64", "resampling": Resampling.nearest}
        place = {"crs": str(box.crs), "transform": box.affine, "height": box.shape[0], "width": box.shape[1]}
        with WarpedVRT(file, tolerance=0.001, **place, **options) as view:
            return view.read(index)


def comparable(pixels):
    return np.where(pixels.missing, -1, pixels.values.astype(np.float64))


BOXES = {
    "the same grid": GeoBox((SIDE, SIDE), place(), UTM),
    "a part": GeoBox((7, 9), place(10, LEFT + 130, TOP - 50), UTM),
    "whole pixels beyond the upper left": GeoBox((SIDE, SIDE), place(10, LEFT - 70, TOP + 120), UTM),
    "whole pixels beyond the lower right": GeoBox((SIDE, SIDE), place(10, LEFT + 310, TOP - 290), UTM),
    "elsewhere": GeoBox((5, 5), place(10, LEFT + 90_000, TOP), UTM),
    "finer": GeoBox((60, 60), place(5, LEFT + 35, TOP - 15), UTM),
    "finer by no whole number": GeoBox((50, 50), place(7, LEFT + 3, TOP - 2), UTM),
    "a third of a pixel aside": GeoBox((30, 30), place(10, LEFT + 10 / 3, TOP), UTM),
    "half a pixel aside": GeoBox((30, 30), place(10, LEFT + 5, TOP - 5), UTM),
    "the south first": GeoBox((SIDE, SIDE), Affine(10, 0, LEFT, 0, 10, TOP - 10 * SIDE), UTM),
    "coarser": GeoBox((20, 20), place(30, LEFT - 10, TOP), UTM),
    "rotated": GeoBox((40, 40), place(9, LEFT + 100, TOP) @ Affine.rotation(20), UTM),
    "another CRS": GeoBox((40, 40), place(10, 9_600, 4_819_000), "EPSG:32632"),
    "degrees": GeoBox((40, 40), Affine(1e-4, 0, 3.0003, 0, -1e-4, 43.352), "EPSG:4326"),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("marker", [0, None, 65535])
def test_a_band_has_the_pixels_that_a_warp_gives(tmp_path, name, marker):
    values = numbers(SIDE)
    values[values == 17] = 65535
    path = write(tmp_path / "a.tif", values, place(), nodata=marker)
    box = BOXES[name]
    found = FileBand(str(path)).read(box, average=False)
    assert np.array_equal(comparable(found), warped(path, box, marker=marker))


def test_only_what_needs_it_is_warped(tmp_path):
    grid = GeoBox((SIDE, SIDE), place(), UTM)
    copied = {name for name, box in BOXES.items() if Matching.of(grid, box) is not None}
    assert copied == {
        "the same grid",
        "a part",
        "whole pixels beyond the upper left",
        "whole pixels beyond the lower right",
        "elsewhere",
        "finer",
        "finer by no whole number",
        "a third of a pixel aside",
        "the south first",
    }


@pytest.mark.parametrize("name", ["the same grid", "finer", "a part", "another CRS"])
def test_a_mask_is_applied_whether_pixels_are_copied_or_warped(tmp_path, name):
    path = write(tmp_path / "a.tif", numbers(SIDE) | 1, place())
    seen = numbers(SIDE, seed=1) > 3000
    with rasterio.open(path, "r+") as file:
        file.write_mask(seen.astype(np.uint8) * 255)
    reference = write(tmp_path / "b.tif", np.where(seen, numbers(SIDE) | 1, 0).astype("uint16"), place(), nodata=0)
    box = BOXES[name]
    found = FileBand(str(path)).read(box)
    assert np.array_equal(comparable(found), warped(reference, box, marker=0))


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_of_one_file_are_those_that_are_read_alone(tmp_path, monkeypatch, name, interleave):
    stacked = np.stack([numbers(SIDE, seed) for seed in range(4)])
    path = write(tmp_path / "a.tif", stacked, place(), nodata=0, interleave=interleave)
    bands = {index: FileBand(str(path), index) for index in (3, 1, 4)}
    box = BOXES[name]
    alone = {index: comparable(band.read(box, limits=(0, 9_000))) for index, band in bands.items()}
    opened = count_openings(monkeypatch)
    together = {}
    read_bands(bands, box, lambda index, pixels: together.update({index: comparable(pixels)}), limits=(0, 9_000))
    assert len(opened) == 1
    assert list(together) == list(alone)
    for index, pixels in alone.items():
        assert np.array_equal(together[index], pixels)


def count_openings(monkeypatch):
    """List that receives the path of every file that is opened from now on."""
    paths = []
    opened = file_band.opened

    def counted(href, *args, **options):
        paths.append(href)
        return opened(href, *args, **options)

    monkeypatch.setattr(file_band, "opened", counted)
    return paths


def s2_day(root, day, seed, left=LEFT, crs=UTM):
    """Bands of 10 and 20 m and a scene classification of 20 m, all on one lattice."""
    for number, band in enumerate((*S2.band_ids, "SCL")):
        meters = 20 if band in (*HALVED, "SCL") else 10
        values = numbers(SIDE * 10 // meters, 100 * seed + number)
        if band == "SCL":
            values = (values % 10).astype(np.uint8)
        write(root / f"{day}_{band}_{meters}m.tif", values, place(meters, left), crs, nodata=0)


def expected_day(root, day, box):
    """Images and clear ground of a day, by GDAL alone."""
    images = []
    for band in S2.band_ids:
        (path,) = root.glob(f"{day}_{band}_*.tif")
        images.append(warped(path, box, marker=0))
    (path,) = root.glob(f"{day}_SCL_*.tif")
    images = np.stack(images)
    has_data = (images != -1).any(0)
    clear = np.isin(warped(path, box, marker=0), (4, 5, 6, 7)) & has_data
    images = np.where(has_data, images.clip(min=1), 0)  # a 0 in some bands is dark ground
    return images.astype(np.uint16), clear


@pytest.mark.parametrize("settings", [[], ["crs=EPSG:32632", "resolution=10"]])
def test_a_scene_has_the_pixels_that_warps_of_its_files_give(tmp_path, monkeypatch, settings):
    s2_day(tmp_path, "20180105", seed=1)
    s2_day(tmp_path, "20180210", seed=2, left=LEFT + 60)  # offset by whole pixels
    scene = open_scene(tmp_path, settings)
    height, width = scene.grid.shape
    for area in (Area(0, 0, height, width), Area(5, 3, 20, 31)):
        opened = count_openings(monkeypatch)
        stack = scene.read(area).stacks["S2"]
        assert len(opened) == len(set(opened)) == 2 * (len(S2.bands) + 1)
        monkeypatch.undo()
        box = scene.grid[area.row : area.row + area.height, area.column : area.column + area.width]
        for step, day in enumerate(("20180105", "20180210")):
            images, clear = expected_day(tmp_path, day, box)
            assert np.array_equal(stack.images[step], images)
            assert np.array_equal(stack.clear[step], clear)


def test_one_file_of_all_bands_is_opened_once_for_each_date(tmp_path, monkeypatch):
    for seed, day in enumerate(("20180105", "20180210")):
        stacked = np.stack([numbers(SIDE, 100 * seed + number) for number in range(len(S2.bands))])
        path = write(tmp_path / f"{day}.tif", stacked, place(), nodata=0)
        with rasterio.open(path, "r+") as file:
            for index, band in enumerate(S2.band_ids, 1):
                file.set_band_description(index, band)
    scene = open_scene(tmp_path, ["sensor=S2"])
    opened = count_openings(monkeypatch)
    stack = scene.read(Area(0, 0, SIDE, SIDE)).stacks["S2"]
    assert len(opened) == 2
    has_data = (stacked != 0).any(0)
    assert np.array_equal(stack.images[1], np.where(has_data, stacked.clip(min=1), 0))


def test_two_frames_of_a_day_are_merged_as_before(tmp_path):
    for number, left in enumerate((LEFT, LEFT + 240)):
        s2_day(tmp_path / f"{number}", "20180105", seed=number, left=left)
    scene = open_scene(tmp_path / "{tile}" / "{date}_{band}_{res}.tif")
    stack = scene.read(Area(0, 0, *scene.grid.shape)).stacks["S2"]
    parts = [expected_day(tmp_path / f"{number}", "20180105", scene.grid) for number in range(2)]
    (first, clear_in_first), (second, clear_in_second) = parts
    take_second = (~(first != 0).any(0) & (second != 0).any(0)) | (clear_in_second & ~clear_in_first)
    assert np.array_equal(stack.images[0], np.where(take_second, second, first))
    assert np.array_equal(stack.clear[0], clear_in_first | clear_in_second)
