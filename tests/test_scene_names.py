"""How files of scenes are named, found and described: dates, products, patterns, folders, scene.yaml."""

import datetime as dt
import os
import random
import re
import shlex
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import rasterio.warp
import xarray as xr
import yaml
from rasterio.enums import ColorInterp
from test_scene_files import DAYS, OLI, band_files, cube, refused, stored, write

from agrifm.errors import InputError, Unreadable
from agrifm.opening import open_scene
from agrifm.scenes.discovery.files import split_path
from agrifm.scenes.document import scene_from_dict, scene_to_dict
from agrifm.scenes.naming.dates import days_in, product_of
from agrifm.scenes.naming.patterns import MAX_STEPS, NamePattern, _Matcher
from agrifm.scenes.naming.products import scheme_of_pattern
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, S2

PRODUCT = "S2A_MSIL2A_20180508T104031_N0500_R008_T31TEJ_20230715T135351"
MAY = dt.date(2018, 5, 8)


def band_files_small(root, form, bands=S2.band_ids, **more):
    """Files of 2 x 2 pixels for one date, which stands in the form."""
    return band_files(root, form, bands, ["20180508"], size=20, **more)


def days(path, *overrides):
    return open_scene(path, overrides).layers[0].days


# Dates


@pytest.mark.parametrize(
    "form",
    [
        f"{PRODUCT}.tif",
        f"{PRODUCT.lower()}_clip.tif",
        "LC08_L2SP_198030_20180508_20230715_02_T1.tif",
        "LC08_CU_005009_20180508_20230715_02_V01_SR.tif",
        "LC081980302018050801T1-20230715.tif",
        "export_LC81980302018128LGN00_20230715.tif",
        "MOD09A1.A2018128.h18v04.061.2023196030442_20230715.tif",
    ],
)
def test_the_acquisition_wins_over_other_dates_of_a_product(tmp_path, form):
    write(tmp_path / "x" / form, names=S2.band_ids, size=20)
    assert days(tmp_path / "x", "sensor=S2", "scale=1", "offset=0") == (MAY,)


@pytest.mark.parametrize(
    "pattern", ["*_{date}*_{band}.tif", "*{date}T*_{band}.tif", "{any}{date}{any}T??????_{band}.tif"]
)
def test_a_pattern_that_fits_two_dates_takes_the_acquisition(tmp_path, pattern):
    band_files_small(tmp_path, f"{PRODUCT}_{{band}}.tif")
    assert days(tmp_path, f"pattern={pattern}", "sensor=S2") == (MAY,)


def test_names_with_several_dates_are_refused_with_both(tmp_path):
    write(tmp_path / "a" / "mosaic_20180508_20180607.tif", names=S2.band_ids, size=20)
    text = refused(tmp_path / "a")
    assert "2018-05-08, 2018-06-07" in text
    # The repair that is printed, followed literally.
    assert "--set pattern='{any}_{date}.tif'" in text
    assert days(tmp_path / "a", "pattern={any}_{date}.tif") == (dt.date(2018, 6, 7),)
    band_files_small(tmp_path / "b", f"{PRODUCT}_{{band}}.tif")
    text = refused(tmp_path / "b", "pattern={any}T31TEJ_{date}T135351_{band}.tif", "sensor=S2")
    assert "2023-07-15" in text
    assert "2018-05-08" in text


def test_the_folder_of_a_product_says_when_it_was_acquired(tmp_path):
    band_files_small(tmp_path, f"{PRODUCT}.SAFE/{{band}}.tif")
    pattern = "pattern={any}_{date}T{any}/{band}.tif"
    assert days(tmp_path, pattern) == (MAY,)
    band_files_small(tmp_path / "x", f"{PRODUCT}.SAFE/20230715_{{band}}.tif")
    text = refused(tmp_path / "x")
    assert "2023-07-15" in text
    assert "acquired on 2018-05-08" in text


def test_numbers_of_seven_digits_are_dates_only_where_nothing_else_is():
    assert days_in("field_2015123_20180508.tif") == (MAY,)
    assert days_in("field_2018128.tif") == (MAY,)
    assert days_in("20181345_٢٠١٨٠٥٠٨_1.tif") == ()
    assert product_of(["B04.tif", f"{PRODUCT}.SAFE", "images"]).others == (dt.date(2023, 7, 15),)


@pytest.mark.parametrize(
    ("form", "time"),
    [
        ("20180508T105031_{band}_10m.tif", "20180508T105031"),
        ("2018-05-08T10:50:31Z_{band}.tif", "2018-05-08T10:50:31Z"),
        ("2018-05-08T10-50-31.123Z_{band}_R10m.tif", "2018-05-08T10-50-31.123Z"),
        ("20180508_105031_{band}.tif", "20180508_105031"),
    ],
)
@pytest.mark.parametrize("lower", [False, True])
def test_times_and_lower_case(tmp_path, form, time, lower):
    form = form.lower().replace("{band}", "{band}") if lower else form
    names = [band.lower() if lower else band for band in (*S2.band_ids, "SCL")]
    band_files_small(tmp_path / "x", form, names)
    scene = open_scene(tmp_path / "x")
    assert scene.layers[0].days == (MAY,)
    assert stored(scene, S2) == list(range(1, 11))
    frame = scene.layers[0].frames[0]
    assert frame.quality.rule == "SCL"
    assert frame.name.lower() == time.lower()


