"""What pixels of a scene mean: missing ones, impossible ones, several frames of a day, and sizes on the ground."""

import datetime as dt
import gc
import logging
from dataclasses import replace
from io import StringIO
from math import inf, nan

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from rich.console import Console

from agrifm.errors import InputError, Unreadable
from agrifm.opening import open_scene
from agrifm.rasters import cube_file
from agrifm.rasters.cube_band import CubeBand
from agrifm.rasters.file_band import FileBand, open_raster
from agrifm.rasters.grid import METERS_PER_DEGREE, check_grid, pixel_area, pixel_size
from agrifm.rasters.pixels import Pixels
from agrifm.scenes.checks.pixels import refuse_impossible
from agrifm.scenes.quicklook import show
from agrifm.scenes.scene import Area, Frame, Layer, Scene
from agrifm.scenes.units import Units
from agrifm.sensors import LANDSAT, S2

UTM, LEFT, TOP, SIDE = "EPSG:32631", 500_000.0, 4_800_000.0, 24
PLACE = Affine(10, 0, LEFT, 0, -10, TOP)
ALL = Area(0, 0, SIDE, SIDE)


def write(path, values, transform=PLACE, crs=UTM, **more):
    """A raster of one band, or of several along the first axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values.reshape(-1, *values.shape[-2:])
    profile = {"driver": "GTiff", "crs": crs, "transform": transform, "dtype": bands.dtype, "count": len(bands)}
    with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile | more) as file:
        file.write(bands)
    return path


def plain(value=1000, kind="uint16"):
    return np.full((SIDE, SIDE), value, kind)


def s2_files(root, changed=None, day="20180105", **more):
    """One file for each band of Sentinel-2, 1000 everywhere; ``changed`` holds the pixels of some bands."""
    for band in S2.band_ids:
        write(root / f"{day}_{band}_10m.tif", (changed or {}).get(band, plain()), **more)
    return root


def read_stack(scene, area=ALL):
    return scene.read(area).stacks["S2"]


def hole(value, kind):
    """Pixels with ``value`` in the upper left quarter."""
    values = plain(kind=kind)
    values[: SIDE // 2, : SIDE // 2] = value
    return values


def mask_file(path, valid):
    """Give a raster a mask that lies beside it."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(valid.astype(np.uint8) * 255)
    assert path.with_name(path.name + ".msk").is_file()


QUARTER = np.zeros((SIDE, SIDE), bool)
QUARTER[: SIDE // 2, : SIDE // 2] = True


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        (hole(-9999, "int16"), -9999),
        (hole(65535, "uint16"), 65535),
        (hole(nan, "float32"), None),
        (hole(inf, "float32"), None),
        (hole(-1, "int32"), -1),
    ],
)
def test_a_pixel_that_is_missing_in_one_band_is_not_seen(tmp_path, values, declared):
    root = s2_files(tmp_path / "s")
    write(root / "20180105_B05_10m.tif", values, nodata=declared)
    stack = read_stack(open_scene(root))
    assert np.array_equal(stack.clear[0], ~QUARTER)
    assert (stack.images[0][:, QUARTER] == 0).all()
    assert (stack.images[0][:, ~QUARTER] == 1000).all()


def test_a_zero_in_one_band_is_dark_ground_where_zero_marks_missing_pixels(tmp_path):
    stack = read_stack(open_scene(s2_files(tmp_path / "dark", {"B12": hole(0, "uint16")})))
    assert stack.clear.all()
    assert (stack.images[0, -1][QUARTER] == 1).all()
    everywhere = dict.fromkeys(S2.band_ids, hole(0, "uint16"))
    assert np.array_equal(read_stack(open_scene(s2_files(tmp_path / "none", everywhere))).clear[0], ~QUARTER)


def test_a_zero_is_a_number_where_another_value_marks_missing_pixels(tmp_path):
    everywhere = dict.fromkeys(S2.band_ids, hole(0, "int16"))
    stack = read_stack(open_scene(s2_files(tmp_path, everywhere, nodata=-9999)))
    assert stack.clear.all()
    assert (stack.images[0][:, QUARTER] == 1).all()


