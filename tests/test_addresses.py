"""Addresses, and what may be opened because of what a file says."""

import copy
import json
import os
import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from loopback import DRIPPING, SILENT, Fault, Loopback
from rasterio.transform import from_origin
from test_stac import BOX, SEASON, api, assets_of, catalog, find, frames, group, item, names, scene_of, write

from agrifm.addresses import is_address, local, normalized
from agrifm.errors import InputError, Unreadable
from agrifm.network import files as remote
from agrifm.network import http as fetch
from agrifm.network import json_text
from agrifm.network import retry as retry_module
from agrifm.network.retry import TemporaryFailure, retry
from agrifm.opening import open_scene
from agrifm.rasters import file_band as raster
from agrifm.rasters import gdal
from agrifm.rasters.file_band import FileBand
from agrifm.stac import search as stac
from agrifm.stac.hrefs import resolve
from agrifm.stac.items import frames_of, save
from agrifm.stac.providers import GENERIC

__all__ = ["catalog"]  # a fixture


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """The same rules with short waits; no host but the loopback is ever looked up."""
    monkeypatch.setattr(stac, "provider_at", lambda url: replace(GENERIC, rate=10_000))
    monkeypatch.setattr(fetch, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(raster, "WAITS", ())
    look_up = socket.getaddrinfo

    def only_here(host, *more, **options):
        assert host in ("127.0.0.1", "localhost", None), host
        return look_up(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with Loopback(tmp_path / "served") as running:
        yield running


def write_raster(path, value=7, size=64, **tags):
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": "uint16", "crs": "EPSG:32631"}
    with rasterio.open(path, "w", transform=from_origin(5e5, 4.8e6, 10, 10), **profile) as file:
        file.write(np.full((1, size, size), value, np.uint16))
        for domain, values in tags.items():
            file.update_tags(ns=domain, **values)
    return path


def vrt(*sources):
    """A VRT of one band over several sources, given as paths or whatever else stands there."""
    simple = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/><DstRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
        "</SimpleSource>"
        for source in sources
    )
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32631</SRS><GeoTransform>500000, 10, 0, 4800000, 0, '
        f'-10</GeoTransform><VRTRasterBand dataType="UInt16" band="1">{simple}</VRTRasterBand></VRTDataset>'
    )


def pansharpened(source):
    """A VRT that opens its sources, with any driver, as soon as it is opened itself."""
    named = f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
    return (
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><Algorithm>WeightedBrovey</Algorithm>'
        f'<PanchroBand>{named}</PanchroBand><SpectralBand dstBand="1">{named}</SpectralBand></PansharpeningOptions>'
        "</VRTDataset>"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http:/host/x.tif", "no valid host"),
        ("https:///x.tif", "no valid host"),
        ("HTTP:x.tif", "no valid host"),
        ("http://:80/x", "no valid host"),
        ("http://%2e/x", "no valid host"),
        ("http://[x/", "Invalid IPv6"),
        ("http://host:99999/x", "Port out of range"),
        ("http:\\\\host\\x", "backslash"),
        ("https://good.org\\@bad.org/x", "backslash"),
        ("https://good.org@bad.org/x", "user name"),
        ("https://me:secret@host/x", "user name"),
        ("http://host/\nx", "control"),
        ("http://host/\u202ex", "control"),
        ("vrt://http://host/x", "'vrt' is not opened"),
        ("File:///etc/passwd", "'file' is not opened"),
        ("zip+https://host/x.zip!a.tif", "is not opened"),
        ("ftp://host/x", "is not opened"),
    ],
)
def test_odd_addresses_are_refused_whichever_way_they_come(tmp_path, text, found):
    assert is_address(text)
    for refused in (
        lambda: normalized(text, "here"),
        lambda: resolve(text, "/data/items.json", (Path("/"),), "here"),
        lambda: resolve(text, "https://host/items.json", (), "here"),
        lambda: FileBand(text).grid(),
        lambda: frames(tmp_path / "list.json", item("a", "2018-04-18", assets={"B02": {"href": text}} | REST)),
    ):
        with pytest.raises(InputError, match=found) as error:
            refused()
        assert "secret" not in str(error.value)


REST = {key: {"href": f"./{key}.tif"} for key in ("B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")}