def test_two_looks_of_a_day_are_told_apart_by_their_time(tmp_path):
    band_files_small(tmp_path, "20180508T105031_{band}.tif")
    band_files_small(tmp_path, "20180508T105046_{band}.tif")
    assert len(open_scene(tmp_path).layers[0].frames) == 2


def test_lower_case_keeps_baseline_and_quality(tmp_path):
    band_files_small(tmp_path, f"{PRODUCT.lower()}.safe/r10m/t31tej_20180508t104031_b02_10m.tif", ("b02",))
    for band in ("b03", "b04", "b08"):
        band_files_small(tmp_path, f"{PRODUCT.lower()}.safe/r10m/t31tej_20180508t104031_{band}_10m.tif", (band,))
    for band in (*S2.band_ids[4:], "SCL"):
        name = f"{PRODUCT.lower()}.safe/r20m/t31tej_20180508t104031_{band.lower()}_20m.tif"
        band_files_small(tmp_path, name, (band,), meters=20)
    units = open_scene(tmp_path).layers[0].frames[0].units
    assert (units.offset, units.source) == (-0.1, "baseline 05.00")
    write(tmp_path / "y" / "20180508_SCL.tif", size=20)
    write(tmp_path / "y" / "20180607_scl.tif", size=20)
    band_files(tmp_path / "y", "{date}_{band}.tif", days=["20180508", "20180607"], size=20)
    assert len(days(tmp_path / "y")) == 2


@pytest.mark.parametrize(
    "form",
    [
        "2018-05-08-00:00_2018-05-08-23:59_Sentinel-2_L2A_{band}_(Raw).tiff",
        "2018-05-08-00_00_2018-05-08-23_59_Sentinel-2_L2A_{band}_(Raw).tiff",
        "2018-05-08T00꞉00_2018-05-08T23꞉59_sentinel-2_l2a_{band}.tif",
    ],
)
def test_names_of_the_copernicus_browser(tmp_path, form):
    band_files_small(tmp_path, form, (*S2.band_ids, "SCL"))
    write(tmp_path / form.format(band="True_color"), size=20)
    scene = open_scene(tmp_path)
    assert (scene.sensors, scene.layers[0].days) == ((S2,), (MAY,))
    assert scene.layers[0].frames[0].quality.rule == "SCL"


def test_copernicus_browser_periods_levels_and_real_numbers(tmp_path):
    form = "{}-00:00_{}-23:59_Sentinel-2_{}_{{band}}_(Raw).tiff"
    band_files_small(tmp_path / "a", form.format("2018-05-01", "2018-05-08", "L2A"))
    assert "2018-05-01, 2018-05-08" in refused(tmp_path / "a")
    band_files_small(tmp_path / "b", form.format("2018-05-08", "2018-05-08", "L1C"))
    assert "top of atmosphere" in refused(tmp_path / "b")
    band_files_small(tmp_path / "c", form.format("2018-05-08", "2018-05-08", "L2A"), dtype="float32")
    assert open_scene(tmp_path / "c").layers[0].frames[0].units.scale == 1


def test_granules_with_a_prefix(tmp_path):
    band_files_small(tmp_path, "L2A_T31TEJ_20180508T104021_{band}_10m.tif", S2.band_ids[:4])
    band_files_small(tmp_path, "L2A_T31TEJ_20180508T104021_{band}_20m.tif", S2.band_ids[4:], meters=20)
    assert days(tmp_path) == (MAY,)


# Metadata of Sentinel-2 products

METADATA = """<?xml version="1.0"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
 <PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
 <QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">{scale}</BOA_QUANTIFICATION_VALUE>
 </QUANTIFICATION_VALUES_LIST><BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>
</n1:Level-{level}_User_Product>"""


def offsets(value, odd=None):
    lines = [f'<BOA_ADD_OFFSET band_id="{i}">{value}</BOA_ADD_OFFSET>' for i in range(13)]
    return "".join(lines if odd is None else [*lines[:3], lines[3].replace(str(value), str(odd)), *lines[4:]])


def with_metadata(root, level="2A", baseline="05.10", scale=10000, offsets="", name="MTD_MSIL{}.xml", text=None):
    band_files_small(root, "july/{band}_20180508.tif")
    text = text or METADATA.format(level=level, baseline=baseline, scale=scale, offsets=offsets)
    (root / "july" / name.format(level)).write_text(text)
    return open_scene(root, ["pattern={any}/{band}_{date}.tif"]).layers[0].frames[0].units


@pytest.mark.parametrize(
    ("settings", "scale", "offset"),
    [
        ({"offsets": offsets(-1000)}, 1e-4, -0.1),
        ({"offsets": offsets(-500), "scale": 20000, "baseline": "99.99"}, 5e-5, -0.025),
        ({"offsets": offsets(0), "baseline": "nonsense"}, 1e-4, 0),
        ({"baseline": "5.10"}, 1e-4, -0.1),
        ({"baseline": "4.0"}, 1e-4, -0.1),
        ({"baseline": "02.14", "name": "mtd_msil2a.xml"}, 1e-4, 0),
    ],
)
def test_metadata_give_scale_and_offset_under_a_users_pattern(tmp_path, settings, scale, offset):
    units = with_metadata(tmp_path, **settings)
    assert (units.scale, units.offset) == pytest.approx((scale, offset))


