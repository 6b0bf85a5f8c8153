"""Scenes from files: every way of naming them, what is asked for, and what is refused."""

import datetime as dt
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio.warp
import shapely
import xarray as xr
import yaml
from rasterio.transform import from_origin

from agrifm.errors import InputError, Unreadable
from agrifm.opening import open_scene
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene

REAL = Path(__file__).parents[2] / "shared" / "data"
FRANCE, FLANDERS = REAL / "france_parcels_2018" / "jp2", REAL / "worldcereal_patches" / "netcdf_be_a"
UTM = "EPSG:32631"
LEFT, TOP = 500040.0, 4800000.0
SIZE = 120.0  # meters along a side of what the files below cover
DAYS = ("20180105", "20180207")


def write(path, value=1, pixel=10, crs=UTM, corner=(LEFT, TOP), size=SIZE, names=(), **more):
    """A raster with the same value everywhere; in several bands, ``value`` and the next ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, n = max(1, len(names)), round(size / pixel)
    shape = {"count": count, "height": n, "width": n, "dtype": "uint16", **more}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=from_origin(*corner, pixel, pixel), **shape
    ) as file:
        file.write(np.full((count, n, n), np.arange(value, value + count)[:, None, None], shape["dtype"]))
        file.descriptions = tuple(names) or (None,)
    return path


def band_files(root, form="{date}_{band}_{meters}m.tif", bands=S2.band_ids, days=DAYS, meters=10, **more):
    """One file for each band and day; the first band holds 1, the next 2."""
    for date in days:
        for i, band in enumerate(bands, start=1):
            write(root / form.format(date=date, band=band, meters=meters), i, meters, **more)
    return root


def stored(scene, sensor):
    """What the first frame of a sensor holds in each of its bands."""
    layer = next(layer for layer in scene.layers if layer.sensor.name == sensor.name)
    read = [layer.frames[0].bands[band].read(scene.grid).filled(0) for band in sensor.band_ids]
    return [int(values[values.shape[0] // 2, values.shape[1] // 2]) for values in read]


def refused(path, *overrides, kind=InputError, **options):
    """The text of the error."""
    with pytest.raises(kind) as caught:
        open_scene(path, overrides, **options)
    assert caught.value.repair
    return str(caught.value)


SAFE = (
    "S2A_MSIL2A_{date}T104021_N0500_R008_T31TEJ_20180707T135351.SAFE/GRANULE/L2A_T31TEJ_A015/IMG_DATA/"
    "R{meters}m/T31TEJ_{date}T104021_{band}_{meters}m.tif"
)
COLLECTION2 = "{satellite}_L2SP_198030_{{date}}_20200101_02_T1_{{band}}.TIF"
OLI = (*(f"SR_B{i}" for i in (2, 3, 4, 5, 6, 7)), "QA_PIXEL", "SR_B1")
ETM = (*(f"SR_B{i}" for i in (1, 2, 3, 4, 5, 7)), "QA_PIXEL")
STATE = "sur_refl_state_500m"
LAYOUTS = {
    "by date": ("{date}_{band}_{meters}m.tif", (*S2.band_ids, "SCL"), S2, "SCL", "the sensor's own", 10),
    "dashes": ("10m/2018-02-07_{band}.tif", (*S2.band_ids, "mask"), S2, "mask", "the sensor's own", 10),
    "names": ("{date}_{band}.tif", [band.common_name for band in S2.bands], S2, None, "the sensor's own", 10),
    "HLS S30": ("HLS.S30.T31TEJ.2018038T103000.v2.0.{band}.tif", (*S2.band_ids, "Fmask"), S2, "Fmask", "HLS v2.0", 30),
    "HLS L30": (
        "x/HLS.L30.T31TEJ.2018038T103000.v2.0.{band}.tif",
        (*LANDSAT.band_ids, "B10", "Fmask"),
        LANDSAT,
        "Fmask",
        "HLS v2.0",
        30,
    ),
    "Landsat 8": (COLLECTION2.format(satellite="LC08"), OLI, LANDSAT, "QA_PIXEL", "Landsat Collection 2 Level 2", 30),
    "Landsat 7": (COLLECTION2.format(satellite="LE07"), ETM, LANDSAT, "QA_PIXEL", "Landsat Collection 2 Level 2", 30),
    "MOD09A1": (
        "MOD09A1.A2018038.h18v04.061.2018047030442_{band}.tif",
        (*MODIS.band_ids, STATE),
        MODIS,
        STATE,
        "MOD09A1",
        60,
    ),
    "AppEEARS": ("MOD09A1.061_{band}_doy2018038_aid0001.tif", (*MODIS.band_ids, STATE), MODIS, STATE, "MOD09A1", 60),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_way_of_naming(tmp_path, layout):
    form, bands, sensor, rule, units, meters = LAYOUTS[layout]
    scene = open_scene(band_files(tmp_path / "scene", form, bands, ["20180207"], meters))
    assert scene.sensors == (sensor,)
    assert scene.layers[0].days == (dt.date(2018, 2, 7),)
    assert stored(scene, sensor) == list(range(1, len(sensor.bands) + 1))
    (frame,) = scene.layers[0].frames
    assert frame.units.source == units
    assert (frame.quality and frame.quality.rule) == rule
    assert all(band.nodata is not None for band in frame.bands.values())
    assert (scene.grid.shape, str(scene.grid.crs)) == ((SIZE / meters, SIZE / meters), UTM)
    assert tuple(scene.grid.affine)[:6] == (meters, 0, LEFT, 0, -meters, TOP)


def test_safe_folders_give_each_band_at_the_size_it_was_taken_with(tmp_path):
    band_files(tmp_path, SAFE, ("B02", "B03", "B04", "B08", "TCI", "AOT"), meters=10)
    band_files(tmp_path, SAFE, ("B02", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), meters=20)
    scene = open_scene(tmp_path)
    assert stored(scene, S2) == [1, 2, 3, 4, 2, 3, 4, 5, 6, 7]
    frame = scene.layers[0].frames[0]
    assert frame.quality.rule == "SCL"
    assert (frame.units.offset, frame.units.source) == (-0.1, "baseline 05.00")
    assert scene.resolution == 10


@pytest.mark.parametrize(("text", "offset"), [("04.00", -0.1), ("02.14", 0.0), (None, 0.0)])
def test_the_baseline_stands_in_the_metadata_where_a_safe_folder_was_renamed(tmp_path, text, offset):
    band_files(tmp_path / "july.SAFE", "R/T31TEJ_{date}T104021_{band}_10m.tif", S2.band_ids[:4], DAYS[:1])
    band_files(tmp_path / "july.SAFE", "R/T31TEJ_{date}T104021_{band}_20m.tif", S2.band_ids[4:], DAYS[:1])
    if text:
        (tmp_path / "july.SAFE" / "MTD_MSIL2A.xml").write_text(f"<PROCESSING_BASELINE>{text}</PROCESSING_BASELINE>")
    units = open_scene(tmp_path).layers[0].frames[0].units
    assert units.offset == offset
    assert (text or "unknown") in units.source


def test_bands_of_several_files_may_be_of_different_sizes(tmp_path):
    band_files(tmp_path, bands=("B02", "B03", "B04", "B08"), size=110)
    band_files(tmp_path, bands=S2.band_ids[4:], meters=20)
    band_files(tmp_path, bands=("B02",), meters=60)
    scene = open_scene(tmp_path)
    assert scene.grid.shape == (11, 11)
    assert stored(scene, S2)[:5] == [1, 2, 3, 4, 1]


@pytest.mark.parametrize("sensor", [S2, LANDSAT, MODIS])
@pytest.mark.parametrize("named", [True, False])
def test_files_with_all_bands(tmp_path, sensor, named):
    names = [*reversed(sensor.band_ids), "extra"] if named else [None] * len(sensor.bands)
    for date in DAYS:
        write(tmp_path / f"image_{date}.tif", names=names, pixel=30)
    scene = open_scene(tmp_path)
    count = len(sensor.bands)
    assert scene.sensors == (sensor,)
    assert len(scene.layers[0].days) == 2
    assert stored(scene, sensor) == (list(range(count, 0, -1)) if named else list(range(1, count + 1)))
    assert scene.layers[0].frames[0].name == f"image_{DAYS[0]}"


def test_a_list_or_positions_say_what_the_bands_of_a_file_are(tmp_path):
    write(tmp_path / "s_20180207.tif", names=[None] * 8)
    assert "8 bands" in refused(tmp_path, "bands=[B02, B03]")
    scene = open_scene(tmp_path, ["bands=[QA_PIXEL, B07, B06, B05, B04, B03, B02, x]"])
    assert scene.sensors == (LANDSAT,)
    assert stored(scene, LANDSAT) == [7, 6, 5, 4, 3, 2]
    assert scene.layers[0].frames[0].quality.raster.index == 1
    positions = "bands={1: mask, 8: B02, 2: B03, 3: B04, 4: B05, 5: B06, 6: B07}"
    scene = open_scene(tmp_path, [positions, "sensor=Landsat"])
    assert stored(scene, LANDSAT) == [8, 2, 3, 4, 5, 6]
    assert scene.layers[0].frames[0].quality.rule == "mask"


def test_a_pattern_in_the_path_or_beside_it(tmp_path):
    form = "{band}/x_{meters}_{date}.tif"
    band_files(tmp_path / "a", form)
    for path, overrides in [
        (tmp_path / "a" / "{band}" / "?_{res}_{date}.tif", []),
        (tmp_path / "a" / "*" / "x_{any}_{date}.tif", ["bands={x: B02}"]),
        (tmp_path / "a", ["pattern='{band}/*_{res}_{date}.tif'"]),
    ]:
        if "*" in path.parts:
            assert "sensor" in refused(path, *overrides)
        else:
            assert stored(open_scene(path, overrides), S2) == list(range(1, 11))
    assert "say how the files are named" in refused(tmp_path / "a")
    write(tmp_path / "c" / "truth.tif")
    assert "not recognized: truth.tif" in refused(tmp_path / "c")
    assert "{dat}" in refused(tmp_path / "a" / "{dat}_{band}.tif")
    assert "no {date}" in refused(tmp_path / "a" / "{band}.tif")
    assert "no such file" in refused(tmp_path / "b")


def cube(path, bands, days=DAYS, pixel=10, attributes=None, dims=("timestamp", "y", "x"), filler=0):
    """A cube of uint16 bands with a time axis called ``timestamp``."""
    n = round(SIZE / pixel)
    centers = (np.arange(n) + 0.5) * pixel
    times = [np.datetime64(dt.datetime.strptime(day, "%Y%m%d"), "ns") for day in days]
    shape = {"timestamp": len(days), "y": n, "x": n}
    values = {
        band: (dims, np.full([shape[name] for name in dims], i, "uint16"), {"_FillValue": np.uint16(filler)})
        for i, band in enumerate(bands, start=1)
    }
    extra = {"sunZenith": (("timestamp",), np.ones(len(days), "float32"))}
    coords = {"timestamp": times, "y": TOP - centers, "x": LEFT + centers}
    data = xr.Dataset(values | extra, coords, {"crs": "+init=epsg:32631"} if attributes is None else attributes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_cubes_share_the_bands_of_a_sensor(tmp_path, suffix):
    cube(tmp_path / f"S2_10m{suffix}", ("B02", "B03", "B04", "B08"))
    cube(tmp_path / f"S2_20m{suffix}", (*S2.band_ids[4:], "SCL"), pixel=20)
    cube(tmp_path / f"L8{suffix}", (*LANDSAT.band_ids, "B10", "pixel_qa"), days=DAYS[:1])
    xr.Dataset({"LC": (("y", "x"), np.ones((2, 2)))}).to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    scene = open_scene(tmp_path)
    assert scene.sensors == (S2, LANDSAT)
    assert [len(layer.days) for layer in scene.layers] == [2, 1]
    assert stored(scene, S2) == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert stored(scene, LANDSAT) == [1, 2, 3, 4, 5, 6]
    assert [layer.frames[0].quality.rule for layer in scene.layers] == ["SCL", "pixel_qa"]
    assert tuple(scene.grid.affine)[:6] == (10, 0, LEFT, 0, -10, TOP)
    only = open_scene(tmp_path / f"S2*{suffix}")
    assert (only.sensors, only.grid) == ((S2,), scene.grid)
    assert open_scene(tmp_path / f"L8{suffix}").sensors == (LANDSAT,)
    text = refused(tmp_path / f"S2_10m{suffix}")
    assert "band B05" in text
    assert "none of the 2 dates" in text


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_a_cube_with_a_band_axis_from_south_to_north(tmp_path, engine):
    values = np.arange(6 * 4 * 4, dtype="float32").reshape(1, 6, 4, 4)
    values[0, :, 0, 0] = np.nan
    centers = np.arange(4) * 30 + 15.0
    coords = {"time": [np.datetime64("2018-02-07", "ns")], "band": list(LANDSAT.band_ids)}
    coords |= {"y": TOP + centers, "x": LEFT + centers}
    array = xr.DataArray(values, coords, ("time", "band", "y", "x"), name="reflectance")
    array.to_dataset().assign_attrs(epsg=32631).to_netcdf(tmp_path / "landsat.nc", engine=engine)
    scene = open_scene(tmp_path, ["scale=1"])
    assert tuple(scene.grid.affine)[:6] == (30, 0, LEFT, 0, -30, TOP + 120)
    frame = scene.layers[0].frames[0]
    read = frame.bands["B03"].read(scene.grid).filled(-1)
    assert np.array_equal(read[:3], values[0, 1, :0:-1])
    assert read[3].tolist() == [-1, *values[0, 1, 0, 1:]]


def test_nan_in_rasters_is_no_pixel(tmp_path):
    path = write(tmp_path / "s2_20180207.tif", names=S2.band_ids, dtype="float32")
    with rasterio.open(path, "r+") as file:
        file.write(np.full((10, 2, 3), np.nan, "float32"), window=((0, 2), (0, 3)))
    scene = open_scene(path)
    assert scene.layers[0].frames[0].bands["B02"].nodata is None
    clear = scene.read(Area(0, 0, 12, 12)).stacks["S2"].clear
    assert (~clear).sum() == 6


def test_a_cube_must_say_where_and_when_it_lies(tmp_path):
    path = cube(tmp_path / "a.nc", S2.band_ids, attributes={})
    assert "no CRS" in refused(path)
    path = cube(tmp_path / "b.nc", S2.band_ids)
    with xr.open_dataset(path, engine="h5netcdf") as file:
        moved = file.load().assign_coords(timestamp=[1, 2])
    moved.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    text = refused(tmp_path / "c.nc")
    assert "axis timestamp" in text
    assert "CF times" in text
    with xr.open_dataset(path, engine="h5netcdf") as file:
        uneven = file.load().assign_coords(x=np.linspace(0, 9, 12) ** 2)
    uneven.to_netcdf(tmp_path / "e.nc", engine="h5netcdf")
    assert "not evenly spaced" in refused(tmp_path / "e.nc")
    (tmp_path / "d.nc").write_bytes(b"\x89HDF\r\n\x1a\nbroken")
    assert "d.nc" in refused(tmp_path / "d.nc", kind=Unreadable)


def test_two_sensors_of_the_made_up_farmland(tmp_path):
    land = Landscape(rows=2, columns=2, size=48, frames=(("S2", 3), ("Landsat", 2)))
    root = write_scene(tmp_path / "farm", land, rows=range(1), columns=range(1))
    scene = open_scene(root)
    assert (scene.sensors, scene.name) == ((S2, LANDSAT), "farm")
    assert [len(layer.days) for layer in scene.layers] == [3, 2]
    assert scene.grid.shape == (48, 48)
    assert {frame.quality.rule for layer in scene.layers for frame in layer.frames} == {"SCL", "Fmask"}
    sample = land.sample(0, 0, (S2, LANDSAT))
    tile = cut_sample(scene.read(Area(0, 0, 48, 48)), Area(0, 0, 48, 48))
    assert np.array_equal(tile.images["S2"][0, :4], sample.images["S2"][0, :4])
    assert np.array_equal(tile.images["Landsat"][0], sample.images["Landsat"][0])


def test_a_missing_band_is_named_and_may_be_left_out(tmp_path):
    band_files(tmp_path, bands=(*S2.band_ids, "SCL"))
    (tmp_path / f"{DAYS[1]}_B11_10m.tif").unlink()
    text = refused(tmp_path)
    for part in ("band B11", "2018-02-07", f"{DAYS[1]}_B11_10m.tif", "--skip-unreadable"):
        assert part in text
    scene = open_scene(tmp_path, skip_unreadable=True)
    assert scene.layers[0].days == (dt.date(2018, 1, 5),)
    assert len(scene.skipped) == 1
    assert "2018-02-07: band B11" in scene.skipped[0]
    (tmp_path / f"{DAYS[0]}_SCL_10m.tif").unlink()
    assert "band SCL" in refused(tmp_path)
    text = refused(tmp_path, skip_unreadable=True)
    assert "no image is left" in text
    assert "band SCL" in text


def test_a_file_that_does_not_open_is_named_and_may_be_left_out(tmp_path):
    band_files(tmp_path, bands=(*S2.band_ids, "B01"))
    broken, unused = (tmp_path / f"{DAYS[0]}_{band}_10m.tif" for band in ("B04", "B01"))
    unused.write_bytes(b"no image")
    assert len(open_scene(tmp_path).layers[0].days) == 2
    broken.write_bytes(b"no image")
    assert str(broken) in refused(tmp_path, kind=Unreadable)
    scene = open_scene(tmp_path, skip_unreadable=True)
    assert scene.skipped == (str(broken),)
    assert scene.layers[0].days == (dt.date(2018, 2, 7),)


@pytest.mark.parametrize("form", ["{}_stack.tif", "stack_{}.tif"])
def test_a_file_with_all_bands_that_does_not_open(tmp_path, form):
    for date in DAYS:
        write(tmp_path / form.format(date), names=S2.band_ids)
    broken = tmp_path / form.format(DAYS[1])
    broken.write_bytes(b"no image")
    assert str(broken) in refused(tmp_path, kind=Unreadable)
    assert open_scene(tmp_path, skip_unreadable=True).skipped == (str(broken),)
    assert str(broken) in refused(broken, kind=Unreadable)


def test_files_without_a_place_are_refused(tmp_path):
    band_files(tmp_path)
    write(tmp_path / f"{DAYS[0]}_B02_10m.tif", crs=None)
    assert "no CRS" in refused(tmp_path, skip_unreadable=True)


def test_hdf4_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "MOD09A1.A2018038.h18v04.061.2018047030442.hdf").write_bytes(b"\x0e\x03\x13\x01")
    text = refused(tmp_path)
    assert "HDF4" in text
    assert "gdal_translate" in text
    band_files(tmp_path, LAYOUTS["MOD09A1"][0], (*MODIS.band_ids, STATE), DAYS[:1], 60)
    assert open_scene(tmp_path).sensors == (MODIS,)


def test_ambiguity_asks_for_the_sensor(tmp_path):
    bands = ("B02", "B03", "B04")
    text = refused(band_files(tmp_path / "x", bands=bands))
    assert "S2 or Landsat" in text
    assert "sensor: ..." in text
    assert "no known sensor" in refused(band_files(tmp_path / "z", bands=("VV", "VH")))
    assert "band B08" in refused(band_files(tmp_path / "S2", bands=bands))
    assert "band B05" in refused(tmp_path / "x", "sensor=Landsat")


def test_two_files_for_a_band_are_refused(tmp_path):
    band_files(band_files(tmp_path) / "again", bands=("B03",))
    text = refused(tmp_path)
    assert "two files for band B03" in text
    assert f"again/{DAYS[0]}_B03_10m.tif" in text
    band_files(tmp_path / "more", form="{date}_{band}_t2.tif")
    assert "two files" in refused(tmp_path)


def test_other_names_units_and_quality_layers_are_given(tmp_path):
    names = ["b1", *S2.band_ids[1:], "clouds", "mask"]
    band_files(tmp_path, bands=names)
    settings = ["bands={b1: B02}", "scale=0.5", "offset=-0.25", "nodata=7", "quality=clouds", "rule=mask"]
    scene = open_scene(tmp_path, settings)
    frame = scene.layers[0].frames[0]
    assert (frame.units.scale, frame.units.offset, frame.units.source) == (0.5, -0.25, "given by the user")
    assert frame.bands["B02"].nodata == 7
    assert (Path(frame.quality.raster.href).name, frame.quality.rule) == (f"{DAYS[0]}_clouds_10m.tif", "mask")
    assert open_scene(tmp_path, ["bands.b1=B02", "quality=false"]).layers[0].frames[0].quality is None
    assert "'rule'" not in refused(tmp_path, "bands={b1: B02}", "quality=cloud", "rule=mask")
    assert "has no rule" in refused(tmp_path, "bands={b1: B02}", "quality=clouds")
    assert "'B99' for S2" in refused(tmp_path, "bands={b1: B99}", "sensor=S2")
    write(tmp_path / f"{DAYS[0]}_SCL_10m.tif")
    assert "several quality layers" in refused(tmp_path, "bands={b1: B02}")


def test_scales_in_files_are_used_and_must_agree(tmp_path):
    for band in LANDSAT.band_ids:
        with rasterio.open(write(tmp_path / f"{DAYS[0]}_{band}.tif", pixel=30), "r+") as file:
            file.scales, file.offsets = (2.75e-5,), (-0.2,)
    assert open_scene(tmp_path, ["sensor=Landsat"]).layers[0].frames[0].units.offset == -0.2
    with rasterio.open(tmp_path / f"{DAYS[0]}_B02.tif", "r+") as file:
        file.offsets = (-0.1,)
    assert "several scales and offsets" in refused(tmp_path, "sensor=Landsat")
    scene = open_scene(tmp_path, ["sensor=Landsat", "scale=2.75e-5", "offset=-0.2"])
    assert scene.layers[0].frames[0].units.source == "given by the user"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sensr=S2", "did you mean 'sensor'"),
        ("resolutoin=10", "did you mean 'resolution'"),
        ("sensor=S3", "did you mean 'S2'"),
        ("rule=pixelqa", "did you mean 'pixel_qa'"),
        ("crs", "no '='"),
        ("crs=EPSG:1", "crs"),
        ("resolution=-1", "greater than 0"),
        ("bbox=[5, 44, 4, 43]", "west,south,east,north"),
        ("start=spring", "start"),
        ("path=elsewhere", "unknown key 'path'"),
        ("bands=[", "YAML"),
        ("aoi=nowhere.gpkg", "nowhere.gpkg"),
        ("start=2019-01-01", "no image is left from 2019-01-01"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, setting, message):
    assert message in refused(band_files(tmp_path), setting)


def test_a_period_an_area_and_a_pixel_size(tmp_path):
    band_files(tmp_path)
    scene = open_scene(tmp_path, ["start=2018-01-06", "end=2018-03-01", "resolution=50", f"crs={UTM[5:]}"])
    assert scene.layers[0].days == (dt.date(2018, 2, 7),)
    assert tuple(scene.grid.affine)[:6] == (50, 0, 500000, 0, -50, TOP)
    assert scene.grid.shape == (3, 4)
    area = geopandas.GeoDataFrame(geometry=[shapely.box(LEFT + 21, TOP - 500, LEFT + 39, TOP - 95)], crs=UTM)
    area.to_file(tmp_path / "aoi.gpkg")
    scene = open_scene(tmp_path, [f"aoi={tmp_path / 'aoi.gpkg'}"])
    assert (scene.grid.shape, (scene.grid.affine.c, scene.grid.affine.f)) == ((3, 2), (LEFT + 20, TOP - 90))
    west, south, east, north = area.to_crs(4326).total_bounds
    scene = open_scene(tmp_path, [f"bbox={west},{south},{east},{north}"])
    assert scene.grid.shape == (3, 2)
    text = refused(tmp_path, "bbox=10,50,11,51")
    assert "no overlap" in text
    assert "43.3" in text
    assert "either bbox or aoi" in refused(tmp_path, "bbox=10,50,11,51", "aoi=x.gpkg")


def test_frames_outside_the_area_are_left_out(tmp_path):
    band_files(tmp_path / "tiles", "{date}_{band}_west.tif")
    band_files(tmp_path / "tiles", "{date}_{band}_east.tif", corner=(LEFT + SIZE, TOP), bands=S2.band_ids)
    pattern = ["pattern='{date}_{band}_{tile}.tif'"]
    scene = open_scene(tmp_path / "tiles", pattern)
    assert (scene.grid.shape, len(scene.layers[0].frames)) == ((12, 24), 4)
    assert len(scene.layers[0].days) == 2
    area = scene.grid[2:6, 15:20].extent.to_crs("EPSG:4326").boundingbox
    cut = open_scene(tmp_path / "tiles", [*pattern, f"bbox={','.join(map(str, area))}"])
    assert len(cut.layers[0].frames) == 2
    assert all("east" in frame.bands["B02"].href for frame in cut.layers[0].frames)


def test_several_crss_need_one_that_is_asked_for(tmp_path):
    band_files(tmp_path, days=DAYS[:1])
    zone = rasterio.warp.transform(UTM, "EPSG:32632", [LEFT], [TOP])
    band_files(tmp_path, days=DAYS[1:], crs="EPSG:32632", corner=(zone[0][0], zone[1][0]))
    text = refused(tmp_path)
    assert "EPSG:32631 (1 of S2)" in text
    assert "EPSG:32632 (1 of S2)" in text
    assert "--set crs=EPSG:" in text
    scene = open_scene(tmp_path, [f"crs={UTM}"])
    assert str(scene.grid.crs) == UTM
    assert (scene.grid.affine.c - LEFT) % 10 == 0
    other = open_scene(tmp_path, ["crs=EPSG:2154"])
    assert (str(other.grid.crs), other.resolution) == ("EPSG:2154", 10)
    assert other.grid.affine.c % 10 == other.grid.affine.f % 10 == 0
    far = band_files(tmp_path / "far", "{date}_{band}.tif", crs="EPSG:4326", meters=0.01, corner=(93, 1), size=0.1)
    text = refused(far, "crs=32631")
    assert "has no place" in text


def test_degrees_need_a_crs_that_is_asked_for(tmp_path):
    for date in DAYS:
        write(tmp_path / f"s_{date}.tif", names=S2.band_ids, crs="EPSG:4326", corner=(3, 43), pixel=1e-4, size=2e-3)
    text = refused(tmp_path)
    assert "degrees" in text
    assert "--set crs=EPSG:32631" in text
    scene = open_scene(tmp_path, ["crs=EPSG:32631", "resolution=10"])
    assert str(scene.grid.crs) == "EPSG:32631"
    assert stored(scene, S2) == list(range(1, 11))
    plain = open_scene(tmp_path, ["crs=EPSG:4326"])
    assert plain.grid.shape == (20, 20)
    assert 9 < plain.resolution < 10
    assert plain.factor(S2) == 1


def described(root, **more):
    values = {"sources": [{"path": "a", "sensor": "S2"}, {"path": "b/{date}_{band}_{res}.tif"}], **more}
    path = root / "scene.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_description_of_two_sources(tmp_path, monkeypatch):
    band_files(tmp_path / "a")
    band_files(tmp_path / "b", bands=(*LANDSAT.band_ids, "pixel_qa"), meters=30)
    path = described(tmp_path, start="2018-01-06", resolution=20)
    monkeypatch.chdir(tmp_path)
    scene = open_scene(Path("scene.yaml"))
    monkeypatch.chdir(tmp_path.parent)
    assert (scene.sensors, scene.name, scene.resolution) == ((S2, LANDSAT), "scene", 20)
    assert stored(scene, LANDSAT) == [1, 2, 3, 4, 5, 6]
    assert len(open_scene(path, ["start=2018-01-01"]).layers[1].days) == 2
    assert "2 sources" in refused(path, "sensor=S2")
    path.write_text(path.read_text().replace("sensor", "sensors"))
    assert "did you mean 'sensor'" in refused(path)
    assert "did you mean 'resolution'" in refused(described(tmp_path, resolutions=5))
    path.write_text("[1, 2]")
    assert "sources" in refused(path)
    assert "nothing.yaml" in refused(tmp_path / "nothing.yaml")


def item(day, folder):
    """A STAC item of Sentinel-2 whose files lie in a folder beside the list."""
    return {
        "type": "Feature",
        "id": f"item-{day}",
        "collection": "sentinel-2-l2a",
        "properties": {"datetime": f"{day}T10:50:31Z", "s2:processing_baseline": "02.06"},
        "assets": {band: {"href": f"./{folder}/{band}.tif"} for band in S2.band_ids},
    }


def test_an_item_list_on_the_area_of_its_search(tmp_path):
    items = [item("2018-01-05", "one"), item("2018-02-07", "two"), item("2018-03-01", "three")]
    for folder in ("one", "two"):
        band_files(tmp_path / folder, "{band}.tif", days=DAYS[:1])
    del items[1]["assets"]["B07"]
    path, area = tmp_path / "items.json", shapely.box(LEFT + 5, TOP - 45, LEFT + 55, TOP - 5)
    search = {"bbox": list(geopandas.GeoSeries([area], crs=UTM).to_crs(4326).total_bounds), "start": "2018-01-01"}
    write_json(path, {"type": "FeatureCollection", "features": items, "agrifm": search})
    assert "no asset for band B07" in refused(path)
    scene = open_scene(path, skip_unreadable=True)
    assert (scene.grid.shape, len(scene.layers[0].frames), len(scene.skipped)) == ((5, 6), 1, 2)
    assert "B07" in scene.skipped[0]
    assert Path(scene.skipped[1]).parent == tmp_path / "three"
    items[1:] = []
    write_json(path, {"type": "FeatureCollection", "features": items, "agrifm": search})
    assert open_scene(path).skipped == ()
    other = open_scene(path, ["offset=-0.1", "bbox=2,43,4,44", "resolution=20"])
    assert other.grid.shape == (6, 6)
    assert other.layers[0].frames[0].units.offset == -0.1
    assert "only scale and offset" in refused(path, "sensor=S2")
    assert "no image is left" in refused(path, "start=2018-02-01")
    assert "no items" in refused(write_json(tmp_path / "other.json", {"type": "FeatureCollection"}))


def write_json(path, values):
    path.write_text(json.dumps(values))
    return path


def test_sources_that_do_not_overlap_are_refused(tmp_path):
    band_files(tmp_path / "a")
    band_files(tmp_path / "b", bands=(*LANDSAT.band_ids, "pixel_qa"), meters=30, corner=(LEFT + 9000, TOP))
    text = refused(described(tmp_path))
    assert "no overlap" in text
    assert "Landsat" in text
    assert f"{LEFT:.0f}" in text
    assert f"{LEFT + 9000:.0f}" in text


@pytest.mark.skipif(not FRANCE.is_dir(), reason=f"the real scene is not on this machine ({FRANCE.parent.name})")
def test_real_jpeg_2000_files():
    scene = open_scene(FRANCE)
    assert scene.grid.shape == (353, 232)
    assert (str(scene.grid.crs), (scene.grid.affine.c, scene.grid.affine.f)) == ("EPSG:32631", (523560, 4832780))
    assert len(scene.layers[0].days) == 10
    images = scene.read(Area(100, 100, 8, 8)).stacks["S2"].images
    assert images.any(axis=(1, 2, 3)).sum() == 9


@pytest.mark.skipif(not FLANDERS.is_dir(), reason=f"the real cubes are not on this machine ({FLANDERS.name})")
def test_real_cubes():
    scene = open_scene(FLANDERS)
    assert (scene.sensors, scene.grid.shape) == ((S2, LANDSAT), (64, 64))
    assert [len(layer.frames) for layer in scene.layers] == [118, 26]
    assert {frame.units.scale for layer in scene.layers for frame in layer.frames} == {1e-4}
    assert [layer.frames[0].quality.rule for layer in scene.layers] == ["SCL", "pixel_qa"]
    stack = scene.only(("Landsat",)).read(Area(0, 0, 64, 64)).stacks["Landsat"]
    assert 0.05 < stack.clear.mean() < 0.95