def test_a_mask_beside_the_file_counts(tmp_path):
    root = s2_files(tmp_path)
    mask_file(root / "20180105_B03_10m.tif", ~QUARTER)
    band = open_scene(root).layers[0].frames[0].bands["B03"]
    assert band.nodata == 0  # of the product: GDAL ignores the mask beside it
    assert np.array_equal(read_stack(open_scene(root)).clear[0], ~QUARTER)
    coarse = read_stack(open_scene(root, ["resolution=40"]), Area(0, 0, 6, 6))
    assert coarse.clear[0].sum() == 36 - 9


def test_no_data_beside_the_file_counts_in_headers_and_pixels(tmp_path):
    root = s2_files(tmp_path, {"B03": hole(-9999, "int16")})
    path = root / "20180105_B03_10m.tif"
    xml = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>-9999</NoDataValue></PAMRasterBand></PAMDataset>'
    path.with_name(path.name + ".aux.xml").write_text(xml)
    scene = open_scene(root)
    assert scene.layers[0].frames[0].bands["B03"].nodata is None
    assert np.array_equal(read_stack(scene).clear[0], ~QUARTER)


def test_files_whose_header_lies_beside_them(tmp_path):
    for band in S2.band_ids:
        write(tmp_path / f"20180105_{band}.img", hole(0, "uint16"), driver="ENVI", nodata=0)
    scene = open_scene(tmp_path / "{date}_{band}.img")
    assert (scene.resolution, scene.grid.shape) == (10, (SIDE, SIDE))
    assert np.array_equal(read_stack(scene).clear[0], ~QUARTER)


def test_an_alpha_band_is_a_mask(tmp_path):
    values = np.stack([plain(), np.where(QUARTER, 0, 65535).astype("uint16")])
    path = write(tmp_path / "a.tif", values, alpha="yes", photometric="minisblack")
    pixels = FileBand(str(path), 1, nodata=0).read(GeoBox((SIDE, SIDE), PLACE, UTM))
    assert np.array_equal(pixels.missing, QUARTER)


def test_each_band_of_a_file_has_its_own_marker(tmp_path):
    write(tmp_path / "a.tif", np.stack([hole(7, "uint16"), hole(9, "uint16")]))
    vrt = tmp_path / "a.vrt"
    source = "<SimpleSource><SourceFilename relativeToVRT='1'>a.tif</SourceFilename><SourceBand>{}</SourceBand>"
    bands = "".join(
        f"<VRTRasterBand dataType='UInt16' band='{i}'><NoDataValue>{value}</NoDataValue>"
        f"{source.format(i)}</SimpleSource></VRTRasterBand>"
        for i, value in ((1, 7), (2, 9))
    )
    transform = f"<SRS>{UTM}</SRS><GeoTransform>{LEFT}, 10, 0, {TOP}, 0, -10</GeoTransform>"
    vrt.write_text(f"<VRTDataset rasterXSize='{SIDE}' rasterYSize='{SIDE}'>{transform}{bands}</VRTDataset>")
    for index in (1, 2):
        pixels = FileBand(str(vrt), index).read(GeoBox((SIDE, SIDE), PLACE, UTM))
        assert np.array_equal(pixels.missing, QUARTER)


def a_cube(path, values, attributes, bands=S2.band_ids):
    """A cube of one date whose bands have these values and attributes."""
    centers = (np.arange(SIDE) + 0.5) * 10
    coords = {"time": [np.datetime64("2018-02-07", "ns")], "y": TOP - centers, "x": LEFT + centers}
    variables = {band: (("time", "y", "x"), values[None], attributes) for band in bands}
    data = xr.Dataset(variables, coords, {"crs": UTM})
    if path.suffix == ".zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