def test_level_1c_is_refused_by_metadata_folder_and_file(tmp_path):
    with pytest.raises(InputError, match="top of atmosphere is no surface"):
        with_metadata(tmp_path / "a", level="1C")
    with pytest.raises(InputError, match="top of atmosphere is no surface"):
        with_metadata(tmp_path / "b", level="1C", name="MTD_MSIL2A.xml")
    top = PRODUCT.replace("L2A", "L1C")
    band_files_small(tmp_path / "c", f"{top}.SAFE/GRANULE/L1C_T31TEJ_A015/IMG_DATA/T31TEJ_20180508T104031_{{band}}.tif")
    assert "top of atmosphere" in refused(tmp_path / "c")
    assert "top of atmosphere" in refused(tmp_path / "c", "pattern=T{tile}_{date}T{any}_{band}.tif")
    band_files_small(tmp_path / "d", f"{top}_{{band}}.tif")
    assert "top of atmosphere" in refused(tmp_path / "d", "pattern=*{date}*_{band}.tif")
    toa = "LC08_L1TP_198030_20180508_20200101_02_T1_{band}.TIF"
    band_files_small(tmp_path / "e", toa, ["B2", "B3", "B4", "B5", "B6", "B7"], meters=10)
    assert "top of atmosphere" in refused(tmp_path / "e")


def test_level_1c_beside_level_2a_is_left_out_where_it_is_the_same_date(tmp_path):
    band_files_small(tmp_path, "20180508_{band}.tif")
    write(tmp_path / "S2A_MSIL1C_20180508T104021.SAFE" / "T31TEJ_20180508T104021_B02.jp2", size=20)
    assert days(tmp_path) == (MAY,)
    write(tmp_path / "S2A_MSIL1C_20180607T104021.SAFE" / "T31TEJ_20180607T104021_B02.jp2", size=20)
    assert "the only image of 2018-06-07" in refused(tmp_path)
    assert len(open_scene(tmp_path, skip_unreadable=True).skipped) == 1


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x><PROCESSING_BASELINE>&b;</PROCESSING_BASELINE></x>'
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><x><PROCESSING_BASELINE>&a;</PROCESSING_BASELINE></x>'


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        FILE,
        "<x><PROCESSING_BASELINE>05.00",
        "not XML",
        "<a>" * 100_000,
        METADATA.format(level="2A", baseline="05.00", scale="many", offsets=""),
        METADATA.format(level="2A", baseline="05.00", scale=0, offsets=""),
        METADATA.format(level="2A", baseline="05.00", scale=10000, offsets=offsets("nan")),
        METADATA.format(level="2A", baseline="five", scale=10000, offsets=""),
        METADATA.format(level="2A", baseline="05.00", scale=10000, offsets=offsets(-1000, odd=0)),
    ],
)
def test_metadata_that_cannot_be_used_are_a_sentence(tmp_path, text):
    with pytest.raises(InputError) as caught:
        with_metadata(tmp_path, text=text)
    assert caught.value.repair
    settings = ["pattern={any}/{band}_{date}.tif", "scale=0.0001", "offset=-0.1"]
    if text.startswith("<?xml"):  # the numbers are wrong, and not needed any more
        assert open_scene(tmp_path, settings).layers[0].frames[0].units.offset == -0.1


def test_an_offset_of_a_single_date_replaces_that_of_an_unknown_baseline(tmp_path):
    text = METADATA.format(level="2A", baseline="five", scale=10000, offsets="")
    with pytest.raises(InputError, match="which is no version"):
        with_metadata(tmp_path, text=text)
    settings = ["pattern={any}/{band}_{date}.tif", "offsets={2018-05-08: -0.1}"]
    assert open_scene(tmp_path, settings).layers[0].frames[0].units.offset == -0.1


def test_units_of_the_file_and_real_numbers_go_before_the_name_of_the_product(tmp_path):
    form = f"{PRODUCT}/20180508_{{band}}.tif"
    band_files_small(tmp_path / "a", form)
    assert open_scene(tmp_path / "a").layers[0].frames[0].units.offset == -0.1
    band_files_small(tmp_path / "b", form, dtype="float32")
    assert open_scene(tmp_path / "b").layers[0].frames[0].units.offset == 0
    for path in (tmp_path / "a").rglob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (1e-4,), (0.25,)
    assert open_scene(tmp_path / "a").layers[0].frames[0].units.offset == 0.25


# Patterns


