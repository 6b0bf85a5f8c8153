"""The synthetic farmland: deterministic, seamless, plausible, with splits that do not leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agrifm.data.chips import read_chip, read_georeference
from agrifm.errors import InputError
from agrifm.sensors import LANDSAT, MODIS, S2, Band, Sensor
from agrifm.synthetic.chips import CLASSES, Landscape, write_example
from agrifm.synthetic.phenology import BY_COVER, COVERS, MEMBERS, mixture
from agrifm.synthetic.spectra import spectra

ALL = (S2, LANDSAT, MODIS)
SMALL = Landscape(rows=2, columns=3, size=48)


def same(one, other) -> bool:
    """Whether two samples hold the same numbers."""
    groups = ((one.images, other.images), (one.dates, other.dates), (one.valid, other.valid))
    return torch.equal(one.label, other.label) and all(
        a.keys() == b.keys() and all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a) for a, b in groups
    )


def test_the_seed_decides_everything():
    first = SMALL.sample(1, 2, ALL)
    assert same(first, Landscape(rows=2, columns=3, size=48).sample(1, 2, ALL))
    other = Landscape(seed=1, rows=2, columns=3, size=48).sample(1, 2, ALL)
    assert not torch.equal(first.label, other.label)
    assert not np.array_equal(first.images["S2"].numpy(), other.images["S2"].numpy())


def test_a_sensor_looks_the_same_whoever_else_looks():
    alone, together = SMALL.sample(0, 1, (LANDSAT,)), SMALL.sample(0, 1, ALL)
    assert torch.equal(alone.images["Landsat"], together.images["Landsat"])


def test_parcels_and_woods_run_on_across_chip_borders():
    whole = Landscape(rows=1, columns=1, size=96).ground(0, 0)
    for part in ("parcel", "cover", "along", "border"):
        quarters = [[getattr(SMALL.ground(r, c), part) for c in (0, 1)] for r in (0, 1)]
        np.testing.assert_array_equal(np.block(quarters), getattr(whole, part))


def test_clouds_run_on_across_chip_borders():
    whole = Landscape(rows=1, columns=1, size=96).sky(0, 0, S2)[0]
    quarters = [[SMALL.sky(r, c, S2)[0] for c in (0, 1)] for r in (0, 1)]
    np.testing.assert_allclose(np.block(quarters), whole, atol=1e-9)


def test_places_adjoin():
    (a, _, x, _, e, y), east, south = (SMALL.place(*at).transform for at in ((0, 0), (0, 1), (1, 0)))
    assert (a, e) == (10, -10)
    assert east[2] == x + 48 * a
    assert south[5] == y + 48 * e
    assert SMALL.place(0, 0).crs == "EPSG:32631"


def test_shapes_types_and_levels():
    sample = Landscape().sample(0, 0, ALL)
    assert {k: tuple(v.shape) for k, v in sample.images.items()} == {
        "S2": (36, 10, 96, 96),
        "Landsat": (15, 6, 32, 32),
        "Modis": (20, 7, 2, 2),
    }
    assert [sample.images[s.name].dtype for s in ALL] == [torch.uint16, torch.int16, torch.int16]
    for sensor in ALL:
        numbers = sample.images[sensor.name].numpy()
        assert numbers.min() >= 1
        assert numbers.max() < 12_000
        assert 200 < np.median(numbers) < 4000
        days = sample.days(sensor.name).remainder(365.25)
        assert (days.diff() > 0).all()
        assert days.min() > 55
        assert days.max() < 305
    assert sample.label.shape == (96, 96)
    assert sample.label.dtype == torch.int64


def test_every_class_is_there_and_none_rules():
    landscape = Landscape()
    labels = np.stack([landscape.ground(r, c).label for r in range(4) for c in range(0, 19, 3)])
    shares = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    assert len(shares) == len(CLASSES) == 6
    assert shares.min() > 0.03
    assert shares.max() < 0.5


def test_any_band_can_be_rendered():
    red = Sensor("Single", (Band("red", "red", 0.65), Band("nir", "nir", 0.85)), gsd=20, nodata=0)
    sample = SMALL.sample(0, 0, (red,))
    assert sample.images["Single"].shape == (16, 2, 24, 24)


def test_orbits_have_their_own_dates():
    landscape = Landscape()
    assert np.array_equal(landscape.days(S2, 0), landscape.days(S2, 3))
    assert not np.array_equal(landscape.days(S2, 0), landscape.days(S2, 4))
    assert not np.array_equal(landscape.days(S2, 0)[:12], landscape.days(LANDSAT, 0))


def test_too_many_dates_are_refused():
    with pytest.raises(InputError, match="frames of S2"):
        Landscape(frames=(("S2", 400),)).days(S2, 0)


def yearly_ndvi(label: int) -> np.ndarray:
    """NDVI at each day of the year of an average parcel of one crop."""
    cover = np.flatnonzero(BY_COVER["label"] == label)[-1:]
    one, days = np.ones((1, 1)), np.arange(366.0)[:, None, None]
    parts = mixture(cover[None], one.astype(int), days, one, one)[:, :, 0, 0]
    red, nir = (spectra([S2.bands[S2.index(name)]], MEMBERS)[:, 0] @ parts for name in ("red", "nir"))
    return (nir - red) / (nir + red)


def test_crops_follow_their_calendar():
    wheat, maize, rapeseed, beet, grass = (yearly_ndvi(label) for label in (1, 2, 3, 4, 5))
    assert 100 < wheat.argmax() < 170 < maize.argmax() < 260
    assert wheat[200] < 0.35 < maize[200]
    assert maize[290] < 0.4 < beet[270]
    assert grass[64:300].min() > wheat[64:300].min()
    assert rapeseed[118] < wheat[118]  # yellow flowers are bright in red


def test_ground_is_wholly_covered():
    covers, one = np.arange(len(COVERS))[None], np.ones((1, len(COVERS)))
    parts = mixture(covers, one.astype(int), np.arange(366.0)[:, None, None] * one, one, one)
    assert len(parts) == len(MEMBERS)
    assert parts.min() >= 0
    np.testing.assert_allclose(parts.sum(0), 1, atol=1e-6)


def test_masks_hide_most_clouds_but_not_all():
    landscape = Landscape(rows=2, columns=8)
    thick = missed = edge = missed_edge = clear = lost = 0
    for column in (0, 4, 7):
        cloud, shadow = landscape.sky(0, column, S2)
        seen = landscape.sample(0, column, (S2,)).mask("S2").numpy()
        thick, missed = thick + (cloud > 0.5).sum(), missed + (seen & (cloud > 0.5)).sum()
        rim = (cloud > 0.05) & (cloud < 0.5)
        edge, missed_edge = edge + rim.sum(), missed_edge + (seen & rim).sum()
        free = (cloud == 0) & (shadow == 0)
        clear, lost = clear + free.sum(), lost + (free & ~seen).sum()
    assert thick > 0
    assert missed / thick < 0.02
    assert 0.05 < missed_edge / edge < 0.8  # most of it is haze, which real masks do not see
    assert lost / clear < 0.05


def test_clouds_are_bright_and_a_clear_sky_has_none():
    sample = Landscape().sample(0, 4, (S2,))
    blue, seen = sample.images["S2"].numpy()[:, 0], sample.mask("S2").numpy()
    assert np.median(blue[~seen]) > 2 * np.median(blue[seen])
    assert Landscape(cloudiness=0).sample(0, 4, (S2,)).mask("S2").all()


def test_coarse_pixels_are_averages_and_see_their_surroundings():
    clean = Landscape(rows=3, columns=3, size=48, noise=0, cloudiness=0, frames=(("S2", 5),))
    rows = []
    for row in range(3):
        chips = [clean.sample(row, column, (S2,)).images["S2"].numpy() for column in range(3)]
        rows.append(np.concatenate(chips, axis=-1))
    fine = np.concatenate(rows, axis=-2).astype(float)
    coarse_sensor = Sensor("S2", S2.bands, gsd=480, nodata=0)
    coarse = clean.sample(1, 1, (coarse_sensor,)).images["S2"].numpy().astype(float)
    seen = slice(48 - 7, 96 + 7)  # a pixel reaches 0.15 of its width, 72 m, into its neighbors
    np.testing.assert_allclose(coarse[..., 0, 0], fine[..., seen, seen].mean((-1, -2)), atol=40)


def test_fields_vary_smoothly_and_edges_are_mixed():
    chip = Landscape(cloudiness=0, frames=(("S2", 12),)).sample(0, 0, (S2,)).images["S2"].numpy().astype(float)
    nir = chip[:, S2.index("nir")]
    fields = Landscape().ground(0, 0).fields
    both = (fields[:, 1:] > 0) & (fields[:, :-1] > 0)
    same = both & (fields[:, 1:] == fields[:, :-1])
    step = abs(np.diff(nir, axis=-1))
    assert np.median(step[:, same]) < 0.5 * np.median(step[:, both & ~same])
    far = abs(nir[:, :, 4:] - nir[:, :, :-4])
    far_same = (fields[:, 4:] == fields[:, :-4]) & (fields[:, 4:] > 0)
    assert np.median(step[:, same]) < 0.7 * np.median(far[:, far_same])  # neighbors are alike, noise is not white


@pytest.mark.parametrize("columns", [5, 8, 19, 40])
def test_splits_are_disjoint_with_a_gap(columns):
    splits = Landscape(columns=columns).splits()
    used = {split: {column for _, column in chips} for split, chips in splits.items()}
    assert max(used["train"]) + 2 == min(used["val"])
    assert max(used["val"]) + 2 == min(used["test"])
    assert (min(used["train"]), max(used["test"])) == (0, columns - 1)
    assert all(len(chips) == len(set(chips)) == 4 * len(used[split]) for split, chips in splits.items())


def test_the_default_has_40_12_and_16_chips():
    assert [len(chips) for chips in Landscape().splits().values()] == [40, 12, 16]


def test_too_few_columns_are_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(InputError, match="at least 5"):
        write_example(tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


def test_a_chip_outside_is_refused():
    with pytest.raises(InputError, match="row 2"):
        SMALL.sample(2, 0, (S2,))


def test_what_is_written_is_what_was_drawn(tmp_path: Path):
    landscape = Landscape(rows=1, columns=5, size=48, frames=(("S2", 6), ("Landsat", 4), ("Modis", 5)))
    steps: list[tuple[int, int]] = []
    write_example(tmp_path, landscape, progress=lambda done, of: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "data_lists").iterdir()}
    assert lists == {"train": ["r00c00"], "val": ["r00c02"], "test": ["r00c04"]}
    assert sorted(path.name for path in (tmp_path / "h5_samples").iterdir()) == [
        "r00c00.h5",
        "r00c02.h5",
        "r00c04.h5",
    ]
    path = tmp_path / "h5_samples" / "r00c02.h5"
    assert same(read_chip(path, ALL), landscape.sample(0, 2, ALL))
    assert read_georeference(path) == landscape.place(0, 2)


def test_lists_come_last(tmp_path: Path):
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_example(tmp_path, Landscape(rows=1, columns=5, size=48), (MODIS,), interrupt)
    assert not (tmp_path / "data_lists").exists()
