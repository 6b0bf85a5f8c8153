"""Experiments in YAML: shipped ones load, wrong ones say what to write instead."""

from pathlib import Path

import pytest
import yaml

from agrifm.config import load, parse
from agrifm.config.migration import RENAMED_KEYS, RENAMED_VALUES, migrate
from agrifm.demo import EXAMPLE
from agrifm.errors import InputError, RenamedKeyWarning, nearest
from agrifm.nn.swin import SwinSize
from agrifm.sensors import LANDSAT, S2, Band, Sensor, Statistics
from agrifm.settings.overrides import override
from agrifm.tasks.losses import Dice, Focal

SHIPPED = [EXAMPLE, *sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))]
PLAIN = {"data": {"sensors": ["S2", "Landsat"]}, "task": {"classes": ["a", "b"]}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_experiments_load_and_survive_a_round_trip(path):
    experiment = load(path)
    assert parse(yaml.safe_load(experiment.to_yaml())) == experiment


def test_there_is_an_example():
    assert "example.yaml" in [path.name for path in SHIPPED]


def test_short_forms():
    experiment = parse(
        {
            "data": {"sensors": "S2"},
            "task": {"classes": ["a", {"name": "b", "color": "#010203"}], "loss": {"kind": "focal", "gamma": 1}},
        }
    )
    assert experiment.data.sensors == (S2,)
    assert experiment.task.names == ("a", "b")
    assert experiment.task.loss == (Focal(gamma=1),)


def test_several_losses_and_a_size_of_ones_own():
    values = {
        **PLAIN,
        "task": {"classes": ["a", "b"], "loss": [{"kind": "focal"}, {"kind": "dice", "weight": 0.5}]},
        "model": {"size": {"width": 16, "depths": [1, 1]}},
    }
    experiment = parse(values)
    assert experiment.task.loss == (Focal(), Dice(weight=0.5))
    assert experiment.model.swin == SwinSize(width=16, depths=(1, 1))


def test_a_sensor_of_ones_own():
    bands = [
        {"id": "r", "common_name": "red", "wavelength": 0.65},
        {"id": "n", "common_name": "nir", "wavelength": 0.8},
    ]
    sensor = {"name": "Planet", "gsd": 3, "bands": bands, "statistics": {"mean": [1, 2], "std": [3, 4], "source": "me"}}
    found = parse({**PLAIN, "data": {"sensors": [sensor, "S2"]}}).data.sensors[0]
    assert found.bands[1] == Band("n", "nir", 0.8)
    assert found.statistics == Statistics((1, 2), (3, 4), "me")
    assert found.index("nir") == 1


EARLIER = {
    "data": {
        "sensors": ["S2"],
        "check": 3,
        "shards": {"train": ["a", "b"], "shares": [2, 1], "lap": 8, "mix": {"S2": 1}, "window": 4, "lost": "count"},
    },
    "augment": {"turns": False, "hide": 0.1},
    "model": {"calendar": 8, "checkpointing": True, "decoder": "light"},
    "task": {"kind": "fractions"},
    "teacher": {"ramp": 0.5, "trust": False},
    "training": {"encoder_rate": 0.1, "clip": 2.0, "spike": 9, "accumulate": 2, "limit": 5},
}
PRESENT = {
    "data": {
        "sensors": ["S2"],
        "check_chips": 3,
        "shards": {
            "train": ["a", "b"],
            "sampling_weights": [2, 1],
            "epoch_size": 8,
            "sensor_sampling_weights": {"S2": 1},
            "shuffle_window": 4,
            "damaged": "skip",
        },
    },
    "augment": {"rot90": False, "mask_frames": 0.1},
    "model": {"time_steps": 8, "gradient_checkpointing": True, "decoder": "pyramid"},
    "task": {"kind": "fractions"},
    "teacher": {"ramp_up": 0.5, "confidence_weighting": False},
    "training": {
        "encoder_lr_scale": 0.1,
        "gradient_clip_val": 2.0,
        "gradient_spike_factor": 9,
        "accumulate_grad_batches": 2,
        "limit_train_batches": 5,
    },
}
TVERSKY = {"kind": "tversky", "false_alarms": 0.4, "misses": 0.6}
EARLIER_TASKS = [
    (
        {"kind": "fields", "classes": ["a", "b"], "pixel": 5, "partial": True, "loss": TVERSKY, "crop_loss": [TVERSKY]},
        {"pixel_size": 5.0, "partial_labels": True},
    ),
    ({"classes": ["a", "b", "c"], "groups": [{"name": "g", "of": ["a", "b"]}]}, {}),
    ({"classes": {"table": "worldcereal", "only": ["Maize"], "rest": "all else"}}, {}),
]


def test_earlier_names_of_keys_give_the_same_experiment_and_one_warning():
    with pytest.warns(RenamedKeyWarning) as warned:
        experiment = parse(EARLIER, "my.yaml")
    assert experiment == parse(PRESENT)
    assert len(warned) == 1
    for text in ("my.yaml", "'model.calendar' is now 'model.time_steps'", "'model.decoder: light' is now"):
        assert text in str(warned[0].message)
    assert migrate(PRESENT, "my.yaml") == PRESENT


@pytest.mark.parametrize(("task", "present"), EARLIER_TASKS)
def test_earlier_names_of_keys_of_tasks(task, present):
    label_key = ["instances", "label"] if "kind" in task else "label"
    with pytest.warns(RenamedKeyWarning):
        experiment = parse({"data": {"sensors": "S2", "label_key": label_key}, "task": task})
    written = yaml.safe_load(experiment.to_yaml())
    assert migrate(written, "x") == written  # no earlier name is written again
    assert {key: written["task"][key] for key in present} == present
    assert parse(written) == experiment


def test_present_names_are_keys_and_earlier_ones_are_not():
    """A renaming that is listed but whose present name is no key would turn a working file into a refused one."""
    schema = str(type(parse(PLAIN)).model_json_schema())
    for section, names in RENAMED_KEYS.items():
        for present in names.values():
            assert section == "task.classes" or f"'{present}': {{" in schema
    for values in RENAMED_VALUES.values():
        for present in values.values():
            assert f"'{present}'" in schema


def test_earlier_names_of_keys_in_overrides(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, "model": {"time_steps": 24}, "training": {"clip": 3.0}}))
    with pytest.warns(RenamedKeyWarning) as warned:
        experiment = load(path, ["model.calendar=8", "training.limit=1"])
    assert (experiment.model.time_steps, experiment.training.limit_train_batches) == (8, 1)
    assert experiment.training.gradient_clip_val == 3.0
    assert [str(entry.message).split(":")[0] for entry in warned] == [
        str(path),
        "--set model.calendar=8",
        "--set training.limit=1",
    ]


