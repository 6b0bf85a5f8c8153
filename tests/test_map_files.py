"""Files of a map: valid, reproducible to the byte, with colors, class names and a STAC item that describes them."""

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pystac
import pytest
import rasterio
from made_maps import COLORS, EXTRAS, LABELS, LEGEND, NAMES, SEASON, a_map, contents, cut, grid_of, random_classes
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from agrifm.data.chips import Georeference
from agrifm.errors import InputError
from agrifm.maps.files.cog import MapProduct, class_map, write_cog
from agrifm.maps.files.legend import MOST_CLASSES, picture
from agrifm.maps.files.stac_item import classes as class_entries
from agrifm.maps.files.stac_item import footprint
from agrifm.maps.files.writer import NODATA, Legend, map_files, write_bands, write_classes
from agrifm.tasks.segmentation import CropClass, Segmentation


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("map") / "crops.tif"
    return target, *a_map(target)


SIZES = [(1, 1), (40, 90), (512, 512), (513, 200), (513, 513), (1100, 1300)]


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_valid_cogs_of_any_size(tmp_path, size):
    path, pixels = tmp_path / "map.tif", random_classes(*size)
    write_cog(path, grid_of(*size), class_map(LEGEND), cut(pixels, 500, 300))
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), pixels)
        assert (file.dtypes, file.nodata, file.crs.to_epsg()) == (("uint8",), NODATA, 32631)
        assert bool(file.overviews(1)) == (max(size) > 256)


def test_bytes_do_not_depend_on_the_pieces(tmp_path):
    pixels, found = np.stack([random_classes(1100, 700, seed) for seed in range(2)]), set()
    product = MapProduct("confidence", ("a", "b"), "", scale=0.01)
    pieces = [cut(pixels, *size) for size in ((1100, 700), (512, 512), (130, 333), (97, 64))]
    pieces.append(pieces[2][::-1])
    pieces.append([pieces[3][i] for i in np.random.default_rng(0).permutation(len(pieces[3]))])
    for i, parts in enumerate(pieces):
        write_cog(tmp_path / f"{i}.tif", grid_of(1100, 700), product, parts)
        found.add((tmp_path / f"{i}.tif").read_bytes())
    assert len(found) == 1


def test_what_no_piece_covers_is_no_data(tmp_path):
    write_cog(tmp_path / "map.tif", grid_of(300, 300), class_map(LEGEND), [(100, 50, np.zeros((20, 30), np.uint8))])
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.read(1) == 0).sum() == 600
        assert (file.read_masks(1) > 0).sum() == 600
        assert (file.read(1)[100:120, 50:80] == 0).all()


def test_overviews_hold_the_most_frequent_class_and_never_a_mean(tmp_path):
    # Of every 2 x 2 pixels three are class 1 and one is class 5; in one corner three of four have no data.
    pixels = np.ones((1100, 1100), np.uint8)
    pixels[::2, ::2] = 5
    pixels[:512, :512][np.add.outer(np.arange(512) % 2, np.arange(512) % 2) > 0] = NODATA
    write_cog(tmp_path / "map.tif", grid_of(1100, 1100), class_map(LEGEND), cut(pixels, 512, 512))
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as file:
        small = file.read(1)
    assert set(np.unique(small)) == {1, 5}
    assert (small[:256, :256] == 5).all()
    assert (small[260:, 260:] == 1).all()


def test_overviews_of_shares_are_means_of_what_has_data(tmp_path):
    pixels = np.full((600, 600), 40, np.uint8)
    pixels[::2], pixels[1::2, ::2] = 80, NODATA
    product = MapProduct("confidence", ("confidence",), "", scale=0.01)
    write_cog(tmp_path / "map.tif", grid_of(600, 600), product, [(0, 0, pixels)])
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) == {67}  # (80 + 80 + 40) / 3


def test_colors_and_names_come_back(made):
    with rasterio.open(made[0]) as file:
        colors, tags = file.colormap(1), file.tags(1)
        assert file.descriptions == ("class",)
    assert {key: tags[key] for key in tags if key.startswith("class_")} == {
        f"class_{i}": t for i, t in enumerate(LABELS)
    }
    for i, color in enumerate(COLORS):
        assert "#{:02x}{:02x}{:02x}".format(*colors[i][:3]) == color.lower()
        assert colors[i][3] == 255
    assert colors[NODATA][3] == 0


