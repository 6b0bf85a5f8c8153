"""Names of classes and folders with every character that means something to a program that reads them."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn_parcels import GRID, frame_of, save, square, write_tif
from PIL import Image
from test_scene_chips import scene  # noqa: F401 (a fixture)

from agrifm.chips.classes import ClassTable, alike
from agrifm.chips.labels import read_labels
from agrifm.chips.picture import save_split_picture
from agrifm.chips.plan import SplitAssignment
from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.config import load
from agrifm.errors import InputError
from agrifm.io import locked
from agrifm.pretraining.views import FractionPlan

NAMES = ("$x_{", "<script>a</script>", "=1+2|b", "_under", "[red]x[/red]", "no: {a, *b}", "maïs", "MAÏS", "小麦")

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def odd(scene, tmp_path_factory):  # noqa: F811
    """Chips of classes with odd names, in a folder of such a name."""
    places = [(column, row) for row in range(0, 100, 10) for column in range(0, 100, 10)]
    shapes = {name: [square(*place) for place in places[i :: len(NAMES)]] for i, name in enumerate(NAMES)}
    folder = tmp_path_factory.mktemp("odd")
    out = folder / "a\nb: [c] $d\x1b[31m"
    report = write_chips(scene, save(frame_of(**shapes), folder / "a.gpkg"), out, ChipPlan(size=16, seed=1))
    return out, report


def test_the_written_yaml_says_the_same_names(odd):
    out, report = odd
    names = sorted(NAMES)
    assert [entry.name for entry in report.classes] == names
    assert [entry["name"] for entry in yaml.safe_load((out / "classes.yaml").read_text())] == names
    written = yaml.safe_load((out / "crops.yaml").read_text())
    assert written["name"] == out.name
    assert written["data"]["root"] == out.as_posix()
    experiment = load(out / "crops.yaml", ())
    assert experiment.task.names == tuple(names)
    assert experiment.data.root == out


def test_the_report_shows_names_as_they_are(odd):
    out, _ = odd
    text = (out / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)
    assert "<script" not in text
    assert "\x1b" not in text
    assert {"小麦", "=1+2|b"} <= {entry["name"] for entry in json.loads((out / "report.json").read_text())["classes"]}


def test_names_that_people_take_for_the_same_are_reported_with_a_repair_that_works(odd, tmp_path):
    out, report = odd
    note = next(note for note in report.notes if "'MAÏS', 'maïs'" in note)
    line = note.split("replace their lines with '", 1)[1].split("', and give it", 1)[0]
    kept = [each for each in (out / "classes.yaml").read_text().splitlines() if "MAÏS" not in each.upper()]
    (tmp_path / "classes.yaml").write_text("\n".join([*kept, line]))
    table = ClassTable.read(tmp_path / "classes.yaml")
    assert table.codes["maïs"] == table.codes["MAÏS"]
    assert len(table.classes) == len(NAMES) - 1
    assert alike(entry.name for entry in table.classes) == []
    assert alike(["a", "A"], Path("t.csv")) == [
        "classes 'a', 'A' differ in case, accents or spaces only; if they are one, write 'a' for all of them in t.csv"
    ]


def test_pictures_show_names_as_they_are(odd, tmp_path):
    labels = read_labels(Path(odd[0]).parent / "a.gpkg", GRID)
    assignment = SplitAssignment.of(labels, ChipPlan(size=16), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_split_picture(
            tmp_path / "a.png", labels.label, assignment, labels.classes, "$\\frac{1$ \x1b[31m" + "x" * 5000
        )
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) < 4000


# Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("size", 0), ("size", 10**9), ("val", 1.5), ("val", NAN), ("test", NAN), ("test", 0.8), ("buffer", -1)),
        *(("buffer", INF), ("buffer", NAN), ("block", 0), ("distance", NAN), ("distance", INF), ("seed", -1)),
        ("class_column", ""),
    ],
)
def test_numbers_that_no_plan_can_have_are_refused_by_name(option, value):
    with pytest.raises(InputError, match=f"^--{option.replace('_', '-')}"):
        ChipPlan(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("cells", 0), ("min_clear", NAN), ("max_unknown", 2), ("samples", 0), ("balance", NAN)),
        *(("biome", "\x1b"), ("biome", " "), ("seed", -1)),
    ],
)
def test_numbers_that_no_sample_can_have_are_refused_by_name(option, value):
    with pytest.raises(InputError, match=f"^--{option.replace('_', '-')}"):
        FractionPlan(**{option: value})


# Folders


def test_a_second_writer_of_the_same_chips_is_refused(scene, tmp_path):  # noqa: F811
    labels = save(frame_of(a=[square(0, 0)], b=[square(30, 0)]), tmp_path / "a.gpkg")
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        write_chips(scene, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_are_refused(scene, tmp_path):  # noqa: F811
    labels = write_tif(tmp_path / "a.tif", np.ones((100, 100), np.uint8))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file"):
            write_chips(scene, labels, out)


def test_impossible_reflectance_is_reported_by_date(odd):
    report = replace(odd[1], impossible={"S2": {"2020-04-01": (0, 100), "2020-07-01": (5, 100)}})
    lines = [line for line in report.left_out() if "no land has" in line]
    assert lines == [
        "S2 of 2020-07-01: 5.00% of the clear pixels have a reflectance that no land has; they count as missing"
    ]
    assert odd[1].impossible["S2"].keys() == {"2020-04-01", "2020-07-01"}
