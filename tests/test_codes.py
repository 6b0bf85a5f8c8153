"""Label rasters and land cover as others write them: sidecars, wide and odd numbers, mosaics, the 180th meridian."""

import json

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from drawn_parcels import GRID, LEFT, SIDE, TOP, UTM, frame_of, save, write_tif
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from agrifm.chips.labels import read_labels
from agrifm.chips.rasterize import hectares
from agrifm.errors import InputError
from agrifm.pretraining.crosswalk import UNKNOWN, Crosswalk
from agrifm.pretraining.landcover import LandCover

VALUES = np.random.default_rng(1).integers(1, 4, (SIDE, SIDE)).astype(np.uint8)
WORLDCOVER = Crosswalk.read("worldcover")


def classes_of(path):
    return [entry.name for entry in read_labels(path, GRID).classes]


# Sidecars and kinds of numbers


def test_no_data_beside_a_label_raster_is_no_class(tmp_path):
    values = VALUES.copy()
    values[:30] = 9
    path = write_tif(tmp_path / "a.tif", values)
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    labels = read_labels(path, GRID)
    assert [entry.name for entry in labels.classes] == ["1", "2", "3"]
    assert np.array_equal(labels.label, np.where(values == 9, -1, values.astype(int) - 1))


def test_a_mask_beside_a_label_raster_is_no_class(tmp_path):
    path = write_tif(tmp_path / "a.tif", VALUES)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.arange(SIDE)[:, None].repeat(SIDE, 1) >= 30)
    assert (tmp_path / "a.tif.msk").is_file()
    labels = read_labels(path, GRID)
    assert (labels.label[:30] == -1).all()
    assert np.array_equal(labels.label[30:], VALUES[30:].astype(int) - 1)


def test_transparent_pixels_are_no_class(tmp_path):
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 2, "dtype": "uint8", "crs": UTM}
    with rasterio.open(tmp_path / "a.tif", "w", transform=GRID.affine, ALPHA="YES", **profile) as file:
        file.write(VALUES, 1)
        file.write(np.where(np.arange(SIDE)[:, None] < 30, 0, np.full_like(VALUES, 255)), 2)
        file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    labels = read_labels(tmp_path / "a.tif", GRID)
    assert (labels.label[:30] == -1).all()
    assert np.array_equal(labels.label[30:], VALUES[30:].astype(int) - 1)


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("int16", [-7, -1, 300]),
        ("uint32", [0, 65_536, 4_294_967_295]),
        ("int64", [-(2**40), 5, 2**40]),
        ("uint64", [0, 1, 2**40]),
        ("float32", [-3, 0, 16_777_216]),
        ("float64", [-(2**40), 0, 2**40]),
    ],
)
def test_codes_of_any_kind_keep_their_numbers(tmp_path, kind, codes):
    path = write_tif(tmp_path / "a.tif", np.array(codes, kind)[VALUES - 1])
    labels = read_labels(path, GRID)
    assert [entry.name for entry in labels.classes] == [str(code) for code in codes]
    assert np.array_equal(labels.label, VALUES.astype(int) - 1)


def test_numbers_that_are_no_codes_are_refused(tmp_path):
    with pytest.raises(InputError, match="fractions"):
        classes_of(write_tif(tmp_path / "a.tif", VALUES / 2))
    with pytest.raises(InputError, match=r"beyond 2\^53"):
        classes_of(write_tif(tmp_path / "b.tif", VALUES * 1e300))


def test_areas_are_in_hectares_whatever_the_unit():
    feet = GeoBox((10, 10), Affine(32.8084, 0, 0, 0, -32.8084, 0), "EPSG:2263")  # US survey feet: 10 m
    assert hectares(100, feet) == pytest.approx(1, rel=1e-4)
    assert hectares(100, GRID) == 1


# Mosaics

MOSAIC = (
    '<VRTDataset rasterXSize="100" rasterYSize="100"><SRS>EPSG:32631</SRS>'
    f"<GeoTransform>{LEFT},10,0,{TOP},0,-10</GeoTransform>"
    '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename>'
    "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
)


def test_mosaics_of_local_files_are_read(tmp_path):
    write_tif(tmp_path / "a.tif", VALUES)
    (tmp_path / "a.vrt").write_text(MOSAIC.format("a.tif"))
    (tmp_path / "b.vrt").write_text(MOSAIC.format("a.vrt"))
    assert classes_of(tmp_path / "b.vrt") == ["1", "2", "3"]


@pytest.mark.parametrize("source", ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "WMS:127.0.0.1"])
def test_mosaics_of_files_elsewhere_are_refused(tmp_path, source):
    (tmp_path / "a.vrt").write_text(MOSAIC.format(source))
    (tmp_path / "b.vrt").write_text(MOSAIC.format("a.vrt"))
    with pytest.raises(InputError, match="files elsewhere"):
        classes_of(tmp_path / "b.vrt")
    with pytest.raises(InputError, match="files elsewhere"), LandCover.open(str(tmp_path / "b.vrt"), WORLDCOVER):
        pass


