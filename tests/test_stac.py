"""STAC: search, item lists and reading, against catalogues on loopback that fail on request."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from loopback import BUSY, CUT, MISSING, Fault, Loopback
from rasterio.transform import from_origin
from rich.console import Console
from typer.testing import CliRunner

from agrifm.cli import app
from agrifm.errors import InputError, Unreadable
from agrifm.network import http as fetch
from agrifm.network import tokens
from agrifm.network.tokens import Tokens, signed
from agrifm.opening import open_scene
from agrifm.rasters import file_band as raster
from agrifm.scenes.scene import Area, Scene
from agrifm.sensors import S2
from agrifm.stac import search as stac
from agrifm.stac.hrefs import resolve
from agrifm.stac.items import frames_of, save
from agrifm.stac.providers import GENERIC, MissingBand, provider_at

BOX = (2.9, 43.3, 3.1, 43.4)
SEASON = {"start": "2018-03-01", "end": "2018-06-30"}
CORNER = (500_000, 4_800_000)
SIZE = 64
HERE = [2.999, 43.34, 3.01, 43.36]
AWAY = [10.0, 50.0, 10.1, 50.1]


def item(name, day, collection="sentinel-2-l2a", bbox=HERE, assets=None, links=(), **properties):
    """An item as plain values; assets are ``B02.tif`` and so on beside it."""
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    assets = assets if assets is not None else {key: {"href": f"./{key}.tif"} for key in (*S2.band_ids, "SCL")}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": bbox,
        "properties": {"datetime": f"{day}T10:50:31Z", **properties},
        "assets": assets,
        "links": [*links],
    }


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_pixels(folder, seed):
    """One COG for each band, noise of which every value tells its place, and a mask with a clouded corner."""
    generator = np.random.default_rng(seed)
    profile = {"driver": "COG", "height": SIZE, "width": SIZE, "count": 1, "crs": "EPSG:32631", "blocksize": 128}
    profile["transform"] = from_origin(*CORNER, 10, 10)
    for band in S2.band_ids:
        with rasterio.open(folder / f"{band}.tif", "w", dtype="uint16", nodata=0, **profile) as file:
            file.write(generator.integers(100, 4000, (SIZE, SIZE)).astype(np.uint16), 1)
    classes = np.full((SIZE, SIZE), 4, np.uint8)
    classes[:16] = 9
    with rasterio.open(folder / "SCL.tif", "w", dtype="uint8", **profile) as file:
        file.write(classes, 1)


def group(kind, name, *below, **more):
    links = [{"rel": rel, "href": href} for rel, href in below]
    return {"type": kind, "id": name, "stac_version": "1.0.0", "description": "x", "links": links, **more}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """A static catalogue: four items of Sentinel-2, one of them far away, and two of Landsat without files."""
    root = tmp_path_factory.mktemp("catalog")
    items = [
        item("late", "2018-05-20", platform="sentinel-2b"),
        item("early", "2018-03-10", **{"eo:cloud_cover": 5.0}),
        item("cloudy", "2018-04-18", **{"eo:cloud_cover": 80.0}),
        item("away", "2018-04-01", bbox=AWAY, assets={}),
    ]
    landsat = [item(f"l{n}", "2018-04-02", "landsat-c2-l2", assets={}, platform=f"landsat-{n}") for n in (7, 8)]
    children = [("child", "./s2/collection.json"), ("child", "./landsat/collection.json")]
    write(root / "catalog.json", group("Catalog", "root", *children, ("root", "./catalog.json")))
    for folder, name, entries in (("s2", "sentinel-2-l2a", items), ("landsat", "landsat-c2-l2", landsat)):
        below = [("item", f"./{entry['id']}/{entry['id']}.json") for entry in entries]
        # A link back to the root, as a child: a walk must not go in circles.
        write(root / folder / "collection.json", group("Collection", name, *below, ("child", "../catalog.json")))
        for seed, entry in enumerate(entries):
            place = root / folder / entry["id"]
            write(place / f"{entry['id']}.json", entry)
            if entry["assets"]:
                write_pixels(place, seed)
    return root


@pytest.fixture
def server(catalog):
    with Loopback(catalog) as running:
        yield running


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """The same rules with short waits."""
    monkeypatch.setattr(stac, "provider_at", lambda url: replace(GENERIC, rate=1000))
    monkeypatch.setattr(fetch, "WAITS", (0.01, 0.02, 0.04))
    monkeypatch.setitem(raster.READING, "GDAL_HTTP_RETRY_DELAY", "0.01")
    monkeypatch.setattr(raster, "WAITS", (0.01, 0.02))


def find(url, collections=("sentinel-2-l2a",), **options):
    return stac.search(url, collections, **{"bbox": BOX, **SEASON, **options})


def names(found):
    return [entry["id"] for entry in found["features"]]


def scene_of(found, path, *folders):
    save(found, path)
    layers, _ = frames_of(path, folders=folders)
    return Scene(tuple(layers), layers[0].frames[0].bands["B02"].grid())


WHOLE = Area(0, 0, SIZE, SIZE)


def test_a_static_catalogue_gives_the_items_in_order_of_time(server, catalog):
    found = find(server.url("catalog.json"))
    assert names(found) == ["early", "cloudy", "late"]
    assert found["agrifm"]["stac"] == server.url("catalog.json")
    assert names(find(str(catalog / "catalog.json"))) == names(found)


def test_collections_that_are_not_asked_for_are_not_read(server):
    find(server.url("catalog.json"))
    assert server.count("landsat/collection.json") == 1
    assert server.count("landsat/l8/l8.json") == 0
    assert server.count("catalog.json") == 1


def test_only_platforms_of_the_sensor_stay(server):
    assert names(find(server.url("catalog.json"), ["landsat-c2-l2"])) == ["l8"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"max_cloud": 20}, ["early", "late"]),
        ({"start": "2018-04-01"}, ["cloudy", "late"]),
        ({"end": "2018-04-18"}, ["early", "cloudy"]),
        ({"bbox": (9, 49, 11, 51)}, ["away"]),
        ({"limit": 1}, ["early"]),
    ],
)
def test_filters(server, options, left):
    console = Console(record=True, width=200, file=io.StringIO())
    assert names(find(server.url("catalog.json"), console=console, **options)) == left
    assert "left out:" in console.export_text()


def test_an_area_of_interest_is_more_than_its_box(server, tmp_path):
    import geopandas
    from shapely import Polygon

    # A triangle whose box holds the scene and whose area does not.
    shape = Polygon([(2.9, 43.0), (3.2, 43.4), (3.2, 43.0)])
    geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:4326").to_crs("EPSG:2154").to_file(tmp_path / "aoi.gpkg")
    with pytest.raises(InputError, match=r"3 outside the area \(--aoi\)") as error:
        find(server.url("catalog.json"), bbox=None, aoi=tmp_path / "aoi.gpkg")
    assert "widen --aoi" in error.value.repair


def test_nothing_found_says_what_removed_it(server):
    with pytest.raises(InputError) as error:
        find(server.url("catalog.json"), start="2018-04-01", end="2018-04-30", max_cloud=10)
    assert "of 4: 1 outside the box (--bbox), 2 outside the dates" in error.value.found
    assert "1 cloudier (--max-cloud)" in error.value.found
    assert error.value.repair == "widen --max-cloud."


def test_an_unknown_collection_names_the_nearest(server):
    with pytest.raises(InputError, match="did you mean 'sentinel-2-l2a'"):
        find(server.url("catalog.json"), ["sentinel2-l2a"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bbox": None}, "neither --bbox nor --aoi"),
        ({"bbox": (3.1, 43.3, 2.9, 43.4)}, "west < east"),
        ({"start": "March"}, "a day such as 2018-03-01"),
        ({"end": "2017-01-01"}, "not after the last"),
    ],
)
def test_options_that_make_no_sense_are_refused(server, options, told):
    with pytest.raises(InputError, match=told):
        find(server.url("catalog.json"), **options)
    assert not server.requests


def test_a_saved_list_gives_the_same_scene_again(server, tmp_path):
    first, again = find(server.url("catalog.json")), find(server.url("catalog.json"))
    again["features"].reverse()
    save(first, tmp_path / "a.json", note="x")
    save(find(server.url("catalog.json")), tmp_path / "same.json", note="x")
    save(again, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "same.json").read_bytes()
    asked = len(server.requests)
    (one, record), (other, _) = frames_of(tmp_path / "a.json"), frames_of(tmp_path / "b.json")
    assert one == other
    assert record["note"] == "x"
    assert record["start"] == SEASON["start"]
    assert len(server.requests) == asked  # reading a list asks for nothing
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_pixels_over_the_network_are_those_of_the_files(server, catalog, tmp_path):
    remote = scene_of(find(server.url("catalog.json")), tmp_path / "remote.json").read(WHOLE).stacks["S2"]
    local = scene_of(find(str(catalog / "catalog.json")), tmp_path / "local.json", catalog).read(WHOLE).stacks["S2"]
    assert remote.images.shape == (3, 10, SIZE, SIZE)
    np.testing.assert_array_equal(remote.images, local.images)
    np.testing.assert_array_equal(remote.clear, local.clear)
    assert not local.clear[:, :16].any()
    assert local.clear[:, 16:].all()
    with rasterio.open(catalog / "s2" / "early" / "B03.tif") as file:
        np.testing.assert_array_equal(local.images[0, 1], file.read(1))


def api(server, entries, page=2):
    """An API with paging through POST; returns the list of searches it was asked for."""
    asked = []
    links = [{"rel": "search", "href": server.url("api/search"), "method": "POST", "type": "application/geo+json"}]
    links += [{"rel": "data", "href": server.url("api/collections")}]
    levels = ["core", "item-search", "collections"]
    conforms = [f"https://api.stacspec.org/v1.0.0/{level}" for level in levels]

    def search(request):
        asked.append(request.body)
        start = int(request.body.get("token", 0))
        more = {"rel": "next", "method": "POST", "href": server.url("api/search"), "merge": True}
        more["body"] = {"token": str(start + page)}
        following = [more] if start + page < len(entries) else []
        return {"type": "FeatureCollection", "features": entries[start : start + page], "links": following}

    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    collection = group("Collection", "sentinel-2-l2a", extent=extent, license="other")
    server.answers["api"] = lambda request: group("Catalog", "api", conformsTo=conforms) | {"links": links}
    server.answers["api/search"] = search
    server.answers["api/collections"] = lambda request: {"collections": [collection], "links": []}
    return asked


def test_an_api_is_asked_page_by_page(server):
    entries = [item(f"i{n}", f"2018-0{n}-10", **{"eo:cloud_cover": 10.0 * n}) for n in (6, 5, 4, 3, 2)]
    asked = api(server, entries)
    found = find(server.url("api"), max_cloud=50)
    assert names(found) == ["i3", "i4", "i5"]
    assert len(asked) == 3
    assert asked[0]["collections"] == ["sentinel-2-l2a"]
    assert asked[0]["bbox"] == list(BOX)
    assert asked[0]["datetime"] == "2018-03-01T00:00:00Z/2018-06-30T23:59:59Z"
    assert asked[2]["token"] == "4"


def test_an_api_without_the_collection_names_the_nearest(server):
    api(server, [])
    with pytest.raises(InputError, match="did you mean 'sentinel-2-l2a'"):
        find(server.url("api"), ["sentinel-2-l1a"])
    with pytest.raises(InputError, match="the catalog has none there"):
        find(server.url("api"))


def test_a_product_processed_again_counts_once(server):
    same = {"s2:mgrs_tile": "31TEJ", "s2:processing_baseline": "02.06"}
    entries = [
        item("old", "2018-04-18", **same),
        item("new", "2018-04-18", **same | {"s2:processing_baseline": "05.00"}),
    ]
    api(server, [*entries, entries[0], item("other", "2018-04-18", **same | {"s2:mgrs_tile": "31TEK"})])
    assert names(find(server.url("api"))) == ["new", "other"]


@pytest.mark.parametrize("fault", [BUSY, Fault(503, retry_after=1), Fault(429), CUT])
def test_searching_recovers_from_passing_failures(server, fault):
    expected = names(find(server.url("catalog.json")))
    for path in ("catalog.json", "s2/late/late.json"):
        server.faults[path] = [fault]
        server.requests.clear()
        assert names(find(server.url("catalog.json"))) == expected
        assert server.count(path) == 2
        moments = [request.moment for request in server.requests if request.path == path]
        assert moments[1] - moments[0] >= (0.95 if fault.retry_after else 0)


def test_an_api_recovers_from_a_cut_connection_on_the_second_page(server):
    asked = api(server, [item(f"i{n}", f"2018-0{n}-10") for n in (3, 4, 5)])
    server.faults["api/search"] = [None, CUT, BUSY]
    assert names(find(server.url("api"))) == ["i3", "i4", "i5"]
    assert [body.get("token") for body in asked] == [None, "2", "2"]


@pytest.mark.parametrize(
    ("faults", "told"),
    [([BUSY] * 50, "after several attempts"), ([CUT] * 50, "after several attempts"), ([MISSING], "404")],
)
def test_lasting_failures_name_the_address(server, faults, told):
    server.faults["s2/late/late.json"] = faults
    with pytest.raises(InputError, match="no usable answer") as error:
        find(server.url("catalog.json"))
    assert error.value.where == server.url("s2/late/late.json")
    assert told in error.value.found
    assert "item list saved earlier" in error.value.repair


def test_an_answer_that_is_no_stac_is_refused(server):
    server.answers["page"] = lambda request: ["hello"]
    with pytest.raises(InputError, match="JSON that is no object"):
        find(server.url("page"))
    with pytest.raises(InputError, match="no usable answer"):
        find(server.url("s2/late/B02.tif"))


def test_requests_keep_their_distance(server, monkeypatch):
    monkeypatch.setattr(stac, "provider_at", lambda url: replace(GENERIC, rate=20))
    find(server.url("catalog.json"))
    moments = [request.moment for request in server.requests]
    assert len(moments) >= 6
    assert moments[-1] - moments[0] > (len(moments) - 1) / 20 * 0.8


@pytest.mark.parametrize("faults", [[BUSY], [None, BUSY], [CUT] * 3, [None, *[CUT] * 3], [None, Fault(503, 1)]])
def test_pixels_recover_from_passing_failures(server, catalog, tmp_path, faults):
    scene = scene_of(find(server.url("catalog.json"), limit=1), tmp_path / "list.json")
    with rasterio.open(catalog / "s2" / "early" / "B11.tif") as file:
        expected = file.read(1)
    server.faults["s2/early/B11.tif"] = list(faults)
    for _ in range(2):  # what is kept of a failed attempt does no harm later
        stack = scene.read(WHOLE).stacks["S2"]
        np.testing.assert_array_equal(stack.images[0, S2.band_ids.index("B11")], expected)
    assert server.count("s2/early/B11.tif") > len(faults) - sum(fault is None for fault in faults)
    assert server.faults["s2/early/B11.tif"] == [] or CUT in faults


@pytest.mark.parametrize("faults", [[BUSY] * 200, [None, *[CUT] * 200], [MISSING] * 200])
def test_pixels_that_never_come_are_named(server, tmp_path, faults):
    scene = scene_of(find(server.url("catalog.json"), limit=1), tmp_path / "list.json")
    server.faults["s2/early/B11.tif"] = faults
    with pytest.raises(Unreadable, match="--skip-unreadable") as error:
        scene.read(WHOLE)
    assert error.value.where == server.url("s2/early/B11.tif")


def test_a_truncated_asset_is_named(server, catalog, tmp_path):
    entry = item("short", "2018-05-01", assets={key: {"href": f"../../s2/late/{key}.tif"} for key in S2.band_ids})
    entry["assets"]["B08"] = {"href": "./B08.tif"}
    folder = tmp_path / "broken" / "short"
    write(folder / "short.json", entry)
    content = (catalog / "s2" / "late" / "B08.tif").read_bytes()
    (folder / "B08.tif").write_bytes(content[: len(content) // 2])
    with Loopback(tmp_path) as other:
        entry["links"] = [{"rel": "self", "href": other.url("broken/short/short.json")}]
        for key in set(S2.band_ids) - {"B08"}:
            entry["assets"][key]["href"] = server.url(f"s2/late/{key}.tif")
        scene = scene_of({"type": "FeatureCollection", "features": [entry]}, tmp_path / "list.json")
        with pytest.raises(Unreadable) as error:
            scene.read(WHOLE)
        assert error.value.where == other.url("broken/short/B08.tif")


def frames(path, *entries, **options):
    write(path, {"type": "FeatureCollection", "features": list(entries)})
    return frames_of(path, **options)


BLUE = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "rededge1": "B05", "rededge2": "B06"}
COMMON = {**BLUE, "rededge3": "B07", "nir08": "B8A", "swir16": "B11", "swir22": "B12"}


def assets_of(keys, host, **stated):
    return {key: {"href": f"{host}/{key}.tif", **stated} for key in keys}


@pytest.mark.parametrize(("applied", "offset"), [(True, 0.0), (False, -0.1)])
def test_earth_search_says_whether_the_offset_is_in_the_numbers(tmp_path, applied, offset):
    host = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/x"
    stated = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}
    entry = item(
        "S2B_31TEJ_20230418_0_L2A",
        "2023-04-18",
        assets=assets_of((*COMMON, "scl"), host, **stated),
        **{"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": applied},
    )
    (layer,), _ = frames(tmp_path / "list.json", entry)
    frame = layer.frames[0]
    assert frame.units.offset == offset
    assert "Earth Search" in frame.units.source
    assert ("taken out" in frame.units.source) == applied
    assert {band: one.href.split("/")[-1] for band, one in frame.bands.items()} == {
        band: f"{key}.tif" for key, band in COMMON.items()
    }
    assert frame.quality.rule == "SCL"


PC = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/T/EJ"


@pytest.mark.parametrize(("baseline", "offset"), [("03.01", 0.0), ("04.00", -0.1), ("05.10", -0.1)])
def test_planetary_computer_follows_the_baseline(tmp_path, baseline, offset):
    link = {"rel": "self", "href": "https://planetarycomputer.microsoft.com/api/stac/v1/collections/x/items/a"}
    entry = item("a", "2022-04-18", assets=assets_of((*S2.band_ids, "SCL"), PC), links=[link])
    entry["properties"]["s2:processing_baseline"] = baseline
    (layer,), _ = frames(tmp_path / "list.json", entry)
    frame = layer.frames[0]
    assert frame.units.offset == offset
    assert f"baseline {baseline} (Planetary Computer)" in frame.units.source
    assert frame.bands["B02"].href == f"pc+{PC}/B02.tif"
    assert frame.quality.raster.href.startswith("pc+https://")


def test_planetary_computer_files_are_signed_with_one_token(server, monkeypatch):
    ends = iter(["2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
    server.answers["token/sentinel2l2a01/sentinel2-l2"] = lambda request: {
        "token": f"se=x&sig={len(server.requests)}",
        "msft:expiry": next(ends),
    }
    monkeypatch.setattr(tokens, "_TOKENS", Tokens(server.url("token/{account}/{container}")))
    assert signed(f"pc+{PC}/B02.tif") == f"{PC}/B02.tif?se=x&sig=1"
    assert signed(f"pc+{PC}/B03.tif") == f"{PC}/B03.tif?se=x&sig=2"  # the first token had ended
    assert signed(f"pc+{PC}/B04.tif") == f"{PC}/B04.tif?se=x&sig=2"
    assert signed(f"pc+{PC}/B04.tif?sig=own") == f"{PC}/B04.tif?sig=own"
    assert signed("https://elsewhere/B02.tif") == "https://elsewhere/B02.tif"
    assert len(server.requests) == 2
    server.answers["token/other/c"] = lambda request: {"detail": "no"}
    with pytest.raises(InputError, match="an answer without token"):
        signed("pc+https://other.blob.core.windows.net/c/a.tif")


def test_copernicus_data_space_names_files_with_their_size(tmp_path):
    keys = [f"{band}_10m" for band in ("B02", "B03", "B04", "B08")]
    keys += [
        f"{band}_{size}m"
        for band in ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
        for size in (20, 60)
    ]
    assets = assets_of((*keys, "SCL_20m", "SCL_60m"), "s3://eodata/Sentinel-2/x")
    entry = item("S2B_MSIL2A_20230418T105029_N0509_R051_T31TEJ", "2023-04-18", assets=assets)
    entry["properties"]["processing:version"] = "05.09"
    (layer,), _ = frames(tmp_path / "list.json", entry)
    frame = layer.frames[0]
    assert frame.bands["B02"].href.endswith("B02_10m.tif")
    assert frame.bands["B8A"].href.endswith("B8A_20m.tif")
    assert frame.quality.raster.href.endswith("SCL_20m.tif")
    assert frame.units.offset == -0.1
    assert "Copernicus Data Space" in frame.units.source


@pytest.mark.parametrize(("collection", "sensor", "bands"), [("HLSL30_2.0", "Landsat", 6), ("HLSS30_2.0", "S2", 10)])
def test_lp_daac_serves_hls(tmp_path, collection, sensor, bands):
    keys = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "Fmask")
    host = "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/x"
    (layer,), _ = frames(tmp_path / "list.json", item("a", "2023-04-18", collection, assets=assets_of(keys, host)))
    frame = layer.frames[0]
    assert layer.sensor.name == sensor
    assert len(frame.bands) == bands
    assert (frame.units.scale, frame.units.offset) == (1e-4, 0.0)
    assert frame.quality.rule == "Fmask"
    assert frame.bands["B02"].nodata == -9999


def test_hosts_tell_providers():
    assert provider_at("https://earth-search.aws.element84.com/v1").name == "Earth Search"
    assert provider_at("https://stac.dataspace.copernicus.eu/v1").name == "Copernicus Data Space"
    assert provider_at("https://example.org/catalog.json") is GENERIC


def test_an_item_without_a_band_is_named_or_left_out_on_request(tmp_path):
    whole, lacking = item("whole", "2018-04-18"), item("lacking", "2018-04-20")
    del lacking["assets"]["B8A"]
    with pytest.raises(MissingBand, match=r"item lacking\n.*no asset for band B8A"):
        frames(tmp_path / "list.json", whole, lacking)
    (layer,), record = frames(tmp_path / "list.json", whole, lacking, skip_incomplete=True)
    assert [frame.name for frame in layer.frames] == ["whole"]
    assert "lacking" in record["skipped"][0]


def test_bands_that_disagree_on_their_scale_are_refused(tmp_path):
    entry = item("a", "2018-04-18")
    entry["assets"]["B04"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1}]
    with pytest.raises(InputError, match="several scales and offsets"):
        frames(tmp_path / "list.json", entry)


def test_a_band_that_states_no_scale_has_that_of_the_product(tmp_path):
    entry = item("a", "2022-04-18", **{"s2:processing_baseline": "04.00"})
    entry["assets"]["B04"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1}]
    (layer,), _ = frames(tmp_path / "list.json", entry)
    assert (layer.frames[0].units.scale, layer.frames[0].units.offset) == (1e-4, -0.1)


def test_several_scales_are_refused_even_if_the_offset_was_removed(tmp_path):
    entry = item("a", "2022-04-18", **{"earthsearch:boa_offset_applied": True})
    entry["assets"]["B04"]["raster:bands"] = [{"scale": 2e-4}]
    with pytest.raises(InputError, match="several scales and offsets") as error:
        frames(tmp_path / "list.json", entry)
    assert "raster:bands" in error.value.repair


@pytest.mark.parametrize("stated", [{"scale": 0}, {"scale": -1e-4}, {"scale": 10**400}, {"offset": float("nan")}])
def test_scales_that_cannot_be_used_are_refused(tmp_path, stated):
    entry = item("a", "2018-04-18")
    for band_id in S2.band_ids:
        entry["assets"][band_id]["raster:bands"] = [stated]
    with pytest.raises(InputError, match="a positive scale and a finite offset"):
        frames(tmp_path / "list.json", entry)


def test_collections_of_other_sensors_are_refused(tmp_path):
    with pytest.raises(InputError, match="surface reflectance of Sentinel-2"):
        frames(tmp_path / "list.json", item("a", "2018-04-18", "sentinel-1-grd"))
    with pytest.raises(InputError, match="platform 'landsat-7'"):
        frames(tmp_path / "list.json", item("a", "2018-04-18", "landsat-c2-l2", assets={}, platform="landsat-7"))


@pytest.mark.parametrize("entry", [{"id": "a"}, "text", {"id": 3, "properties": {}, "assets": {}}])
def test_what_is_no_item_is_refused(tmp_path, entry):
    with pytest.raises(InputError, match="an item without"):
        frames(tmp_path / "list.json", entry)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"features": []}'])
def test_what_is_no_item_list_is_refused(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match="a STAC ItemCollection"):
        frames_of(tmp_path / "list.json")


@pytest.mark.parametrize(
    "href",
    [
        "../secret.tif",
        "/etc/secret.tif",
        "file:///etc/secret.tif",
        "/vsicurl/http://x/a.tif",
        "vrt:///etc/x",
        "a/../../b.tif",
    ],
)
@pytest.mark.parametrize("asset", ["B02", "SCL"])
def test_items_cannot_point_out_of_their_folder(tmp_path, href, asset):
    entry = item("a", "2018-04-18")
    entry["assets"][asset]["href"] = href
    with pytest.raises(InputError, match="item a") as error:
        frames(tmp_path / "list" / "list.json", entry)
    assert href in error.value.found


def test_a_self_link_or_a_child_cannot_lead_out_either(tmp_path):
    link = {"rel": "self", "href": "/etc/item.json"}
    with pytest.raises(InputError, match="inside"):
        frames(tmp_path / "list.json", item("a", "2018-04-18", links=[link]))
    write(tmp_path / "in" / "catalog.json", group("Catalog", "root", ("child", "../list.json")))
    with pytest.raises(InputError, match="link child"):
        find(str(tmp_path / "in" / "catalog.json"))


def test_relative_addresses_start_at_the_document():
    base = "https://example.org/a/item.json?x=1"
    assert resolve("../b/B02.tif", base, (), "x") == "https://example.org/b/B02.tif"
    assert resolve("/etc/passwd", base, (), "x") == "https://example.org/etc/passwd"
    assert resolve("../b/B02.tif", "s3://bucket/a/c/item.json", (), "x") == "s3://bucket/a/b/B02.tif"


def test_a_remote_file_cannot_lead_to_files_of_this_machine(tmp_path):
    """A VRT names other files: over the network it is not opened."""
    secret = tmp_path / "secret.tif"
    profile = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(secret, "w", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
    served = tmp_path / "served"
    served.mkdir()
    rasterio.shutil.copy(secret, served / "asset.tif", driver="VRT")
    with Loopback(served) as server, pytest.raises(Unreadable, match="not recognized"):
        raster.FileBand(server.url("asset.tif")).grid()


def test_the_command_saves_a_list_that_opens_as_a_scene(server, tmp_path):
    out = tmp_path / "items.json"
    arguments = ["scene", "search", str(out), "--stac", server.url("catalog.json"), "--collection", "sentinel-2-l2a"]
    arguments += ["--bbox", ",".join(map(str, BOX)), "--start", SEASON["start"], "--end", SEASON["end"]]
    result = CliRunner().invoke(app, [*arguments, "--max-cloud", "60"])
    assert result.exit_code == 0, result.output
    assert "2 items" in result.output
    scene = open_scene(out)
    assert [str(day) for day in scene.layers[0].days] == ["2018-03-10", "2018-05-20"]
    assert scene.grid.crs.to_epsg() == 32631
    assert scene.read(Area(0, 0, 8, 8)).stacks["S2"].images.min() >= 100
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, InputError)
    assert "--overwrite" in str(again.exception)
    wrong = CliRunner().invoke(app, [*arguments, "--overwrite", "--bbox", "1,2,3"])
    assert "west,south,east,north" in str(wrong.exception)