def attributed(path, values, **attributes):
    """A netCDF file whose attributes are written as they are, whatever xarray thinks of them."""
    a_cube(path, values, {})
    with h5py.File(path, "r+") as file:
        for band in S2.band_ids:
            file[band].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (hole(65535, "uint16"), {"_FillValue": np.uint16(0), "missing_value": np.uint16(65535)}),
        (hole(7, "uint16"), {"missing_value": np.array([65535, 7], "uint16")}),
        (hole(-9999, "int16"), {"missing_value": "-9999"}),
        (hole(20001, "uint16"), {"valid_max": np.uint16(20000)}),
        (hole(5, "int16"), {"valid_min": np.int16(10)}),
        (hole(30000, "int16"), {"valid_range": np.array([0, 20000], "int16")}),
        (hole(30000, "int16"), {"valid_range": np.array([0.0, 2.0]), "scale_factor": 1e-4}),
        (hole(-1, "int16"), {"_Unsigned": "true", "_FillValue": np.int16(-1)}),
        (hole(nan, "float32"), {"_FillValue": np.float32(-9999)}),
        (hole(1e20, "float32"), {"_FillValue": np.float32(1e20)}),
    ],
)
def test_all_that_a_cube_declares_missing_is(tmp_path, values, attributes):
    scene = open_scene(attributed(tmp_path / "a.nc", values, **attributes), ["scale=1e-4", "offset=0"])
    stack = read_stack(scene)
    assert np.array_equal(stack.clear[0], ~QUARTER)
    assert (stack.images[0][:, ~QUARTER] == 1000).all()
    coarse = read_stack(open_scene(tmp_path / "a.nc", ["scale=1e-4", "offset=0", "resolution=40"]), Area(0, 0, 6, 6))
    assert coarse.clear[0].sum() == 36 - 9


def test_a_marker_that_the_type_cannot_hold_marks_nothing(tmp_path):
    path = attributed(tmp_path / "a.nc", plain(), _FillValue=np.int32(-9999), missing_value=np.float32(nan))
    assert read_stack(open_scene(path)).clear.all()


def test_unsigned_numbers_may_be_stored_as_signed_ones(tmp_path):
    path = attributed(tmp_path / "a.nc", plain(-25536, "int16"), _Unsigned="true", scale_factor=1e-5)
    assert (read_stack(open_scene(path)).images == 4000).all()


def test_an_offset_without_a_scale(tmp_path):
    path = attributed(tmp_path / "a.nc", plain(0.3, "float32"), add_offset=-0.1)
    units = open_scene(path).layers[0].frames[0].units
    assert (units.scale, units.offset, units.source) == (1, -0.1, "add_offset in a.nc")
    attributed(tmp_path / "b.nc", plain(), scale_factor=0.0)
    with pytest.raises(InputError, match=r"b\.nc: B02\n.*scale_factor 0"):
        open_scene(tmp_path / "b.nc")


def test_zarr_is_read_without_the_lock_of_hdf5(tmp_path, monkeypatch):
    class Taken:
        def __enter__(self):
            raise AssertionError("the lock is taken")

        def __exit__(self, *_):
            pass

    path = a_cube(tmp_path / "a.zarr", plain(), {})
    monkeypatch.setattr(cube_file, "_LOCK", Taken())
    assert read_stack(open_scene(path)).clear.all()


def test_numbers_never_land_on_a_positive_no_data_value(tmp_path):
    sensor = replace(S2, nodata=65535)
    bands = {band: FileBand(str(write(tmp_path / f"{band}.tif", plain(65000)))) for band in S2.band_ids}
    frame = Frame("f", dt.date(2018, 1, 5), bands, units=Units(2e-4, 0.0))
    found = frame.read(sensor, GeoBox((SIDE, SIDE), PLACE, UTM))
    assert (found.image == 65534).all()
    assert found.has_data.all()


JUNK = plain()
JUNK[2:4] = 64500


@pytest.fixture(scope="module")
def junk(tmp_path_factory):
    """Two rows of junk in one band, under a quality layer that sees vegetation; and a second date without."""
    root = tmp_path_factory.mktemp("junk")
    for day, values in (("20180105", JUNK), ("20180210", plain())):
        s2_files(root, {"B11": values}, day)
        write(root / f"{day}_SCL_10m.tif", plain(4, "uint8"))
    return root