def test_a_key_under_both_names_is_refused():
    with pytest.raises(InputError, match=r"my.yaml: model.calendar(.|\n)*delete 'calendar'"):
        parse({**PLAIN, "model": {"calendar": 8, "time_steps": 9}}, "my.yaml")


WRONG = [
    ({**PLAIN, "modle": {}}, "modle", "did you mean 'model'"),
    ({**PLAIN, "model": {"sise": "tiny"}}, "model.sise", "did you mean 'size'"),
    ({**PLAIN, "data": {"sensors": ["S3"]}}, "data.sensors.0", "correct the value"),
    ({**PLAIN, "data": {"sensors": ["S2"], "statitsics": "data"}}, "data.statitsics", "did you mean 'statistics'"),
    ({**PLAIN, "task": {"classes": [{"name": "a", "colour": "#000000"}, "b"]}}, "colour", "did you mean 'color'"),
    ({**PLAIN, "model": {"size": {"widht": 3}}}, "widht", "did you mean 'width'"),
    ({**PLAIN, "training": {"epochs": "many"}}, "training.epochs", "correct the value"),
    ({**PLAIN, "model": {"decoder": "original"}}, "top level", "correct the value"),
    ({"data": PLAIN["data"]}, "task", "add "),
]


@pytest.mark.parametrize(("values", "where", "repair"), WRONG, ids=[entry[1] for entry in WRONG])
def test_wrong_keys_and_values(values, where, repair):
    with pytest.raises(InputError) as caught:
        parse(values, "my.yaml")
    assert where in caught.value.where
    assert "my.yaml" in caught.value.where
    assert repair in caught.value.repair


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(InputError, match="correct the syntax"):
        load(tmp_path / "bad.yaml")