def command_line(path):
    if shutil.which("gdalinfo") is None:
        pytest.skip("the GDAL command line is not installed")
    return subprocess.run(["gdalinfo", "-json", path], capture_output=True, check=True).stdout


def library(path):
    """The same function of the library that comes with rasterio, if it has one."""
    found = list(Path(rasterio.__file__).parents[1].glob("rasterio.libs/libgdal*"))
    if not found:
        pytest.skip("rasterio was not installed from a Linux wheel")
    gdal = ctypes.CDLL(str(found[0]))
    gdal.GDALOpen.restype = gdal.GDALInfoOptionsNew.restype = ctypes.c_void_p
    gdal.GDALClose.argtypes, gdal.GDALInfo.argtypes = [ctypes.c_void_p], [ctypes.c_void_p] * 2
    gdal.GDALInfo.restype = ctypes.c_char_p
    gdal.GDALAllRegister()
    dataset = gdal.GDALOpen(str(path).encode(), 0)
    told = gdal.GDALInfo(dataset, gdal.GDALInfoOptionsNew((ctypes.c_char_p * 2)(b"-json", None), None))
    gdal.GDALClose(dataset)
    return told


@pytest.mark.parametrize("gdalinfo", [command_line, library])
def test_gdalinfo_shows_colors_names_and_table(made, gdalinfo):
    told = json.loads(gdalinfo(made[0]))
    band = told["bands"][0]
    assert (band["colorInterpretation"], band["noDataValue"]) == ("Palette", NODATA)
    assert [entry[:3] for entry in band["colorTable"]["entries"][1:3]] == [[227, 178, 60], [17, 119, 51]]
    assert tuple(band["metadata"][""][f"class_{i}"] for i in range(len(LABELS))) == LABELS
    assert tuple(band["categories"]) == LABELS
    assert [field["name"] for field in told["rat"]["fieldDefn"]] == ["Value", "Class", "Red", "Green", "Blue"]
    assert told["rat"]["row"][1]["f"] == [1, LABELS[1], 227, 178, 60]


def test_the_attribute_table_lists_numbers_names_and_colors(made):
    band = ElementTree.parse(f"{made[0]}.aux.xml").getroot().find("PAMRasterBand")
    assert tuple(entry.text for entry in band.iter("Category")) == LABELS
    rows = [tuple(cell.text for cell in row) for row in band.iter("Row")]
    assert rows[1] == ("1", LABELS[1], "227", "178", "60")
    assert [row[1] for row in rows] == list(LABELS)
    assert [entry.findtext("Usage") for entry in band.iter("FieldDefn")] == ["5", "2", "6", "7", "8"]


def test_qgis_style_lists_the_classes(made):
    root = ElementTree.parse(made[0].with_suffix(".qml")).getroot()
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [(int(e.get("value")), e.get("label"), e.get("color")) for e in renderer.iter("paletteEntry")]
    assert entries == [(i, LABELS[i], COLORS[i].lower()) for i in range(len(LABELS))]


def test_qgis_layers_open_the_map_and_its_confidence(made):
    path = made[0].with_suffix(".qlr")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE qgis-layer-definition>\n<qlr>")
    root = ElementTree.parse(path).getroot()
    group = root.find("layer-tree-group/layer-tree-group")
    assert group.get("name") == made[0].stem
    tree = {layer.get("id"): layer for layer in group.iter("layer-tree-layer")}
    shown = {layer.get("name"): layer.get("checked") == "Qt::Checked" for layer in tree.values()}
    assert shown == {"classes": True, "confidence": False, "entropy": False}
    layers = {layer.findtext("id"): layer for layer in root.iter("maplayer")}
    assert layers.keys() == tree.keys()
    for key, layer in layers.items():
        source = layer.findtext("datasource")
        assert source == tree[key].get("source")
        assert source.startswith("./")
        with rasterio.open(path.parent / source) as file:
            assert rasterio.CRS.from_wkt(layer.findtext("srs/spatialrefsys/wkt")) == file.crs
    classes, confidence, _ = layers.values()
    style = ElementTree.parse(made[0].with_suffix(".qml")).getroot()
    entries = [entry.attrib for entry in style.iter("paletteEntry")]
    assert [entry.attrib for entry in classes.iter("paletteEntry")] == entries
    assert confidence.find("pipe/rasterrenderer").get("type") == "singlebandpseudocolor"
    assert [float(item.get("value")) for item in confidence.iter("item")] == [0, 0.25, 0.5, 0.75, 1]