def test_impossible_reflectance_does_not_count_as_seen(junk):
    scene = open_scene(junk)
    stack = read_stack(scene)
    assert np.array_equal(stack.clear[0], JUNK == 1000)
    assert stack.clear[1].all()
    first, second = scene.layers[0].days
    assert stack.impossible_pixels() == {first: (2 * SIDE, SIDE**2), second: (0, SIDE**2)}
    assert read_stack(open_scene(junk, ["reflectance=[-0.2, 7]"])).clear.all()
    with pytest.raises(InputError, match="a lowest reflectance below the highest"):
        open_scene(junk, ["reflectance=[2, 1]"])


def test_impossible_reflectance_is_left_out_of_averages(junk):
    stack = read_stack(open_scene(junk, ["resolution=40"]), Area(0, 0, 6, 6))
    assert (stack.images == 1000).all()
    assert stack.clear.all()
    rows = read_stack(open_scene(junk, ["resolution=20"]), Area(0, 0, 12, 12))
    assert not rows.clear[0, 1].any()
    assert rows.clear.sum() == 2 * 144 - 12


def test_impossible_reflectance_is_left_out_of_averages_of_cubes(tmp_path):
    stack = read_stack(open_scene(a_cube(tmp_path / "a.nc", JUNK, {}), ["resolution=40"]), Area(0, 0, 6, 6))
    assert (stack.images == 1000).all()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_limits_may_be_infinite_or_beyond_what_a_data_type_holds(dtype):
    # A scale near 0 makes limits of stored numbers infinite.
    pixels = Pixels(np.array([[3, 7]], dtype), np.zeros((1, 2), bool))
    assert pixels.outside((-inf, inf)).tolist() == [[False, False]]
    assert pixels.outside((5, inf)).tolist() == [[True, False]]
    assert pixels.outside((-inf, 5.5)).tolist() == [[False, True]]
    assert pixels.outside((inf, inf)).tolist() == [[True, True]]
    assert pixels.outside((-1e12, -1e11)).tolist() == [[True, True]]
    assert pixels.outside((6.5, 7.0)).tolist() == [[True, False]]


def test_a_date_of_mostly_impossible_reflectance_is_refused_and_the_repair_works(junk):
    def check(*settings):
        scene = open_scene(junk, settings)
        counts = read_stack(scene).impossible_pixels()
        refuse_impossible(scene, S2, {day: impossible / total for day, (impossible, total) in counts.items()})

    check()
    with pytest.raises(InputError, match=r"S2, 2018-01-05\n.*outside -0.2..1.6 on 8%") as caught:
        check("impossible=0.05")
    assert "'--set impossible=1'" in caught.value.repair
    check("impossible=1")


def test_impossible_reflectance_is_shown_by_date(tmp_path):
    console = Console(file=StringIO(), record=True, width=160)
    show(open_scene(s2_files(tmp_path, {"B02": JUNK})), None, console)
    text = console.export_text()
    assert "impossible reflectance" in text
    assert "2018-01-05 8 %" in text


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_of_two_looks_of_a_day_clear_pixels_come_first(tmp_path, order):
    frames = []
    for name, value, clear in (("cloudy", 3000, 8), ("clear", 1000, 4)):
        layer = np.where(QUARTER, clear, 4).astype("uint8")
        s2_files(tmp_path / name, dict.fromkeys(S2.band_ids, plain(value)))
        write(tmp_path / name / "20180105_SCL_10m.tif", layer)
        frames += open_scene(tmp_path / name).layers[0].frames
    scene = Scene((Layer(S2, tuple(frames[order])),), frames[0].bands["B02"].grid())
    stack = read_stack(scene)
    assert stack.clear.all()
    assert (stack.images[0][:, QUARTER] == 1000).all()
    assert (stack.images[0][:, ~QUARTER] == (3000 if order.step is None else 1000)).all()


FEET = 10 / 0.3048006096012192