def test_printed_repairs_work_when_they_are_followed(tmp_path):
    """Every ``--set`` of a message, given as a shell gives it."""
    band_files(tmp_path / "a", "x/{date}_{band}_10.tif", days=DAYS[:1], size=20)
    for path in (tmp_path / "a" / "x").iterdir():
        path.rename(path.with_name(f"p{path.name}"))
    text = refused(tmp_path / "a")
    options = settings_in(text)
    assert options == ["pattern={date}_{band}_{res}.tif"]
    adapted = options[0].replace("{date}", "p{date}")
    for spelling in (adapted, adapted.replace("p{", "'p{") + "'", f'pattern="{adapted[8:]}"'):
        assert stored(open_scene(tmp_path / "a", [spelling]), S2) == list(range(1, 11))
    assert settings_in(refused(tmp_path / "a", "pattern={band}.tif"))[0] == "pattern={date}_{band}_{res}.jp2"
    write(tmp_path / "b" / "s_20180508.tif", names=[None] * 8, size=20)
    (positions,) = settings_in(refused(tmp_path / "b", "bands=[B02, B03]"))
    assert "B04" in refused(tmp_path / "b", positions, "sensor=S2")  # the next band that is missing
    band_files_small(tmp_path / "c", "{band}_20180508.tif", ("VV", "VH"))
    options = settings_in(refused(tmp_path / "c", "pattern={band}_{date}.tif"))
    assert "bands={name in the files: band id}" in options


def settings_in(text):
    """The settings that a message advises."""
    words = shlex.split(re.sub(r"(\s)'--set ([^']*)'", r"\1--set \2", text.partition("repair:")[2]).rstrip(".,;"))
    found = [word for before, word in pairwise(words) if before == "--set"]
    return [word.rstrip(".,;") if not word.endswith(("tif.", "jp2,")) else word[:-1] for word in found]


def test_units_quality_and_crs_that_messages_advise(tmp_path):
    band_files_small(tmp_path / "a", "20180508_{band}.tif", (*S2.band_ids, "SCL", "mask"))
    (setting,) = settings_in(refused(tmp_path / "a"))
    assert open_scene(tmp_path / "a", [setting]).layers[0].frames[0].quality.rule == "SCL"
    with rasterio.open(tmp_path / "a" / "20180508_B02.tif", "r+") as file:
        file.scales, file.offsets = (2e-4,), (-0.2,)
    settings = settings_in(refused(tmp_path / "a", setting))
    assert open_scene(tmp_path / "a", [setting, *settings]).layers[0].frames[0].units.scale == 2e-4
    write(tmp_path / "b" / "s_20180508.tif", names=S2.band_ids, crs="EPSG:4326", corner=(3, 43), pixel=1e-4, size=1e-3)
    for setting in settings_in(refused(tmp_path / "b")):
        assert open_scene(tmp_path / "b", [setting]).layers


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{date}_{band}_{res}.tif", "20180508_B04_10m.tif", {"band": "B04", "res": "10"}),
        ("{date}_{band}_{res}.tif", "a/2018-05-08_B04_clip_R2.5m.TIF", {"band": "B04_clip", "res": "2.5"}),
        ("{tile}/{tile}_{date}_{band}.tif", "T31/T31_20180508_B04.tif", {"tile": "T31"}),
        ("{tile}/{tile}_{date}_{band}.tif", "T31/T32_20180508_B04.tif", None),
        ("*_{date}?{band}.*", "a_20180508-B04.jp2", {"band": "B04"}),
        ("./{any}{date}*.tif", "20180508.tif", {}),
        ("été_{date}.tif", "e\u0301te\u0301_20180508.tif", {}),
        ("{date}*_{band}.tif", "20180508T104031_B04.tif", {"time": "104031", "band": "B04"}),
        ("{date}T{any}_{band}.tif", "20180508T104031_B04.tif", {"band": "B04"}),
        ("{date}_{any}_{band}.tif", "20180508_198030_SR_B4.tif", {"band": "SR_B4"}),
        ("{date}.tif", "20181345.tif", None),
        ("[a]+({date}).tif", "[a]+(20180508).tif", {}),
    ],
)
def test_patterns(pattern, name, expected):
    found = scheme_of_pattern(pattern).pattern.match(name)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert expected.items() <= found.items()


def test_patterns_agree_with_regular_expressions():
    """Seeded pieces, and the translation to a regular expression as an oracle."""
    rng = random.Random(5)
    forms = {
        "*": "[^/]*",
        "?": "[^/]",
        "{any}": "[^/]*?",
        "{band}": "(?P<band>[^/]+?)",
        "{tile}": "(?P<tile>[A-Za-z0-9]+)",
    }
    again = {"{band}": "(?P=band)", "{tile}": "(?P=tile)"}
    for _ in range(400):
        tokens = [rng.choice([*forms, "_", "a", "/", "B0"]) for _ in range(rng.randrange(1, 6))]
        at = rng.randrange(len(tokens) + 1)
        tokens[at:at] = ["{date}"]
        expression, seen = "", set()
        for token in tokens:
            if token == "{date}":
                expression += r"(?<!\d)(?P<date>20180508)(?!\d)"
            else:
                expression += again[token] if token in seen and token in again else forms.get(token, re.escape(token))
            seen.add(token)
        pattern = NamePattern.of("".join(tokens).lstrip("/"))
        oracle = re.compile(f"(?:.*/)?{expression.lstrip('/')}", re.IGNORECASE)
        for _ in range(5):
            name = "".join(rng.choice(["a", "_", "B04", "/", "b0", "x"]) for _ in range(rng.randrange(6))) + "20180508"
            name += "".join(rng.choice(["a", "_", "B04", "b0", "/"]) for _ in range(rng.randrange(6)))
            match, found = oracle.fullmatch(name), pattern.match(name)
            assert (match and match.groupdict()) == found, (tokens, name)


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 40 + "{date}.tif",
        "{any}_" * 40 + "{date}.tif",
        "{band}" * 40 + "{date}x",
        "{tile}" * 30 + "{date}{sensor}{res}x",
        "?*" * 60 + "{date}",
        "*{band}*{tile}*{band}*{tile}*{date}x",
    ],
)
def test_no_pattern_tries_without_end(pattern):
    name = "a_" * 100 + "20180508.tif"
    matcher = _Matcher(scheme_of_pattern(pattern).pattern, name)
    with suppress(InputError):
        matcher.run()
    assert matcher.steps <= MAX_STEPS + 1


