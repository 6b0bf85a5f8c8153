"""What is shown of a scene: clear shares, units, grids, and a contact sheet."""

import datetime as dt
import io
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rich.console import Console

from agrifm.errors import Unreadable
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.quality import Quality
from agrifm.scenes.quicklook import read_thumbnails, show
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.scenes.units import Units
from agrifm.sensors import LANDSAT, S2

ROWS, COLUMNS = 170, 131  # no multiple of what a coarse look averages
COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12")


def write(path, array, gsd, crs="EPSG:32631"):
    profile = {"driver": "GTiff", "height": array.shape[-2], "width": array.shape[-1], "crs": crs}
    profile["transform"] = from_origin(500_000, 4_800_000, gsd, gsd)
    with rasterio.open(path, "w", count=1, dtype=array.dtype, **profile) as file:
        file.write(array, 1)
    return FileBand(str(path), 1)


def frame(folder, name, day, sensor, clear=None, rows=slice(None), level=800):
    """A frame with data in some rows and, if given, a mask."""
    bands = {}
    for band in sensor.bands:
        gsd = 20 if band.id in COARSE and sensor is S2 else sensor.gsd
        shape = -(-ROWS * 10 // gsd), -(-COLUMNS * 10 // gsd)
        image = np.full(shape, sensor.nodata, np.int16)
        image[rows] = level + np.arange(shape[1], dtype=np.int16)
        one = write(folder / f"{name}_{band.id}.tif", image, gsd)
        bands[band.id] = replace(one, nodata=sensor.nodata)
    quality = None
    if clear is not None:
        quality = Quality(write(folder / f"{name}_mask.tif", clear.astype(np.uint8), 10), "mask")
    return Frame(name, dt.date.fromisoformat(day), bands, quality, Units(1e-4, 0.0, "baseline 02.06 [test]"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Four dates of Sentinel-2 (whole, half clouded, empty, two frames of one day) and one of Landsat."""
    folder = tmp_path_factory.mktemp("scene")
    half = np.ones((ROWS, COLUMNS), bool)
    half[:, : COLUMNS // 2] = False
    nowhere = slice(0, 0)
    long = "S2A_MSIL2A_20180310T105031_N0206_R051_T31TEJ_20180310T160234"
    frames = (
        frame(folder, long, "2018-03-10", S2, np.ones_like(half)),
        frame(folder, "half", "2018-04-18", S2, half),
        frame(folder, "empty", "2018-05-20", S2, np.ones_like(half), rows=nowhere),
        replace(frame(folder, "north", "2018-06-01", S2, rows=slice(0, 34)), units=Units(1e-4, -0.1, "baseline 05.09")),
        frame(folder, "south", "2018-06-01", S2, rows=slice(34, None)),
    )
    landsat = frame(folder, "l8", "2018-04-02", LANDSAT)
    grid = frames[0].bands["B02"].grid()
    return Scene((Layer(S2, frames), Layer(LANDSAT, (landsat,))), grid, "farm", skipped=("broken.tif",))


def shown_text(scene, picture=None, width=120):
    console = Console(file=io.StringIO(), record=True, width=width)
    show(scene, picture, console)
    return console.export_text()


def test_clear_shares_are_parts_of_the_footprint(scene):
    thumbnails = read_thumbnails(scene, Console(quiet=True))
    shares = {sensor: [thumbnail.clear_share for thumbnail in series] for sensor, series in thumbnails.items()}
    assert shares["S2"][0] == 1.0
    assert shares["S2"][1] == pytest.approx(0.5, abs=0.02)
    assert shares["S2"][2] == 0.0
    # The upper fifth of the bands at 10 m, beside the frame that has the rest.
    assert shares["S2"][3] == pytest.approx(1.0, abs=0.02)
    assert shares["Landsat"] == [1.0]


def test_what_is_shown(scene):
    text = shown_text(scene)
    assert "farm: 170 x 131 pixels of 10 m, 2.23 km2, EPSG:32631 (WGS 84 / UTM zone 31N)" in text
    assert "S2: 4 dates" in text
    assert "S2A_MSIL2A_20180310T105031_N0..." in text
    assert "north and 1 more" in text
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert [rows[day].split()[-3:-1] for day in ("2018-03-10", "2018-04-18", "2018-05-20")] == [
        ["100", "%"],
        ["51", "%"],
        ["0", "%"],
    ]
    assert "bands: B02 B03 B04 B08 B05 B06 B07 B8A B11 B12" in text
    assert "reflectance = stored x 0.0001; baseline 02.06 [test] (4 of 5 products)" in text
    assert "reflectance = stored x 0.0001 - 0.1; baseline 05.09 (1 of 5 products)" in text
    assert "clear: mask: a mask in which 0 means not seen (3 of 5 products)" in text
    assert "no quality layer" in text
    assert "10 m: B02 B03 B04 B08; 20 m: B05 B06 B07 B8A B11 B12" in text
    assert "left out: broken.tif" in text


def colors(path):
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def test_the_picture_appears_whole_and_veils_what_was_not_clear(scene, tmp_path):
    text = shown_text(scene, tmp_path / "new" / "look.png")
    assert "picture:" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["look.png"]
    image = colors(tmp_path / "new" / "look.png")
    assert (abs(image - 230) < 2).all(-1).mean() > 0.02  # the empty date
    blue = image[..., 2] - image[..., 0] > 25
    assert 0.01 < blue.mean() < 0.2  # half a date
    clear = replace(scene, layers=(Layer(S2, scene.layers[0].frames[:1]),))
    shown_text(clear, tmp_path / "clear.png")
    image = colors(tmp_path / "clear.png")
    assert not (image[..., 2] - image[..., 0] > 25).any()


def test_a_scene_that_saw_nothing_can_be_drawn(scene, tmp_path):
    empty = replace(scene, layers=(Layer(S2, scene.layers[0].frames[2:3]),))
    assert "0 %" in shown_text(empty, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_of_many_dates_the_clearest_of_their_time_are_drawn(scene, tmp_path, monkeypatch):
    drawn = []
    whole, _, empty = scene.layers[0].frames[:3]
    days = [dt.date(2018, 1, 1) + dt.timedelta(10 * i) for i in range(24)]
    frames = tuple(replace(whole if i % 2 else empty, day=day, name=f"{i}") for i, day in enumerate(days))
    monkeypatch.setattr("agrifm.scenes.quicklook._stretch", lambda thumbnails: drawn.extend(thumbnails) or [])
    shown_text(replace(scene, layers=(Layer(S2, frames),)), tmp_path / "many.png")
    assert len(drawn) == 12
    assert all(thumbnail.clear_share == 1 for thumbnail in drawn)


def test_a_file_that_cannot_be_read_is_named_and_no_picture_appears(scene, tmp_path):
    whole = scene.layers[0].frames[0]
    gone = replace(whole, bands={**whole.bands, "B04": FileBand(str(tmp_path / "gone.tif"))})
    with pytest.raises(Unreadable, match=r"gone\.tif"):
        shown_text(replace(scene, layers=(Layer(S2, (gone,)),)), tmp_path / "look.png")
    assert list(tmp_path.iterdir()) == []