@pytest.mark.parametrize(
    ("crs", "transform", "shape", "hectares"),
    [
        ("EPSG:2263", Affine(FEET, 0, 990_000, 0, -FEET, 200_000), (SIDE, SIDE), 5.76),
        (UTM, Affine(10, 0, LEFT, 0, -20, TOP), (2 * SIDE, SIDE), 11.52),
        (UTM, Affine(20, 0, LEFT, 0, -10, TOP), (SIDE, 2 * SIDE), 11.52),
        (UTM, Affine.translation(LEFT, TOP) * Affine.rotation(90) * Affine.scale(10, -10), (SIDE, SIDE), 5.76),
        (UTM, Affine.translation(LEFT, TOP) * Affine.rotation(30) * Affine.scale(10, -10), (33, 33), 5.76),
    ],
)
def test_pixels_are_measured_in_meters_whatever_the_grid(tmp_path, crs, transform, shape, hectares):
    scene = open_scene(s2_files(tmp_path, transform=transform, crs=crs))
    assert scene.grid.shape == shape
    assert scene.resolution == pytest.approx(10)
    assert scene.factor(S2) == 1
    assert (scene.grid.affine.b, scene.grid.affine.d) == (0, 0)
    stack = read_stack(scene, Area(0, 0, *shape))
    assert stack.clear.sum() * pixel_area(scene.grid) / 1e4 == pytest.approx(hectares, rel=0.01)


def test_sizes_of_pixels():
    box = GeoBox((100, 100), Affine(10, 0, LEFT, 0, -20, TOP), UTM)
    assert (pixel_size(box), pixel_area(box)) == ((10, 20), 200)
    turned = GeoBox((100, 100), Affine.rotation(30) * Affine.scale(10, -20), UTM)
    assert pixel_size(turned) == pytest.approx((10, 20))
    assert pixel_area(turned) == pytest.approx(200)
    degrees = GeoBox((2, 2), Affine(1e-4, 0, 5, 0, -1e-4, 60), "EPSG:4326")
    assert pixel_size(degrees) == pytest.approx((METERS_PER_DEGREE * 5e-5, METERS_PER_DEGREE * 1e-4), rel=1e-3)


SITE = 'LOCAL_CS["site",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("crs", "transform", "found"),
    [
        (UTM, Affine(nan, 0, LEFT, 0, -10, TOP), "no place on the ground: nan"),
        (UTM, Affine(inf, 0, LEFT, 0, -10, TOP), "no place on the ground: inf"),
        (UTM, Affine(10, 20, LEFT, 5, 10, TOP), "no place on the ground: 10, 20"),
        (UTM, Affine(1e9, 0, LEFT, 0, -1e9, TOP), "pixels of 1e\\+09"),
        (SITE, PLACE, "not tied to the Earth's surface"),
        ("+proj=longlat +R=1737400 +no_defs", Affine(1e-4, 0, 10, 0, -1e-4, 10), "celestial body"),
    ],
)
def test_a_grid_without_a_place_on_earth_is_refused(tmp_path, crs, transform, found):
    with pytest.raises(InputError, match=found):
        open_scene(s2_files(tmp_path, transform=transform, crs=crs))


def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made(tmp_path):
    for shape in ((10**9, 10**9), (10**6, 10**6), (1, 10**7)):
        with pytest.raises(InputError, match="a grid of"):
            check_grid(GeoBox(shape, PLACE, UTM), "here")
    root = s2_files(tmp_path, day="20180105")
    s2_files(tmp_path, day="20180210", transform=Affine(10, 0, LEFT + 9e7, 0, -10, TOP))
    with pytest.raises(InputError, match="at most") as caught:
        open_scene(root)
    assert "--set bbox=west,south,east,north" in caught.value.repair
    assert max(open_scene(root, ["bbox=3,43.35,3.003,43.353"]).grid.shape) <= SIDE + 1