@pytest.mark.parametrize("pattern", ["../{date}_{band}.tif", "/etc/{date}", "a/../../{date}.tif", "{date}" * 300])
def test_patterns_that_lead_outside_or_are_endless_are_refused(tmp_path, pattern):
    band_files_small(tmp_path / "x", "20180508_{band}.tif")
    assert refused(tmp_path / "x", f"pattern={pattern}")


def test_folders_whose_names_look_like_patterns(tmp_path):
    root = band_files_small(tmp_path / "fields {2018} *?", "20180508_{band}.tif")
    assert days(root) == (MAY,)
    assert split_path(root / "{date}_*.tif", None) == (root, "{date}_*.tif")


# Folders


def test_links_in_circles_end_and_equal_files_count_once(tmp_path):
    root = band_files_small(tmp_path / "x", "a/20180508_{band}.tif")
    for name in ("loop", "other"):
        (root / "a" / name).symlink_to(root)
        (root / name).symlink_to(root / "a")
    (root / "itself").symlink_to(root / "itself")
    scene = open_scene(root)
    assert len(scene.layers[0].frames) == 1
    assert stored(scene, S2) == list(range(1, 11))
    assert len(open_scene(root, ["pattern={tile}/{date}_{band}.tif"]).layers[0].frames) == 1


def test_one_quality_layer_may_be_linked_under_several_dates(tmp_path):
    band_files(tmp_path, "{date}_{band}.tif", size=20)
    write(tmp_path / "clouds.tif", 4, size=20)
    for date in DAYS:
        (tmp_path / f"{date}_SCL.tif").symlink_to(tmp_path / "clouds.tif")
    assert [frame.quality.rule for frame in open_scene(tmp_path).layers[0].frames] == ["SCL", "SCL"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["20180508_B04.tif", "S2_20180508.nc", "20180508_B02.tif.aux.xml", "20180508_B02.msk"])
def test_pipes_and_devices_do_not_hang(tmp_path, name):
    band_files_small(tmp_path / "x", "20180508_{band}.tif")
    (tmp_path / "x" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "x" / name)
    assert "a pipe, a device or a socket" in refused(tmp_path / "x", kind=Unreadable)
    (tmp_path / "x" / name).unlink()
    (tmp_path / "x" / name).symlink_to("/dev/zero")
    assert "a pipe, a device or a socket" in refused(tmp_path / "x", kind=Unreadable)
    os.mkfifo(tmp_path / "scene.yaml")
    assert "no such file" in refused(tmp_path / "scene.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull")],
)
def test_empty_files_and_pointers_have_sentences_of_their_own(tmp_path, content, message):
    band_files(tmp_path, size=20)
    (tmp_path / f"{DAYS[0]}_B04_10m.tif").write_bytes(content)
    assert message in refused(tmp_path, kind=Unreadable)
    assert len(open_scene(tmp_path, skip_unreadable=True).layers[0].days) == 1


@pytest.mark.parametrize("named", [True, False])
def test_an_alpha_band_is_no_band(tmp_path, named):
    names = [*(S2.band_ids if named else [None] * 10), None]
    path = write(tmp_path / "s_20180508.tif", names=names, size=20)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*[ColorInterp.undefined] * 10, ColorInterp.alpha]
    for settings in ([], [f"bands=[{', '.join(S2.band_ids)}]"], [f"bands=[{', '.join(S2.band_ids)}, x]"]):
        assert stored(open_scene(tmp_path, settings), S2) == list(range(1, 11))


def opened(path, *overrides):
    """The scene, or the text of the refusal."""
    try:
        return open_scene(path, overrides), "-"
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize(
    "odd",
    [
        "con",
        "a\nb",
        "\x1b[31mred",
        "e\u0301t\u00e9",
        "x" * 180,
        "%s{0}$(rm)",
        b"\xff\xfe".decode("utf-8", "surrogateescape"),
    ],
)
def test_odd_names_are_read_or_refused(tmp_path, odd):
    root = tmp_path / odd.replace("{", "(")
    for path in band_files_small(tmp_path / "x", "20180508_{band}.tif").iterdir():
        root.mkdir(exist_ok=True)
        path.rename(root / path.name)
    found, text = opened(root)
    assert found is None or found.layers[0].days == (MAY,)
    assert "\x1b" not in text
    assert text.encode()