def test_mosaics_of_themselves_end(tmp_path):
    (tmp_path / "a.vrt").write_text(MOSAIC.format("a.vrt"))
    with pytest.raises(InputError, match="mosaics in mosaics"):
        classes_of(tmp_path / "a.vrt")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xml", "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>"),
        ("a.json", json.dumps({"type": "Feature", "stac_version": "1.0.0", "assets": {"a": {"href": "http://x/"}}})),
    ],
)
def test_services_are_no_label_rasters(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        classes_of(tmp_path / name)


# The 180th meridian


@pytest.fixture(scope="module")
def fiji():
    """A grid that the 180th meridian crosses."""
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32760", always_xy=True).transform(180, -17)
    return GeoBox((96, 96), Affine(10, 0, round(x) - 480, 0, -10, round(y) + 480), "EPSG:32760")


def world(path, left, right, halves, step=0.001):
    """Land cover in degrees along 17 degrees south: one code to the west of 180, another to the east."""
    width = round((right - left) / step)
    longitudes = (left + step * (np.arange(width) + 0.5)) % 360
    codes = np.where(longitudes < 180, halves[0], halves[1]).astype(np.uint8)[None].repeat(40, 0)
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": width, "dtype": "uint8", "compress": "deflate"}
    transform = Affine(step, 0, left, 0, -step, -16.98)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as file:
        file.write(codes, 1)
    return str(path)


@pytest.mark.parametrize(("left", "right"), [(-180, 180), (179, 181), (-181, -179), (0, 360)])
def test_land_cover_across_the_180th_meridian(fiji, tmp_path, left, right):
    path = world(tmp_path / "a.tif", left, right, (40, 80))
    with LandCover.open(path, WORLDCOVER) as ground:
        ground.check(fiji, "fiji")
        shares = ground.shares(fiji, 4)
    west, east = WORLDCOVER.covers[40], WORLDCOVER.covers[80]
    assert shares[UNKNOWN].max() == 0
    np.testing.assert_allclose(shares[west] + shares[east], 1)
    # The meridian runs through the middle of the grid.
    assert shares[west, :, 0].min() == 1
    assert shares[east, :, 3].min() == 1
    assert shares[west].mean() == pytest.approx(0.5, abs=0.02)


def test_codes_across_the_180th_meridian_must_be_listed(fiji, tmp_path):
    path = world(tmp_path / "a.tif", -180, 180, (40, 7))
    with (
        LandCover.open(path, WORLDCOVER) as ground,
        pytest.raises(InputError, match="code 7"),
    ):
        ground.check(fiji, "fiji")


def test_label_rasters_across_the_180th_meridian(fiji, tmp_path):
    labels = read_labels(path := tmp_path / world(tmp_path / "a.tif", -180, 180, (1, 2)), fiji)
    assert (labels.label[:, 0] == 0).all()
    assert (labels.label[:, -1] == 1).all()
    for left, right in ((179, 181), (-181, -179)):
        path = world(tmp_path / "b.tif", left, right, (1, 2))
        with pytest.raises(InputError, match=r"(?s)180th meridian.*gdalwarp.*lon_wrap"):
            read_labels(tmp_path / path, fiji)


def test_a_cell_around_the_pole_is_unknown(tmp_path):
    grid = GeoBox((12, 12), Affine(10, 0, -60, 0, -10, 60), "EPSG:3413")
    path = tmp_path / "a.tif"
    transform = Affine(1, 0, -180, 0, -1, 90)
    profile = {"driver": "GTiff", "count": 1, "height": 180, "width": 360, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as file:
        file.write(np.full((180, 360), 70, np.uint8), 1)
    with LandCover.open(str(path), WORLDCOVER) as ground:
        ground.check(grid, "arctic")
        shares = ground.shares(grid, 3)
    assert shares[UNKNOWN, 1, 1] == 1
    assert shares[UNKNOWN].sum() == 1


def test_parcels_are_measured_in_hectares_on_any_grid(tmp_path):
    feet = GeoBox((100, 100), Affine(32.8084, 0, 980_000, 0, -32.8084, 200_000), "EPSG:2263")
    box = shapely.box(980_000, 196_719.16, 983_280.84, 200_000)  # all of the grid: 100 ha
    frame = frame_of(a=[box], b=[shapely.box(0, 0, 1, 1)]).set_crs("EPSG:2263", allow_override=True)
    frame.loc[2] = [None, box]
    frame.loc[3] = ["b", shapely.box(980_000, 199_900, 980_100, 200_000)]
    labels = read_labels(save(frame, tmp_path / "a.gpkg", "EPSG:2263"), feet)
    assert labels.account.empty.hectares == pytest.approx(100, rel=1e-3)