@pytest.mark.parametrize(
    ("text", "one"),
    [
        (" HTTPS://Host/a b.tif#part ", "https://Host/a b.tif"),
        ("s3://bucket/key?versionId=1", "s3://bucket/key?versionId=1"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
    ],
)
def test_addresses_get_one_form(text, one):
    assert normalized(text, "here") == one


@pytest.mark.parametrize(
    "name", ["GTI:x.gti.gpkg", "hdf5:x.h5", "<VRTDataset/>", " <GDAL_WMS>", "/vsizip/x.zip/a.tif", ""]
)
def test_paths_that_gdal_takes_for_something_else_are_refused(name):
    with pytest.raises(InputError, match="a path of a file"):
        resolve(name, "/data/items.json", (Path("/data"),), "here")


@pytest.mark.parametrize("name", ["T31_2018-05-08T10:50:31_B02.tif", "B02:10m.tif", "GTI:x.tif"])
def test_files_with_a_colon_in_their_name_are_files(tmp_path, monkeypatch, name):
    write_raster(tmp_path / name)
    assert not is_address(name)
    monkeypatch.chdir(tmp_path)
    assert FileBand(name).grid().shape == (64, 64)
    if not name.startswith("GTI"):
        assert resolve(local(name, "here"), f"{tmp_path}/list.json", (tmp_path,), "here") == str(tmp_path / name)


@pytest.mark.parametrize("wanted", ["/", "..", None])
def test_a_list_cannot_grant_itself_folders(tmp_path, wanted):
    entry = item("a", "2018-04-18")
    entry["assets"]["B02"]["href"] = "/etc/passwd"
    listed = {"type": "FeatureCollection", "features": [entry], "agrifm": {"stac": f"{wanted}x", "folders": ["/"]}}
    write(tmp_path / "list.json", listed)
    for opening in (frames_of, open_scene):
        with pytest.raises(InputError, match="/etc/passwd") as error:
            opening(tmp_path / "list.json")
        assert error.value.repair.endswith("--set folders=/etc")


def test_a_list_of_a_local_catalog_opens_with_the_setting_that_is_printed(catalog, tmp_path):
    save(find(str(catalog / "catalog.json")), tmp_path / "list.json")
    with pytest.raises(InputError, match="a file inside") as error:
        open_scene(tmp_path / "list.json")
    setting = error.value.repair.partition("--set ")[2]
    assert setting == f"folders={catalog}"
    assert len(open_scene(tmp_path / "list.json", [setting]).layers[0].frames) == 3
    (tmp_path / "scene.yaml").write_text(f"sources: [{{path: list.json, folders: [{catalog}]}}]")
    assert len(open_scene(tmp_path / "scene.yaml").layers[0].frames) == 3


def test_a_link_out_of_the_folder_is_outside(tmp_path):
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "secret.tif")
    (tmp_path / "in" / "B02.tif").symlink_to(tmp_path / "secret.tif")
    (tmp_path / "in" / "loop.tif").symlink_to("loop.tif")
    for name in ("B02.tif", "loop.tif"):
        with pytest.raises(InputError):
            resolve(name, f"{tmp_path}/in/list.json", (tmp_path / "in",), "here")


def test_no_request_follows_from_a_file_that_is_not_opened(server, tmp_path):
    """A pansharpened VRT asks for its sources before anyone can look at its driver."""
    write_raster(tmp_path / "served" / "internal.tif")
    text = pansharpened(f"/vsicurl/{server.url('internal.tif')}")
    (tmp_path / "served" / "asset.tif").write_text(text)
    (tmp_path / "local.tif").write_text(text)
    for band in (
        FileBand(server.url("asset.tif")),
        FileBand(str(tmp_path / "local.tif"), kind="listed"),
        FileBand(str(tmp_path / "local.tif")),
    ):
        with pytest.raises(Unreadable):
            band.grid()
    assert server.count("internal.tif") == 0