def test_thousands_of_files_are_sorted_without_squares(tmp_path, monkeypatch):
    """Each name is looked at a few times, however many there are."""
    calls = 0
    source = write(tmp_path / "x.tif", size=20)
    dates = [f"2015-{i % 12 + 1:02d}-{i + 1:02d}" for i in range(24)]
    for date in sorted(set(dates)):
        for band in S2.band_ids:
            (tmp_path / f"{date}_{band}.tif").symlink_to(source)
    from agrifm.scenes.discovery import frames

    original = frames.FrameBuilder._missing_bands

    def count_calls(self, sensor, observation, alike):
        nonlocal calls
        calls += 1
        return original(self, sensor, observation, alike)

    monkeypatch.setattr(frames.FrameBuilder, "_missing_bands", count_calls)
    scene = open_scene(tmp_path)
    assert calls == len(scene.layers[0].frames) == len(set(dates))


# Cubes


def one_date(path, bands, **more):
    """A cube without a time axis."""
    whole = cube(path.with_name("whole.nc"), bands, days=DAYS[:1], **more)
    with xr.open_dataset(whole, engine="h5netcdf", mask_and_scale=False) as file:
        flat = file.load().isel(timestamp=0)
    whole.unlink()
    return flat


def test_one_cube_for_each_date(tmp_path):
    flat = one_date(tmp_path / "x.nc", S2.band_ids)
    for date in ("2018-01-05", "2018-02-07"):
        flat.assign_coords(timestamp=np.datetime64(date, "ns")).to_netcdf(
            tmp_path / f"{date[5:]}.nc", engine="h5netcdf"
        )
    scene = open_scene(tmp_path, ["sensor=S2"])
    assert scene.layers[0].days == (dt.date(2018, 1, 5), dt.date(2018, 2, 7))
    assert stored(scene, S2) == list(range(1, 11))
    named = tmp_path / "named"
    named.mkdir()
    for name in ("S2_20180508.nc", "S2_2018-06-07.nc", "labels_20180101_20181231.nc"):
        data = flat.drop_vars("timestamp")
        data = data[["B02"]].rename(B02="LC") if "labels" in name else data
        data.to_netcdf(named / name, engine="h5netcdf")
    assert days(named) == (MAY, dt.date(2018, 6, 7))
    assert days(named, "pattern=S2_{date}.nc") == (MAY, dt.date(2018, 6, 7))
    (named / "S2_20180508.nc").rename(named / "S2_20180508_20180509.nc")
    assert "2018-05-08, 2018-05-09" in refused(named)


@pytest.mark.parametrize("where", [(3.0, 43.0), (151.2, -33.9)])
@pytest.mark.parametrize("n", [3, 200])
def test_degrees_in_single_precision(tmp_path, where, n):
    step = 1e-4
    y, x = where[1] - step * (np.arange(n) + 0.5), where[0] + step * (np.arange(n) + 0.5)
    values = {band: (("time", "lat", "lon"), np.ones((1, n, n), "uint16")) for band in S2.band_ids}
    times = [np.datetime64("2018-05-08", "ns")]
    data = xr.Dataset(values, {"time": times, "lat": y.astype("f4"), "lon": x.astype("f4")})
    data.to_netcdf(tmp_path / "S2.nc", engine="h5netcdf")
    scene = open_scene(tmp_path / "S2.nc", ["crs=4326", "sensor=S2"])
    grid = scene.grid.boundingbox
    expected = [where[0], where[1] - n * step, where[0] + n * step, where[1]]
    # Half a unit in the last place of degrees, less where the line goes through many.
    assert [grid.left, grid.bottom, grid.right, grid.top] == pytest.approx(expected, abs=0.3 * step)
    assert scene.grid.shape == (n, n)


@pytest.mark.parametrize(
    ("attribute", "value", "fine"),
    [
        ("calendar", "360_day", False),
        ("calendar", "noleap", False),
        ("calendar", "gregorian", True),
        ("units", "days since nonsense", False),
        ("units", "fortnights since 2018-01-01", False),
        ("units", "days since 2018-01-01T00:00:00+99:00", False),
    ],
)
def test_times_of_other_calendars_and_units(tmp_path, attribute, value, fine):
    import h5py

    path = cube(tmp_path / "S2.nc", S2.band_ids)
    with h5py.File(path, "r+") as file:
        file["timestamp"].attrs[attribute] = value
    if fine:
        assert len(days(path)) == 2
    else:
        assert refused(path)


# Descriptions


def test_dates_and_numbers_of_the_wrong_type_are_refused(tmp_path):
    band_files(tmp_path / "a", size=20)
    path = tmp_path / "scene.yaml"

    def text(**more):
        path.write_text(yaml.safe_dump({"sources": [{"path": "a"}]} | more))
        return path

    assert len(days(text(start=20180106))) == 1  # not seconds since 1970
    for key, value in {
        "start": 86400,
        "resolution": float("inf"),
        "crs": "EPSG:4978",
        "bbox": [4, 43, 5],
        "sources": [{"path": "a", "scale": True}],
        "aoi": "\0",
    }.items():
        assert key in refused(text(**{key: value}))
    for source in (
        {"scale": float("inf")},
        {"offset": float("nan")},
        {"bands": {"a": "B02", "b": "B02"}},
        {"bands": {"a": {"b": 1}}},
        {"bands": [[1]]},
    ):
        assert next(iter(source)) in refused(text(sources=[{"path": "a", **source}]))
    for sources in (5, "abc", [1], [None], [], {"path": "a"}, [["path"]]):
        assert "sources" in refused(text(sources=sources))
        assert refused(text(sources=sources), "scale=1")
    assert "crs" in refused(text(), "crs=EPSG:5773")
    assert "agrifm scene search" in refused(text(sources=[{"path": "https://example.org/a"}]))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 20_000,
        "a: &a [*a, *a]",
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("bcdefgh", "cdefghi", strict=True)),
        "sources: [{path: a}]\nresolution: " + "9" * 5000,
        "sources: [{path: a}]\nsources: [{path: b}]",
        "sources: !!python/object/apply:os.system [true]",
        "\x00\x01binary",
        "? [1, 2]\n: 3",
        "1: 2",
        "sources:\n\t- path: a",
    ],
)
def test_hostile_descriptions_are_refused(tmp_path, content):
    path = tmp_path / "scene.yaml"
    path.write_text(content)
    assert len(refused(path)) < 3000