def test_overrides(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    experiment = load(path, ["training.epochs=7", "model.patch=[4, 4, 4]", "data.sensors=[Landsat]"])
    assert experiment.training.epochs == 7
    assert experiment.model.patch == (4, 4, 4)
    assert experiment.data.sensors == (LANDSAT,)
    with pytest.raises(InputError, match=r"section\.key=value"):
        override(PLAIN, ["training.epochs"])


def test_errors_cross_process_borders():
    import pickle

    error = InputError("a.h5: S2", found="x", expected="y", repair="z.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert nearest("qqq", ["alpha", "beta"]) == "valid names are alpha, beta."


def test_sensors_refuse_contradictions():
    with pytest.raises(ValueError, match="no bands"):
        Sensor("x", (), 10)
    with pytest.raises(ValueError, match="1 statistic for 10 bands"):
        S2.with_statistics(Statistics((1.0,), (1.0,), ""))
    with pytest.raises(InputError, match="statistics: data"):
        LANDSAT.known_statistics()
    assert S2.known_statistics().mean[3] > S2.known_statistics().mean[2]


def test_no_data_may_be_nan_and_stays_so():
    sensor = {
        "name": "X",
        "gsd": 1,
        "nodata": float("nan"),
        "bands": [{"id": "a", "common_name": "red", "wavelength": 1}],
    }
    experiment = parse({**PLAIN, "data": {"sensors": [sensor]}})
    for again in (
        parse(yaml.safe_load(experiment.to_yaml())),
        type(experiment).model_validate_json(experiment.model_dump_json()),
    ):
        assert again.data.sensors[0].nodata != again.data.sensors[0].nodata


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs=[1", r"--set training.epochs=\[1"),
        ("training.epochs=" + "9" * 5_000, "a number of 5000 characters"),
        ("training.epochs=" + "9" * 90, "training.epochs"),
        ("=3", "the key ''"),
        ("training..epochs=3", r"section\.key=value"),
        (".".join("a" * 2_000) + "=3", r"section\.key=value"),
        ("data.footprint=inf", "data.footprint"),
        ("training.learning_rate=inf", "training.learning_rate"),
        ("training.learning_rate=nan", "training.learning_rate"),
        ("training.weight_decay=nan", "training.weight_decay"),
        ("training.gradient_clip_val=inf", "training.gradient_clip_val"),
        ("augment.drop_sensors=1.5", "augment.drop_sensors"),
        ("augment.drop_frames=nan", "augment.drop_frames"),
        ("augment.crop=0", "augment.crop"),
        ("task.loss={kind: focal, gamma: .nan}", "task.loss.0.gamma"),
        ("data.sensors=[S2, S2]", "S2 twice"),
        ("data.sensors=[]", "at least 1 item"),
        ("data.resize={S2: [0, 4]}", "data.resize.S2.0"),
        ("data.frames=99999999", "data.frames"),
        ("seed=18446744073709551616", "seed"),
        ("training.batch_size=99999999999", "training.batch_size"),
        ("training.workers=100000", "training.workers"),
        ("model.patch=[4, 0, 2]", "model.patch.1"),
        ("model.time_steps=0", "model.time_steps"),
        ("model.size={width: 0}", "model.size.width"),
        ("model.size={width: 1000000}", "model.size.width"),
        ("model.size={depths: []}", "model.size.depths"),
        ("model.size={depths: [2, 1000000]}", "model.size.depths"),
        ("model.size={heads: [1]}", "model.size.heads"),
        ("model.size={width: 16, heads: [3, 3, 3, 3]}", "model.size.heads"),
        ("model.size={steps: []}", "model.size.steps"),
        ("model.size={window: [8, 0, 7]}", "model.size.window.1"),
        ("model.size={drop_path: 1}", "model.size.drop_path"),
    ],
)
def test_wrong_overrides(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    with pytest.raises(InputError, match=message):
        load(path, [text])


def test_files_that_hold_no_experiment(tmp_path):
    path = tmp_path / "x.yaml"
    for text in ("", "[1, 2]", "hello", "\x89PNG", "3"):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load(path, ["training.epochs=3"])
        assert str(path) in caught.value.where


def test_a_value_that_holds_braces_may_be_taken_as_text():
    values = override({}, ["pattern={date}_{band}.tif", "scale=2"], as_text=["pattern"])
    assert values == {"pattern": "{date}_{band}.tif", "scale": 2}
    assert override({}, ["pattern='{date}.tif'"], as_text=["pattern"]) == {"pattern": "{date}.tif"}


@pytest.mark.parametrize(("mean", "std"), [(1, 0), (1, -1), (1, float("nan")), (float("inf"), 1), (1, float("inf"))])
def test_statistics_that_no_model_can_normalize_with(mean, std):
    bands = [{"id": "r", "common_name": "red", "wavelength": 0.65}]
    sensor = {"name": "X", "gsd": 3, "bands": bands, "statistics": {"mean": [mean], "std": [std], "source": "me"}}
    with pytest.raises(InputError, match=r"sensor X: (mean|standard deviation)") as caught:
        parse({**PLAIN, "data": {"sensors": [sensor]}}, "my.yaml")
    assert "data.sensors.0" in caught.value.where