@pytest.mark.parametrize("where", ["remote", "listed", "local"])
def test_overviews_elsewhere_are_refused(server, tmp_path, where):
    """A GeoTIFF can name any file of any driver as its overviews."""
    write_raster(tmp_path / "served" / "internal.tif")
    named = {"OVERVIEW_FILE": f"/vsicurl/{server.url('internal.tif')}"}
    write_raster(tmp_path / "served" / "asset.tif", OVERVIEWS=named)
    path = tmp_path / "served" / "asset.tif"
    band = (
        FileBand(server.url("asset.tif"))
        if where == "remote"
        else FileBand(str(path), kind="file" if where == "local" else where)
    )
    with pytest.raises(Unreadable, match="overviews lie in another file"):
        band.grid()
    assert server.count("internal.tif") == 0


@pytest.mark.parametrize("form", ["/vsicurl/{}", "{}", "/vsis3/b/k.tif", "WMS:{}", "/vsizip//vsicurl/{}", "vrt://{}"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_local_vrt_does_not_reach_the_network(server, tmp_path, form, nested):
    write_raster(tmp_path / "a.tif")
    (tmp_path / "inner.vrt").write_text(vrt("a.tif", form.format(server.url("internal.tif"))))
    (tmp_path / "outer.vrt").write_text(vrt("inner.vrt"))
    with pytest.raises(Unreadable, match="that you did not name"):
        FileBand(str(tmp_path / ("outer.vrt" if nested else "inner.vrt"))).grid()
    assert not server.requests


@pytest.mark.parametrize("suffix", [".ovr", ".msk"])
@pytest.mark.parametrize(
    "text", ["<GDAL_WMS></GDAL_WMS>", vrt("http://127.0.0.1:1/a.tif"), '{"type": "FeatureCollection"}']
)
def test_a_sidecar_does_not_reach_the_network(tmp_path, suffix, text):
    path = write_raster(tmp_path / "a.tif")
    Path(f"{path}{suffix}").write_text(text)
    with pytest.raises(Unreadable, match="that you did not name"):
        FileBand(str(path)).grid()
    assert FileBand(str(path), kind="listed").grid()


def test_what_a_vrt_hides_is_found(tmp_path):
    service = "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:1/</ServerUrl></Service></GDAL_WMS>"
    (tmp_path / "service.xml").write_text(service)
    hidden = [
        vrt("service.xml"),
        vrt("a.vrt"),
        vrt("a.tif").replace("SourceFilename", "sourceFileName").replace(">a.tif", "><!-- -->http://x/a.tif"),
        vrt("a.tif").replace(
            "<SRS>", "<Metadata domain='OVERVIEWS'><MDI key='overview_file'>http://x</MDI></Metadata><SRS>"
        ),
        "<!DOCTYPE a [<!ENTITY b 'c'>]>" + vrt("a.tif"),
    ]
    for text in hidden:
        (tmp_path / "a.vrt").write_text(text)
        with pytest.raises(Unreadable):
            gdal.check_vrt(tmp_path / "a.vrt")


def test_a_vrt_over_local_files_is_read(tmp_path):
    (tmp_path / "deep").mkdir()
    write_raster(tmp_path / "deep" / "a.tif", 9)
    (tmp_path / "inner.vrt").write_text(vrt("deep/a.tif"))
    (tmp_path / "outer.vrt").write_text(vrt("inner.vrt"))
    band = FileBand(str(tmp_path / "outer.vrt"))
    pixels = band.read(band.grid())
    assert np.unique(pixels.values).tolist() == [9]
    with pytest.raises(Unreadable):
        replace(band, kind="listed").grid()


@pytest.mark.parametrize("fault", [SILENT, DRIPPING])
def test_a_server_that_does_not_answer_is_given_up(server, monkeypatch, fault):
    write(server.folder / "catalog.json", group("Catalog", "root"))
    server.faults["catalog.json"] = [fault] * 9
    monkeypatch.setattr(fetch, "PATIENCE", 0.1)
    monkeypatch.setattr(fetch, "GRACE", 0.1)
    with pytest.raises(InputError, match="no usable answer"):
        find(server.url("catalog.json"))
    server.faults["manifest.json"] = [fault] * 9
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    monkeypatch.setattr(remote, "WAITS", (0.01,))
    with pytest.raises(remote.NotRead, match="Timeout"):
        remote.read_whole(server.url("manifest.json"))


def test_pixels_of_a_server_that_does_not_answer_are_given_up(server, monkeypatch):
    monkeypatch.setitem(gdal.SLOWEST, "GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setitem(raster.READING, "GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setattr(raster, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(raster, "PATIENCE", 0.1)
    server.faults["a.tif"] = [SILENT] * 9
    with pytest.raises(Unreadable):
        FileBand(server.url("a.tif")).grid()
    assert server.count("a.tif") == 1


@pytest.mark.parametrize(("patience", "number"), [(9.0, 3), (0.0, 1)])
def test_attempts_end_after_the_last_wait_or_without_time(monkeypatch, patience, number):
    attempts, pauses = [], []
    monkeypatch.setattr(retry_module.time, "sleep", pauses.append)

    def work(attempt):
        attempts.append(attempt.number)
        raise TemporaryFailure(OSError("busy"), wait=7 if attempt.number == 1 else None)

    with pytest.raises(OSError, match="busy"):
        retry(work, (1, 2), patience)
    assert attempts == list(range(1, number + 1))
    assert pauses == [7, 2][: number - 1]  # the server asked for the first pause


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//", "loop"])
def test_redirects_lead_to_no_other_kind_of_place(server, target):
    location = server.url("catalog.json") if target == "loop" else target
    server.faults["catalog.json"] = [Fault(302, location=location)] * 99
    with pytest.raises(InputError, match="no usable answer"):
        find(server.url("catalog.json"))
    assert len(server.requests) <= fetch.REDIRECTS + 1


def test_redirects_of_pixels_stay_on_the_network(server, tmp_path):
    write_raster(tmp_path / "secret.tif")
    write_raster(server.folder / "there.tif")
    server.faults["here.tif"] = [Fault(302, location=f"file://{tmp_path}/secret.tif")] * 99
    with pytest.raises(Unreadable):
        FileBand(server.url("here.tif")).grid()
    server.faults["moved.tif"] = [Fault(302, location=server.url("there.tif"))] * 99
    assert FileBand(server.url("moved.tif")).grid().shape == (64, 64)


def test_redirects_to_another_host_carry_no_credentials(server, tmp_path):
    write(server.folder / "there.json", group("Catalog", "root"))
    other = server.address.replace("127.0.0.1", "localhost")
    server.faults["here.json"] = [Fault(302, location=f"{other}/there.json")]
    reader = fetch.HttpReader(1000)
    reader.request(server.url("here.json"), headers={"Authorization": "secret", "Cookie": "secret"})
    first, second = server.requests
    assert first.headers["Authorization"] == "secret"
    assert "secret" not in second.headers.values()


def test_an_answer_names_no_file_of_this_machine(server, tmp_path):
    write(tmp_path / "secret.json", {"type": "FeatureCollection", "features": [item("secret", "2018-04-18")]})
    links = [("child", f"{tmp_path}/secret.json")]
    write(server.folder / "catalog.json", group("Catalog", "root", *links))
    with pytest.raises(InputError, match="no usable answer"):  # it is asked of the server, which has none
        find(server.url("catalog.json"))
    asked = api(server, [])
    server.answers["api/search"] = lambda request: {
        "features": [item("x", "2018-04-18")],
        "links": [{"rel": "next", "href": f"{tmp_path}/secret.json"}],
    }
    with pytest.raises(InputError, match="a local path in an answer"):
        find(server.url("api"))
    assert not asked


def test_catalogs_that_never_end_are_given_up(server, monkeypatch):
    monkeypatch.setattr(stac, "MOST_PAGES", 20)
    monkeypatch.setattr(stac, "MOST_ITEMS", 20)

    class Endless(dict):
        """Each document has a link to the next one."""

        def __contains__(self, path):
            return path.startswith("endless")

        def __getitem__(self, path):
            rel, _, number = path.removeprefix("endless/").partition("/")
            return lambda request: group("Catalog", number, (rel, f"./{int(number) + 1}"))

    served = dict(server.answers)
    server.answers = Endless()
    for rel in ("child", "next"):
        with pytest.raises(InputError, match="does not end"):
            find(server.url(f"endless/{rel}/0"))
    server.answers = served
    api(server, [])
    page = [item(f"i{n}", "2018-04-18") for n in range(2)]
    more = [{"rel": "next", "href": server.url("api/search"), "method": "POST", "body": {}}]
    server.answers["api/search"] = lambda request: {"features": page, "links": more}
    with pytest.raises(InputError, match="pages that repeat"):
        find(server.url("api"))
    server.answers["api/search"] = lambda request: {
        "features": [item(f"i{len(server.requests)}", "2018-04-18")],
        "links": more,
    }
    with pytest.raises(InputError, match="more than 20 items"):
        find(server.url("api"))


def test_a_search_across_180_degrees(server):
    fiji, samoa = [179.0, -18.0, 179.9, -17.0], [-179.9, -18.0, -179.0, -17.0]
    across = item("across", "2018-04-18") | {"bbox": [179.5, -18.0, -179.5, -17.0], "geometry": None}
    entries = [item("fiji", "2018-04-18", bbox=fiji), item("samoa", "2018-04-18", bbox=samoa), across]
    entries.append(item("far", "2018-04-18", bbox=[0.0, -18.0, 1.0, -17.0]))
    asked = api(server, entries, page=9)
    found = find(server.url("api"), bbox=(179.0, -18.5, -179.0, -16.5))
    assert sorted(names(found)) == ["across", "fiji", "samoa"]
    assert [body["bbox"] for body in asked] == [[179.0, -18.5, 180.0, -16.5], [-180.0, -18.5, -179.0, -16.5]]
    assert found["agrifm"]["bbox"] == [179.0, -18.5, -179.0, -16.5]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32601"])
def test_areas_of_interest_across_180_degrees(tmp_path, crs):
    import geopandas
    from shapely import LineString, Polygon

    from agrifm.stac.query import area

    ring = [(179.5, -18), (180.5, -18), (180.5, -17), (179.5, -17)]
    shapes = [Polygon(ring), Polygon([(x + 2, y) for x, y in ring]), LineString([(170, -17), (171, -17)])]
    table = geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:4326").to_crs(crs)
    table.to_file(tmp_path / "aoi.gpkg")
    (west, east), shape, unused = area(None, tmp_path / "aoi.gpkg")
    assert west == pytest.approx((179.5, -18, 180, -17), abs=0.01)
    assert east == pytest.approx((-180, -18, -177.5, -17), abs=0.01)
    assert shape.area == pytest.approx(2, abs=0.02)
    assert unused == 1


def test_an_exchanged_west_and_east_is_no_search_around_the_globe(server):
    with pytest.raises(InputError, match="west < east"):
        find(server.url("api"), bbox=(3.1, 43.3, 2.9, 43.4))


def test_a_geometry_without_numbers_is_refused(server):
    odd = item("odd", "2018-04-18")
    odd["geometry"]["coordinates"][0][1] = [float("nan"), 43.0]
    api(server, [odd])
    with pytest.raises(InputError, match="coordinates that are no numbers"):
        find(server.url("api"))


def test_json_in_odd_clothes(tmp_path):
    entry = item("a", "2018-04-18")
    document = {"type": "FeatureCollection", "features": [entry]}
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "list.json").write_bytes(json.dumps(document).encode(encoding))
        assert frames_of(tmp_path / "list.json")[0]
    for data in (b"[" * 200_000, b"\xff\xfe\x00", b'{"a": ' + b"1" * 9000 + b"}"):
        (tmp_path / "list.json").write_bytes(data)
        with pytest.raises(InputError, match="cannot be read"):
            frames_of(tmp_path / "list.json")


def test_what_is_no_plain_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "list.json")
    with pytest.raises(InputError):
        frames_of(tmp_path / "list.json")
    with pytest.raises(remote.NotRead, match="no plain file"):
        remote.read_whole(str(tmp_path / "list.json"))


def test_a_shard_of_another_size_is_not_read(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(remote.NotRead, match="truncated or overlong: 1099511627776 of 1024 bytes"):
        remote.read_whole(str(tmp_path / "a.tar"), size=1024)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "list.json").open("wb") as file:
        file.truncate(json_text.MOST_FILE + 1)
    began = time.process_time()
    with pytest.raises(InputError, match="bytes; JSON files of up to"):
        frames_of(tmp_path / "list.json")
    assert time.process_time() - began < 5


def test_assets_and_links_that_are_null_count_as_absent(tmp_path):
    entry = item("a", "2018-04-18", links=[None, {"rel": None, "href": None}])
    entry["assets"] |= {"thumbnail": None, "preview": {"href": None}}
    assert frames(tmp_path / "list.json", entry)[0]
    entry["assets"]["B04"] = None
    with pytest.raises(InputError, match="no asset for band B04"):
        frames(tmp_path / "list.json", entry)


def test_what_a_provider_says_of_the_offset_is_kept(tmp_path):
    stated = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
    assets = assets_of(COMMON, "https://sentinel-cogs.s3.us-west-2.amazonaws.com/x", **stated)
    entry = item("a", "2023-04-18", assets=assets, **{"earthsearch:boa_offset_applied": False})
    ((layer,), _) = frames(tmp_path / "list.json", entry)
    assert "earthsearch:boa_offset_applied: false" in layer.frames[0].units.source


COMMON = ("blue", "green", "red", "nir", "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22", "scl")
ODD = (None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**400, "", "x", "../x", "/etc/passwd", "http:/h/x")
ODD += ("\x1b[31m", "\ud800", [], [None], {}, {"href": None}, [[[]]], {"a": {}}, "http://[", "file:///x", [1, 2, 3, 4])


def paths_in(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))


def mutated(document, generator):
    """The document with one value replaced or deleted, as the bytes of a file that may be damaged too."""
    changed = copy.deepcopy(document)
    path = generator.choice([path for path in paths_in(changed) if path])
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if generator.random() < 0.85:
        holder[path[-1]] = copy.deepcopy(generator.choice(ODD))
    else:
        del holder[path[-1]]
    data = bytearray(json.dumps(changed).encode())
    if generator.random() < 0.2:
        data[generator.randrange(len(data))] = generator.randrange(256)
    return bytes(data[: generator.randrange(len(data))] if generator.random() < 0.05 else data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_lists_and_catalogs_open_or_are_refused_in_a_sentence(tmp_path, seed):
    generator = random.Random(seed)
    stated = {"raster:bands": [{"nodata": 0, "scale": 0.0001}], "eo:bands": [{"name": "B02"}], "roles": ["data"]}
    entries = [
        item("a", "2018-04-18", **{"eo:cloud_cover": 3.0}),
        item("b", "2023-04-18", assets=assets_of(COMMON, "https://sentinel-cogs/x", **stated)),
    ]
    record = {"stac": "/x/catalog.json", "bbox": [1, 2, 3, 4], "start": "2018-01-01"}
    documents = {
        "list.json": {"type": "FeatureCollection", "features": entries, "agrifm": record},
        "catalog.json": group("Catalog", "root", ("child", "./c.json"), ("next", "./list.json")),
        "c.json": group("Collection", "sentinel-2-l2a", ("item", "./a.json"), ("parent", "./catalog.json")),
        "a.json": item("a", "2018-04-18", links=[{"rel": "self", "href": "./a.json"}]),
    }
    outcomes = {"right": 0, "refused": 0}
    for _ in range(60):
        chosen = generator.choice(list(documents))
        for name, document in documents.items():
            data = mutated(document, generator) if name == chosen else json.dumps(document).encode()
            (tmp_path / name).write_bytes(data)
        for task in (
            lambda: frames_of(tmp_path / "list.json"),
            lambda: open_scene(tmp_path / "list.json"),
            lambda: stac.search(str(tmp_path / "catalog.json"), [], bbox=BOX, **SEASON),
        ):
            try:
                task()
                outcomes["right"] += 1
            except InputError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


def test_mutated_answers_of_an_api_are_refused_in_a_sentence(server):
    generator = random.Random(0)
    entries = [item(f"i{n}", "2018-04-18") for n in range(3)]
    api(server, entries)
    usual = dict(server.answers)
    right = 0
    for _ in range(60):
        chosen = generator.choice(["api", "api/search", "api/collections"])

        def odd(request, chosen=chosen):
            try:
                return json.loads(mutated(usual[chosen](request), generator))
            except ValueError:
                return None

        server.answers = {**usual, chosen: odd}
        try:
            right += bool(find(server.url("api")))
        except InputError:
            continue
    assert right > 0


def test_a_scene_over_the_network_still_reads_what_the_files_hold(catalog, tmp_path):
    with Loopback(catalog) as running:
        found = find(running.url("catalog.json"), limit=1)
        assert scene_of(found, tmp_path / "list.json").layers[0].frames[0].bands["B02"].kind == "file"