def test_a_search_record_of_wrong_types_is_refused(tmp_path):
    from test_scene_files import item, write_json

    band_files(tmp_path / "one", "{band}.tif", days=DAYS[:1], size=20)
    record = {"bbox": "everywhere", "start": {"a": 1}}
    features = [item("2018-01-05", "one")]
    path = write_json(tmp_path / "items.json", {"type": "FeatureCollection", "features": features, "agrifm": record})
    assert "bbox" in refused(path)


def test_areas_that_are_none_are_refused(tmp_path):
    band_files(tmp_path / "a", size=20)
    (tmp_path / "x.geojson").write_text('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}')
    (tmp_path / "y.geojson").write_text("nonsense")
    os.mkfifo(tmp_path / "z.gpkg")
    for name in ("x.geojson", "y.geojson", "z.gpkg", "nowhere.gpkg"):
        assert name in refused(tmp_path / "a", f"aoi={tmp_path / name}")


# 180 degrees

ACROSS = "bbox=179.995,-16.02,-179.995,-16.01"


def test_images_in_degrees_on_both_sides_of_180(tmp_path):
    more = {"crs": "EPSG:4326", "meters": 0.001, "size": 0.02}
    band_files(tmp_path, "{date}_{band}_w.tif", days=DAYS[:1], corner=(179.98, -16), **more)
    band_files(tmp_path, "{date}_{band}_e.tif", days=DAYS[:1], corner=(-180, -16), **more)
    pattern = "pattern={date}_{band}_{tile}.tif"
    text = refused(tmp_path, pattern, "crs=4326")
    assert "both sides of 180 degrees" in text
    (setting,) = settings_in(text)
    scene = open_scene(tmp_path, [pattern, setting, "resolution=100"])
    assert max(scene.grid.shape) < 50
    clear = scene.read(Area(0, 0, *scene.grid.shape)).stacks["S2"].clear
    assert clear.mean() > 0.9
    cut = open_scene(tmp_path, [pattern, setting, "resolution=100", ACROSS])
    assert len(cut.layers[0].frames) == 2
    assert cut.read(Area(0, 0, *cut.grid.shape)).stacks["S2"].clear.all()


def test_images_in_meters_across_180(tmp_path):
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32760", [179.98], [-16])
    root = band_files(tmp_path / "a", crs="EPSG:32760", meters=100, corner=(x, y), size=5000, days=DAYS[:1])
    cut = open_scene(root, [ACROSS])
    assert cut.grid.shape[1] in (11, 12)
    other = open_scene(root, ["crs=32701", "resolution=100"])
    assert other.read(Area(0, 0, *other.grid.shape)).stacks["S2"].clear.mean() > 0.9
    for crs in ("crs=4326", "crs=3857"):
        assert "180 degrees" in refused(root, crs)


def test_longitudes_beyond_180_are_not_lost_in_silence(tmp_path):
    more = {"crs": "EPSG:4326", "meters": 0.001, "size": 0.02, "form": "{date}_{band}.tif"}
    root = band_files(tmp_path, corner=(179.99, -16), days=DAYS[:1], **more)
    assert open_scene(root, ["crs=4326"]).grid.shape == (20, 20)
    assert "beyond 180 degrees" in refused(root, "crs=32701")
    assert "west,south,east,north" in refused(root, "bbox=5,43,4,44", "crs=4326")
    west = band_files(tmp_path / "w", corner=(179.98, -16), days=DAYS[:1], **more)
    assert "across 180 degrees" in refused(west, "crs=4326", ACROSS)


# Scenes in the provenance of maps