def test_legends_are_read_back(made):
    assert Legend.read(made[0]) == Legend(LABELS, tuple(color.lower() for color in COLORS))


def test_254_classes_fit_and_255_are_refused(tmp_path):
    names = tuple(f"class {i}" for i in range(MOST_CLASSES + 1))
    colors = tuple(f"#{i:02x}{255 - i:02x}80" for i in range(MOST_CLASSES + 1))
    legend = Legend(names[:-1], colors[:-1])
    pixels = np.arange(254, dtype=np.uint8).reshape(2, 127)
    write_cog(tmp_path / "map.tif", grid_of(2, 127), class_map(legend), [(0, 0, pixels)])
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), pixels)
        assert file.colormap(1)[253][:3] == (253, 2, 128)
        assert file.tags(1)["class_253"] == "class 253"
    with pytest.raises(InputError, match="255 classes") as caught:
        Legend(names, colors)
    assert "at most 254" in caught.value.expected


def test_a_legend_is_that_of_the_task():
    task = Segmentation((CropClass("maize", "#aabbcc"), CropClass("other")))
    assert Legend.of(task) == Legend(("maize", "other"), task.colors)


def test_extras_tell_their_scale_and_bands(made):
    target, files, arrays = made
    assert files[0] == target
    assert set(files) <= set(map_files(target))
    assert all(path.is_file() for path in files)
    bands = {"probabilities": LABELS, "confidence": ("confidence",), "entropy": ("entropy",)}
    for key, names in bands.items():
        with rasterio.open(target.with_name(f"crops_{key}.tif")) as file:
            np.testing.assert_array_equal(file.read(), arrays[key])
            assert file.descriptions == names
            assert set(file.scales) == {0.01}
            assert file.nodata == NODATA
    with rasterio.open(target.with_name("crops_observations.tif")) as file:
        np.testing.assert_array_equal(file.read(), arrays["observations"])
        assert (file.nodata, file.descriptions, file.scales) == (None, ("S2", "Landsat"), (1.0, 1.0))
        assert (file.read_masks() == 255).all()


def test_the_item_says_what_the_numbers_mean(made):
    target = made[0]
    item = pystac.Item.from_dict(json.loads(target.with_suffix(".json").read_text(encoding="utf-8")))
    assert item.id == "crops"
    assert (item.common_metadata.start_datetime.date(), item.common_metadata.end_datetime.date()) == SEASON
    assert set(item.assets) == {"classes", *EXTRAS, "style", "attribute_table"}
    assert all((target.parent / asset.href).is_file() for asset in item.assets.values())
    with rasterio.open(target) as file:
        assert item.properties["proj:code"] == "EPSG:32631"
        assert item.properties["proj:shape"] == list(file.shape)
        assert item.properties["proj:transform"] == list(file.transform)[:6]
        assert item.properties["proj:bbox"] == list(file.bounds)
        np.testing.assert_allclose(
            item.bbox, rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds), atol=1e-5
        )
    entries = item.assets["classes"].extra_fields["classification:classes"]
    assert [(e["value"], e["title"]) for e in entries] == [*enumerate(LABELS), (NODATA, "no data")]
    assert entries[1]["color_hint"] == "E3B23C"
    assert entries[-1]["nodata"] is True
    probabilities = item.assets["probabilities"].extra_fields
    assert (probabilities["raster:scale"], probabilities["nodata"]) == (0.01, NODATA)
    assert [band["name"] for band in probabilities["bands"]] == list(LABELS)
    assert "nodata" not in item.assets["observations"].extra_fields


def test_more_properties_go_into_the_item(tmp_path):
    a_map(tmp_path / "m.tif", extras=(), properties={"agrifm:model": "abc", "title": "[a\n b]"})
    properties = json.loads((tmp_path / "m.json").read_text())["properties"]
    assert (properties["agrifm:model"], properties["title"]) == ("abc", "[a\n b]")