def test_blocks_that_no_memory_holds_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "bomb.tif"
    shape = {"height": 1 << 15, "width": 1 << 15, "count": 1, "dtype": "uint16"}
    layout = {"tiled": True, "blockxsize": 1 << 15, "blockysize": 1 << 15, "SPARSE_OK": True, "compress": "deflate"}
    with rasterio.open(path, "w", driver="GTiff", crs=UTM, transform=PLACE, **shape, **layout):
        pass
    assert path.stat().st_size < 10_000
    with pytest.raises(Unreadable, match="a block of 32,768 x 32,768"), open_raster(str(path)):
        pass


@pytest.mark.parametrize(
    ("name", "shape", "chunks"),
    [("x", (10**10,), (10**10,)), ("x", (10**10,), (100,)), ("B02", (1, SIDE, SIDE), (1, 10**5, 10**5))],
)
def test_zarr_stores_that_claim_more_than_memory_are_refused(tmp_path, name, shape, chunks):
    path = a_cube(tmp_path / "a.zarr", plain(), {})
    group = zarr.open_group(path)
    attributes, names = dict(group[name].attrs), group[name].metadata.dimension_names
    del group[name]
    array = group.create_array(name, shape=shape, chunks=chunks, dtype="float64", dimension_names=names)
    array.attrs.update(attributes)
    with pytest.raises(Unreadable, match=f"{name} of shape"):
        open_scene(path)


def test_zarr_stores_that_are_damaged_are_refused(tmp_path):
    path = a_cube(tmp_path / "a.zarr", plain(), {})
    chunk = next(path.glob("B02/c/*/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:5])
    band = CubeBand(str(path), "B02", 0)
    with pytest.raises(Unreadable, match=r"a\.zarr"):
        band.read(GeoBox((SIDE, SIDE), PLACE, UTM))
    for text in ("[]", "{", '{"node_type": "group", "zarr_format": 7}', '{"node_type": 3}'):
        (path / "zarr.json").write_text(text)
        with pytest.raises(Unreadable, match=r"a\.zarr"):
            open_scene(path)


def test_one_refusal_of_a_zarr_store_is_all_that_is_said(tmp_path, caplog):
    path = a_cube(tmp_path / "a.zarr", plain(), {})
    for array in path.glob("*/zarr.json"):
        array.write_text("{")
    for _ in range(5):
        with pytest.raises(Unreadable, match=r"a\.zarr"):
            open_scene(path)
        gc.collect()  # asyncio speaks when a task is collected
    assert not caplog.records
    other = "Task exception was never retrieved\nfuture: <Task finished coro=<f() done, defined at /x/zarr_tools.py:3>>"
    logging.getLogger("asyncio").error(other)
    assert [record.getMessage() for record in caplog.records] == [other]


def test_cubes_do_not_lead_to_other_files(tmp_path):
    a_cube(tmp_path / "other.nc", plain(), {})
    linked, virtual, external = (a_cube(tmp_path / f"{name}.nc", plain(), {}) for name in "lve")
    with h5py.File(linked, "r+") as file:
        file["extra"] = h5py.ExternalLink("other.nc", "/B02")
    with h5py.File(virtual, "r+") as file:
        layout = h5py.VirtualLayout((1, SIDE, SIDE), "uint16")
        layout[:] = h5py.VirtualSource("gone.nc", "B02", (1, SIDE, SIDE))
        file.create_virtual_dataset("extra", layout)
    with h5py.File(external, "r+") as file:
        file.create_dataset("extra", (4,), "uint8", external=[("/etc/hostname", 0, 4)])
    for path in (linked, virtual, external):
        with pytest.raises(Unreadable, match="extra, whose data are in another file"):
            open_scene(path)


@pytest.mark.parametrize("axis", ["x", "time"])
def test_axes_that_hold_no_numbers_are_refused(tmp_path, axis):
    path = a_cube(tmp_path / "a.nc", plain(), {}, LANDSAT.band_ids)
    with h5py.File(path, "r+") as file:
        size = file[axis].shape[0]
        file[axis][...] = np.full(size, 0 if axis == "time" else nan).astype(file[axis].dtype)
        file[axis].attrs["units"] = "furlongs"
    with pytest.raises(InputError, match=axis):
        open_scene(path)