def test_a_scene_survives_as_plain_values_and_nonsense_is_refused(tmp_path):
    scene = open_scene(band_files(tmp_path, bands=(*S2.band_ids, "SCL"), size=20))
    values = scene_to_dict(scene)
    assert scene_from_dict(values) == scene
    changes = [
        (("grid", "shape"), [10**9, 10**9]),
        (("grid", "shape"), [True, 2]),
        (("grid", "shape"), 5),
        (("grid", "transform"), [float("nan")] * 6),
        (("grid", "transform"), [1, 2]),
        (("grid", "crs"), "nowhere"),
        (("grid",), None),
        (("layers",), []),
        (("layers",), "x"),
        (("layers", 0, "frames"), []),
        (("layers", 0, "frames", 0, "bands", "B04"), None),
        (("layers", 0, "frames", 0, "day"), "x"),
        (("layers", 0, "frames", 0, "units", "scale"), 0.0),
        (("layers", 0, "frames", 0, "quality", "rule"), "other"),
        (("layers", 0, "frames", 0, "possible", "low"), float("nan")),
        (("layers", 0, "frames", 0, "possible", "high"), float("inf")),
        (("layers", 0, "frames", 0, "possible", "high"), -1.0),
        (("layers", 0, "frames", 0, "possible", "most"), float("nan")),
        (("layers", 0, "sensor", "scale"), float("inf")),
        (("skipped",), 5),
    ]
    for place, value in changes:
        with pytest.raises(InputError, match="provenance"):
            scene_from_dict(changed(values, place, value), "provenance")
    less = scene_to_dict(scene)
    del less["layers"][0]["frames"][1]["bands"]["B04"]
    with pytest.raises(InputError, match="no band B04"):
        scene_from_dict(less, "provenance")
    with pytest.raises(InputError):
        scene_from_dict([], "provenance")


def changed(values, place, value):
    """A copy with another value at one place."""
    if not place:
        return value
    copy = values.copy()
    copy[place[0]] = changed(values[place[0]], place[1:], value)
    return copy


def test_landsat_of_two_dates_in_lower_case(tmp_path):
    form = "lc08_l2sp_198030_20180508_20230715_02_t1_{band}.tif"
    band_files_small(tmp_path, form, [name.lower() for name in OLI], meters=10)
    scene = open_scene(tmp_path)
    assert (scene.sensors, scene.layers[0].days) == ((LANDSAT,), (MAY,))
    assert scene.layers[0].frames[0].bands["B02"].nodata == 0


# Seeded nonsense

WORDS = (
    PRODUCT,
    "20180508",
    "2018-05-08",
    "20230715",
    "B04",
    "b04",
    "_",
    ".",
    "10m",
    "SCL",
    "L1C",
    "é",
    "\n",
    "{date}",
    "*",
)
ENDS = (".tif", ".jp2", ".nc", ".zarr", ".vrt", ".hdf", "")
PATTERNS = (
    None,
    "{date}_{band}_{res}.tif",
    "*{date}*.tif",
    "{any}_{date}_{band}.tif",
    "{date}.nc",
    "*.nc",
    "{",
    "{date}" * 2,
)


def test_random_folders_are_right_or_refused(tmp_path):
    image = write(tmp_path / "image.tif", size=20, names=S2.band_ids)
    contents = (b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x89HDF\r\n\x1a\n", image.read_bytes())
    for seed in range(60):
        rng = random.Random(seed)
        root = tmp_path / f"{seed}"
        root.mkdir()
        for _ in range(rng.randrange(1, 6)):
            name = "".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 5)))
            (root / f"x{name[:200]}{rng.choice(ENDS)}").write_bytes(rng.choice(contents))
        (root / "again").symlink_to(root)
        pattern = rng.choice(PATTERNS)
        settings = [] if pattern is None else [f"pattern={pattern}"]
        scene, text = opened(root, *settings)
        assert scene is not None or "repair" in text


def test_random_descriptions_are_right_or_refused(tmp_path):
    band_files(tmp_path / "a", size=20)
    values = (
        None,
        True,
        -1,
        10**40,
        float("nan"),
        "",
        "\0",
        "../..",
        "/dev/zero",
        [],
        {},
        {1: 2},
        "S2",
        [[1]],
        20180105,
    )
    keys = ("sources", "crs", "resolution", "bbox", "aoi", "start", "end", "reflectance", "impossible", 1, None)
    inner = ("path", "pattern", "sensor", "bands", "quality", "rule", "scale", "offset", "nodata", "other")
    path = tmp_path / "scene.yaml"
    for seed in range(60):
        rng = random.Random(seed)
        source = {"path": "a", rng.choice(inner): rng.choice(values)}
        description = {"sources": [source]}
        if rng.random() < 0.6:
            description[rng.choice(keys)] = rng.choice(values)
        path.write_text(yaml.safe_dump(description))
        scene, text = opened(path)
        assert scene is not None or "repair" in text


def test_random_times_of_cubes_are_right_or_refused(tmp_path):
    import h5py

    units = (
        "days since 2018-01-01",
        "days since x",
        "months since 2018",
        "",
        5,
        b"\xff\xfe",
        "hours since 9999999-01-01",
    )
    calendars = ("standard", "360_day", "noleap", "none", "", 0)
    values = ([0, 31], [31, 0], [0, 0], [np.nan, 1], [2**62, 0], [-(10**9), 5])
    for seed in range(12):
        rng = random.Random(seed)
        path = cube(tmp_path / f"S2_{seed}.nc", S2.band_ids, pixel=60)
        with h5py.File(path, "r+") as file:
            times = file["timestamp"]
            times.attrs["units"] = rng.choice(units)
            times.attrs["calendar"] = rng.choice(calendars)
            times[:] = np.nan_to_num(rng.choice(values), nan=-(2**63) + 1).astype(times.dtype)
        scene, text = opened(path)
        assert scene is not None or "repair" in text
        path.unlink()