def test_short_names_are_unique_and_plain():
    legend = Legend(("a_2", "a", "ä", "日本", "nodata", "wheat & <rye>"), ("#000000",) * 6)
    names = [entry["name"] for entry in class_entries(legend)]
    assert len(set(names)) == len(names)
    assert all(name and set(name) <= set("abcdefghijklmnopqrstuvwxyz_0123456789") for name in names)
    assert (names[0], names[1], names[5], names[6]) == ("a_2", "a", "wheat_rye", "nodata")


@pytest.mark.parametrize(
    ("grid", "kind", "bounds"),
    [
        (grid_of(100, 100, "EPSG:4326", (10, 50), 0.1), "Polygon", [10, 40, 20, 50]),
        (grid_of(180, 360, "EPSG:4326", (-180, 90), 1), "Polygon", [-180, -90, 180, 90]),
        (grid_of(100, 200, "EPSG:4326", (170, 50), 0.1), "MultiPolygon", [170, 40, -170, 50]),
        (grid_of(100, 200, "EPSG:4326", (-190, 50), 0.1), "MultiPolygon", [170, 40, -170, 50]),
        (
            grid_of(1000, 3000, "EPSG:32660", (600_000, 5_600_000), 100),
            "MultiPolygon",
            [178.386, 49.52, -177.37, 50.54],
        ),
    ],
)
def test_footprints_are_right_across_the_antimeridian(grid, kind, bounds):
    geometry, bbox = footprint(grid)
    assert geometry["type"] == kind
    np.testing.assert_allclose(bbox, bounds, atol=0.03)
    polygons = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
    for (ring,) in polygons:
        x, y = np.array(ring).T
        assert ring[0] == ring[-1]
        assert (np.diff(x) * (y[1:] + y[:-1])).sum() < 0  # counterclockwise
        assert np.abs(x).max() <= 180
        assert np.abs(y).max() <= 90


def test_a_grid_without_a_code_is_told_as_text(tmp_path):
    a_map(tmp_path / "m.tif", extras=(), grid=grid_of(300, 260, "+proj=laea +lat_0=50 +lon_0=9 +R=6371000", (0, 0)))
    properties = json.loads((tmp_path / "m.json").read_text())["properties"]
    assert properties["proj:code"] is None
    assert "Lambert" in properties["proj:wkt2"]


def test_an_unknown_extra_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'confidence'"):
        a_map(tmp_path / "m.tif", extras=("confidenec",))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_maps_of_chips_are_cogs_with_names(tmp_path):
    place = Georeference("EPSG:32631", (10.0, 0.0, 480_000.0, 0.0, -10.0, 5_530_000.0))
    pixels, path = random_classes(48, 48), tmp_path / "chip.tif"
    write_classes(path, pixels, NAMES, COLORS, place)
    shares = np.random.default_rng(0).random((6, 48, 48)).astype(np.float32)
    write_bands(tmp_path / "chip_p.tif", shares, NAMES, place)
    assert set(contents(tmp_path)) == {"chip.tif", "chip.tif.aux.xml", "chip_p.tif"}
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), pixels)
        assert file.tags(1)["class_2"] == "Zuckerrübe"
    with rasterio.open(tmp_path / "chip_p.tif") as file:
        np.testing.assert_array_equal(file.read(), shares)
        assert file.descriptions == LABELS
    assert cog_validate(path, strict=True, quiet=True)[0]


@pytest.mark.parametrize("size", [(300, 260), (1100, 90), (30, 1100)])
def test_a_picture_shows_map_legend_and_scale(tmp_path, size):
    names = ("_hidden", "a $b$ \\frac", NAMES[2], "50 %", "a" * 200, "other")
    pixels = random_classes(*size)
    write_cog(tmp_path / "m.tif", grid_of(*size), class_map(Legend(names, COLORS)), [(0, 0, pixels)])
    picture(tmp_path / "m.tif", tmp_path / "m.png", title="50 % of $x", width=800)
    assert sorted(contents(tmp_path)) == ["m.png", "m.tif"]
    image = np.array(Image.open(tmp_path / "m.png").convert("RGB"))
    assert image.shape[1] == 800
    found = {tuple(color) for color in np.unique(image.reshape(-1, 3), axis=0).tolist()}
    expected = {tuple(bytes.fromhex(color[1:])) for color in COLORS}
    assert expected | {(255, 255, 255)} <= found
    assert ((image == 0).all(-1).sum(1) > 60).any()  # the scale bar
