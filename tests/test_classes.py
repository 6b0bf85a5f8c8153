"""Class tables, tasks chosen from them, labels at mixed levels, sparse and imbalanced labels."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import FEW_PIXELS
from test_labels import GRID, frame_of, save, square

from agrifm.checkpoint import Checkpoint
from agrifm.chips.classes import ClassTable
from agrifm.chips.experiment import class_list
from agrifm.chips.labels import read_labels
from agrifm.cli.evaluate import show_scores
from agrifm.config import parse
from agrifm.data.folder import CachedDataset
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate, write_scores
from agrifm.sensors import LANDSAT, MODIS
from agrifm.synthetic.chips import Landscape, write_example
from agrifm.tasks.class_choice import chosen
from agrifm.tasks.class_table import SHIPPED, Table, read_rows
from agrifm.tasks.losses import CrossEntropy, Dice, Focal, GeneralizedCrossEntropy, LogitAdjusted
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.fit import fit
from agrifm.training.resolve import resolve

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
CONFIGS = ("cropland", "landuse", "winter_wheat", "paddy_rice")
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real series are not on this machine ({DATA})")


def task(classes, **more) -> Segmentation:
    """The task of an experiment with such classes."""
    found = parse({"data": {"sensors": "S2"}, "task": {"classes": classes, **more}}).task
    assert isinstance(found, Segmentation)
    return found


def meaning(found: Segmentation, code: int) -> str | tuple[str, ...] | None:
    """What a code teaches: a class, several of which one is right, or nothing."""
    place = found.known[code]
    if place == found.ignore_index:
        return None
    return found.names[place] if place < found.outputs else found.groups[place - found.outputs].classes


# Tables


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables_mean_something_in_hcat(name):
    table = Table.read(name)
    assert len({row.code for row in table.rows}) == len(table.rows)
    assert all(table.leaves_of(row) for row in table.rows if row.hcat)
    silent = {row.name for row in table.rows if not row.hcat}
    assert silent <= {"Unknown", "Background", "Clouds/No Data", "Nonag/Undefined"}


def test_hcat_codes_draw_the_tree():
    """Two digits of a code for each level; the code above is there too."""
    table = Table.read("hcat")
    codes = {row.name: row.code for row in table.rows}
    for name, above in table.parents.items():
        if codes[name].isdecimal():
            kept = codes[name].rstrip("0")
            kept += "0" * (len(kept) % 2)
            assert codes.get(above, "3300000000") == kept[:-2].ljust(10, "0"), name
    assert table.parents["winter_common_soft_wheat"] == "common_soft_wheat"
    assert table.parents["common_soft_wheat"] == "cereal"
    assert table.find("cereal") > table.find("3301010101") == {"winter_common_soft_wheat"}
    assert table.find("barley") > table.find("winter barley")


def test_the_example_table_names_the_made_up_classes():
    rows = read_rows("example")
    assert [(row.number, row.name) for row in rows] == [
        (i, name) for i, (name, _) in enumerate(Landscape(paddy=True).classes)
    ]


def test_a_table_with_parents_of_its_own(tmp_path):
    (tmp_path / "t.csv").write_text(
        "code,name,parent\n1,soft wheat,wheat\n2,durum,wheat\n3,wheat,cereal\n4,cereal,\n5,maize,cereal\n6,grass,\n"
    )
    found = task({"table": str(tmp_path / "t.csv")})
    assert found.names == ("soft wheat", "durum", "maize", "grass")
    assert meaning(found, 3) == ("soft wheat", "durum")
    assert meaning(found, 4) == ("soft wheat", "durum", "maize")
    only = task({"table": str(tmp_path / "t.csv"), "only": "wheat"})
    assert [(entry.name, entry.codes) for entry in only.classes] == [("other", (5, 6)), ("wheat", (1, 2, 3))]
    assert meaning(only, 4) is None


# Tasks


def test_one_class_against_the_rest():
    found = task({"table": "worldcereal", "only": "Winter wheat"})
    assert found.names == ("other", "Winter wheat")
    assert meaning(found, 1110) == "Winter wheat"
    assert meaning(found, 1200) == meaning(found, 60) == meaning(found, 1510) == "other"
    assert {meaning(found, code) for code in (0, 11, 1000, 1100, 1910, 9998)} == {None}  # may be winter wheat, or not
    assert (found.classes[1].hcat, found.classes[1].color) == ("winter_common_soft_wheat", "#e0b83e")


def test_a_table_and_groups_of_ones_own_go_together():
    mine = [{"name": "winter crops", "classes": ["winter wheat", "rapeseed"], "codes": [20], "scored": False}]
    found = task({"table": "example"}, groups=mine, unlabeled=[30])
    assert meaning(found, 20) == ("winter wheat", "rapeseed")
    assert meaning(found, 30) is None
    assert [group.name for group in found.groups] == ["arable crops", "cereal", "winter crops"]
    label = torch.tensor([[2, 20, 30, -1]])
    assert found.classes_of(label).tolist() == [[2, -1, -1, -1]]
    assert dict(found.counts({2: 5, 20: 3, 30: 1, -1: 1}))["ignored"] == 2


def test_codes_at_several_levels_keep_what_they_say():
    found = task({"table": "worldcereal", "only": ["Winter wheat", "Winter barley", "Maize", "Permanent grass crops"]})
    assert meaning(found, 1500) == ("other", "Winter barley")
    assert meaning(found, 1910) == ("other", "Winter wheat", "Winter barley")
    assert meaning(found, 11) == ("other", "Winter wheat", "Winter barley", "Maize")
    assert meaning(found, 99) == ("other", "Permanent grass crops")
    closed = task({"table": "worldcereal", "only": ["Winter wheat", "Spring wheat", "Maize"], "other": None})
    assert meaning(closed, 1100) == ("Winter wheat", "Spring wheat")
    assert meaning(closed, 1300) is meaning(closed, 1000) is None


def test_parts_under_a_name_of_ones_own():
    found = task({"table": "cdl", "only": {"crops": ["arable_crops", "permanent_crops_perennial"], "trees": "Forest"}})
    assert found.names == ("other", "crops", "trees")
    assert {meaning(found, code) for code in (1, 26, 61, 75, 254)} == {"crops"}
    assert {meaning(found, code) for code in (63, 141, 142, 143)} == {"trees"}
    assert {meaning(found, code) for code in (111, 124, 176)} == {"other"}


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"table": "cld"}, "one of hcat.*did you mean 'cdl'"),
        ({"table": "cdl", "onyl": "Rice"}, "key 'onyl'.*did you mean 'only'"),
        ({"only": "Rice"}, "a table to choose from"),
        ({"table": "cdl", "only": "Winter Wheet"}, "cdl.*'Winter Wheet'.*did you mean 'Winter Wheat'"),
        ({"table": "cdl", "only": "Sweet Corn"}, "Sweet Corn.*same meaning in HCAT as 'Corn'"),
        ({"table": "cdl", "only": "Background"}, "a code without a meaning"),
        ({"table": "cdl", "only": ["cereal", "Rice"]}, "'rice' in both cereal and Rice"),
        ({"table": "cdl", "only": "winter_barley"}, "no code that always means it; it may be 21 Barley"),
    ],
)
def test_choices_that_cannot_be_say_why(classes, words):
    with pytest.raises(InputError, match=f"(?s)task.*{words}"):
        task(classes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("code,name,parent\n1,a,b\n2,b,a\n", "a part of itself"),
        ("code,name,parent\n1,wheat,cereals\n2,cereal,\n", "parent 'cereals'.*did you mean 'cereal'"),
        ("code,name,hcat\n1,wheat,winter_comon_soft_wheat\n", "line 2.*did you mean 'winter_common_soft_wheat'"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=f"(?s){words}"):
        chosen({"classes": {"table": str(tmp_path / "t.csv")}})


GROUPED = {"classes": ["a", "b", "c", "d"], "groups": [{"name": "ab", "classes": ["a", "b"], "codes": [7]}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": [{"name": "g", "classes": ["a", "x"]}]}, "'x', which is no class"),
        ({"groups": [{"name": "g", "classes": ["a"]}]}, "some, not all"),
        ({"groups": [{"name": "g", "classes": ["a", "b"]}, {"name": "h", "classes": ["b", "c"]}]}, "scored: false"),
        ({"classes": [{"name": "a", "codes": [1]}, "b", "c", "d"]}, "give codes to all"),
        ({"unlabeled": [7]}, "code 7 is given twice"),
        ({"ignore_index": 7}, "also a class"),
    ],
)
def test_groups_and_codes_that_contradict_are_refused(change, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        task(**{**GROUPED, **change})


def test_unknown_codes_are_named_with_the_nearest():
    found = task({"table": "worldcereal", "only": "Winter wheat"})
    with pytest.raises(InputError, match=r"(?s)values \[1111\].*1111 is nearest to 1110"):
        found.encode(torch.tensor([[[1110, 1111]]]))


# Losses


def case(k=4):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, k, 3, 4, generator=generator, requires_grad=True)
    return logits, torch.randint(-1, k + 2, (2, 3, 4), generator=generator)


MEMBERS = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]).bool()  # labels 4 and 5


def sums(logits, label):
    """Probability of what each label says, by adding up."""
    p = logits.softmax(1).movedim(1, -1)
    sets = torch.cat([torch.eye(4).bool(), MEMBERS])
    return (p * sets[label.clamp(min=0)]).sum(-1)


@pytest.mark.parametrize(
    ("loss", "of"),
    [
        (CrossEntropy(), lambda p: -p.log()),
        (Focal(gamma=1.5), lambda p: -((1 - p) ** 1.5) * p.log()),
        (GeneralizedCrossEntropy(q=0.6), lambda p: (1 - p**0.6) / 0.6),
    ],
)
def test_a_group_counts_by_the_sum_of_its_probabilities(loss, of):
    logits, label = case()
    found = loss(logits, label, -1, MEMBERS)
    known = label >= 0
    assert found.total.item() == pytest.approx(of(sums(logits, label))[known].sum().item(), rel=1e-5)
    assert found.count.item() == known.sum()
    expected = torch.autograd.grad(of(sums(logits, label))[known].sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(found.total, logits)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.1), Dice(), LogitAdjusted(prior=(0.7, 0.1, 0.1, 0.1))])
def test_groups_leave_every_loss_finite(loss):
    logits, label = case()
    found = loss(logits, label, -1, MEMBERS)
    found.total.backward()
    assert math.isfinite(found.total.item())
    assert torch.isfinite(logits.grad).all()
    plain = label.masked_fill(label > 3, -1)
    torch.testing.assert_close(loss(logits, plain, -1, MEMBERS).mean, loss(logits, plain, -1).mean)


def test_logit_adjustment_by_hand():
    logits, label = torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.long)
    assert float(LogitAdjusted(prior=(0.9, 0.1))(logits, label, -1).mean) == pytest.approx(-math.log(0.1))
    two = LogitAdjusted(tau=2.0, prior=(0.75, 0.25))(logits, label, -1).mean
    assert float(two) == pytest.approx(-math.log(0.25**2 / (0.25**2 + 0.75**2)))


def test_robust_loss_is_between_its_neighbors():
    logits, label = case()
    label = label.clamp(max=3)
    near = GeneralizedCrossEntropy(q=1e-4)(logits, label, -1).mean
    torch.testing.assert_close(near, CrossEntropy()(logits, label, -1).mean, rtol=1e-3, atol=1e-3)
    known = label >= 0
    absolute = (1 - sums(logits, label))[known].mean()
    torch.testing.assert_close(GeneralizedCrossEntropy(q=1.0)(logits, label, -1).mean, absolute)
    with pytest.raises(ValueError, match="q is 0"):
        GeneralizedCrossEntropy(q=0)


def test_weights_and_priors_come_from_counts():
    found = task(**GROUPED, loss=[{"kind": "focal", "class_weights": "balanced"}, {"kind": "logit_adjusted"}])
    assert not found.is_settled
    ready = found.settled({0: 60, 1: 20, 2: 100, 7: 40, -1: 999})  # 7 is a or b: 20 each
    assert ready.is_settled
    assert ready.loss[0].class_weights == pytest.approx((220 / 3 / 80, 220 / 3 / 40, 220 / 3 / 100, 0.0), rel=1e-5)
    assert ready.loss[1].prior == pytest.approx((81 / 224, 41 / 224, 101 / 224, 1 / 224))
    assert ready.settled({0: 1}) == ready
    with pytest.raises(InputError, match="no labeled pixel"):
        found.settled({-1: 10})


# Scores


def test_scores_at_every_level():
    found = task(
        ["soft", "durum", "maize", "grass"],
        groups=[
            {"name": "wheat", "classes": ["soft", "durum"], "codes": [10]},
            {"name": "cereal", "classes": ["soft", "durum", "maize"], "codes": [11]},
            {"name": "durum or grass", "classes": ["durum", "grass"], "codes": [12], "scored": False},
        ],
    )
    truth = torch.tensor([[[0, 0, 1, 2, 3, 10, 10, 11, 12, -1]]])
    guess = torch.tensor([[0, 1, 1, 3, 3, 1, 2, 0, 1, 0]])
    metric = found.metric()
    found.update(metric, torch.nn.functional.one_hot(guess, 4).movedim(-1, 1).unsqueeze(2).float(), truth)
    result = found.scores(metric)
    assert result.confusion == ((1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 0, 1))
    wheat, cereal = result.levels
    assert [entry.name for entry in wheat.classes] == ["wheat", "maize", "grass"]
    assert wheat.confusion == ((4, 1, 0), (0, 0, 1), (0, 0, 1))
    assert [entry.name for entry in cereal.classes] == ["cereal", "grass"]
    assert cereal.confusion == ((6, 1), (0, 1))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["levels"][1]["confusion"] == [[6, 1], [0, 1]]


# Training


@pytest.fixture(scope="session")
def paddies(tmp_path_factory):
    root = tmp_path_factory.mktemp("paddies")
    land = Landscape(rows=1, columns=7, size=48, frames=(("Landsat", 4), ("Modis", 5)), paddy=True)
    write_example(root, land, (LANDSAT, MODIS))
    return root


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_experiments_train_a_step(name, farm, paddies, settings, tmp_path, capsys):
    values = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    values["data"]["root"] = str(paddies if name == "paddy_rice" else farm)
    values["augment"]["crop"] = 48 if "Modis" in values["data"]["sensors"] else 24  # whole pixels of every sensor
    values["model"]["size"] = settings["model"]["size"]
    values["pixels"] = FEW_PIXELS
    values["training"] |= {"epochs": 1, "limit_train_batches": 1, "batch_size": 2, "accelerator": "cpu"}
    best = Checkpoint.load(fit(parse(values), tmp_path))
    assert best.experiment.task.is_settled
    assert best.experiment.task.names[0] == "other"
    result = evaluate(best, best.experiment.data.split("test"))
    assert np.sum(result.confusion) > 0
    assert all(entry.pixels for entry in result.classes)
    show_scores(result)
    write_scores(result, tmp_path)


def test_made_up_rice_is_flooded_then_green():
    land = Landscape(size=48, cloudiness=0, noise=0, paddy=True, frames=(("Landsat", 20),))
    sample = land.sample(0, 1, (LANDSAT,))
    rice = (sample.label == len(land.classes) - 1).float()[None, None]
    share = torch.nn.functional.interpolate(rice, sample.images["Landsat"].shape[-2:], mode="area")[0, 0]
    bands = {band.common_name: i for i, band in enumerate(LANDSAT.bands)}
    mean = (sample.images["Landsat"].double() * (share > 0.99)).sum((2, 3)) / (share > 0.99).sum()
    day = land.days(LANDSAT, 1)
    swir, nir = mean[:, bands["swir16"]].numpy(), mean[:, bands["nir08"]].numpy()
    under = (day > 145) & (day < 165)
    assert swir[under].max() < 0.5 * swir[day < 110].min()
    assert nir[(day > 215) & (day < 245)].min() > 1.5 * nir[under].max()
    assert not (Landscape(size=48).ground(0, 1).label == 6).any()


class Blank:
    """A source of which some samples carry no label."""

    def __init__(self, source, blank):
        self.source, self.blank = source, blank

    def __len__(self):
        return len(self.source)

    def read(self, index, frames=None):
        from dataclasses import replace

        sample = self.source.read(index, frames)
        return replace(sample, label=torch.full_like(sample.label, -1)) if index in self.blank else sample


def test_chips_without_a_label_neither_break_training_nor_change_the_loss(settings, tmp_path):
    plain = parse({**settings, "training": {**settings["training"], "epochs": 1, "batch_size": 3}})
    train, val = (CachedDataset(plain.data.split(split)) for split in ("train", "val"))
    fit(plain, tmp_path, sources={"train": Blank(train, {0, 1, 2, 3, 4}), "val": val})  # one batch is all blank or more
    assert all(torch.isfinite(w).all() for w in Checkpoint.load(tmp_path / "last.safetensors").weights.values())
    found, (logits, label) = task(["a", "b", "c", "d"]), case()
    label = label.clamp(max=3)
    more = torch.cat([label, torch.full_like(label[:1], -1)])
    wide = torch.cat([logits, torch.randn_like(logits[:1])])
    torch.testing.assert_close(found.losses(wide, more)[0][1].mean, found.losses(logits, label)[0][1].mean)


def test_weights_are_counted_on_all_of_the_training_split(settings):
    values = {**settings, "data": {**settings["data"], "check_chips": 1}}
    values["task"] = {**values["task"], "loss": {"kind": "cross_entropy", "class_weights": "balanced"}}
    plan = parse(values)
    from rich.console import Console

    sources = {split: plan.data.split(split) for split in ("train", "val")}
    ready = resolve(plan, sources, Console(quiet=True)).task
    labels = torch.cat([sources["train"].read(i).label.ravel() for i in range(len(sources["train"]))])
    counts = torch.bincount(labels, minlength=6).double()
    expected = torch.where(counts > 0, counts[counts > 0].mean() / counts, 0.0)
    assert ready.loss[0].class_weights == pytest.approx(expected.tolist(), rel=1e-4)
    assert parse(yaml.safe_load(resolve(plan, sources, Console(quiet=True)).to_yaml())).task == ready


# Chips


def test_a_shipped_table_names_the_classes_of_chips(tmp_path):
    frame = frame_of(BTH=[square(0, 0)], ORH=[square(30, 0)], MCR=[square(60, 0)], SNE=[square(0, 40)])
    labels = read_labels(save(frame, tmp_path / "a.gpkg"), GRID, table=ClassTable.read(Path("rpg")))
    names = [
        "Blé tendre d'hiver",
        "Orge d'hiver",
        "Mélange de céréales",
        "Surface agricole temporairement non exploitée",
    ]
    assert {entry.name for entry in labels.classes} == set(names)
    (tmp_path / "classes.yaml").write_text(class_list(labels.classes))
    listed = [entry.name for entry in labels.classes]
    found = task({"table": str(tmp_path / "classes.yaml")})
    assert set(found.names) == set(names) - {"Mélange de céréales"}
    assert set(meaning(found, listed.index("Mélange de céréales"))) == {"Blé tendre d'hiver", "Orge d'hiver"}
    only = task({"table": str(tmp_path / "classes.yaml"), "only": "winter_common_soft_wheat"})
    assert meaning(only, listed.index("Blé tendre d'hiver")) == "winter common soft wheat"
    frame.loc[0, "crop"] = "BTX"
    with pytest.raises(InputError, match=r"(?s)codes BTX.*did you mean 'BT"):
        read_labels(save(frame, tmp_path / "b.gpkg"), GRID, table=ClassTable.read(Path("rpg")))


# Real data


@real
@pytest.mark.parametrize("name", ["be_a_2018", "be_b_2019", "tz_d_2021"])
def test_real_patches_translate(name):
    with np.load(DATA / "worldcereal_patches" / "npz" / f"{name}.npz") as arrays:
        label = torch.from_numpy(np.where(arrays["ct"] > 0, arrays["ct"], arrays["lc"]).astype(np.int64))
    cropland = task({"table": "worldcereal", "only": {"cropland": "arable_crops"}})
    crops = cropland.encode(label) == cropland.names.index("cropland")
    with np.load(DATA / "worldcereal_patches" / "npz" / f"{name}.npz") as arrays:
        assert np.array_equal(crops.numpy(), arrays["lc"] == 11)


@real
def test_the_legend_of_the_patches_is_listed():
    rows = {row.code: row for row in read_rows("worldcereal")}
    for line in (DATA / "worldcereal_patches" / "legend.csv").read_text().splitlines()[1:]:
        layer, code, name = line.split(",")
        if (layer, code) != ("lc", "0"):
            assert rows[code].name.casefold()[:5] == name.casefold()[:5].replace("cabag", "cabba"), line


@real
def test_real_parcels_translate():
    lines = (DATA / "france_parcels_2018" / "reference_data" / "nomenclature.csv").read_text().splitlines()[1:]
    names = [line.split(",")[0] for line in lines]
    table = ClassTable.read(Path("hcat")).among(names, "parcels")
    assert {entry.name for entry in table.classes} == set(names)
    found = Table.read("hcat")
    mixed = next(row for row in found.rows if row.name == "unspecified_season_unspecified_cereals")
    assert found.leaves_of(mixed) == found.find("cereal")
