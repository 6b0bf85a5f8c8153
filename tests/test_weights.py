"""Weight files of every layout: matched, refused, converted; nothing in a file is ever executed."""

import pickle
import sys
import types
from dataclasses import replace

import pytest
import torch
from conftest import SENSORS, random_sample

from agrifm.checkpoint import Checkpoint, build, load_strict
from agrifm.compat import original
from agrifm.compat.weights import convert, describe_weights, open_checkpoint
from agrifm.config import Experiment, parse
from agrifm.errors import InputError
from agrifm.nn.embedding import Series
from agrifm.nn.swin import SIZES, Swin, SwinSize
from agrifm.nn.windows import relative_index
from agrifm.sample import collate
from agrifm.training.fit import fit, load_start_weights
from agrifm.training.module import TrainingModule
from agrifm.weight_files.layouts import read_state
from agrifm.weight_files.start_weights import SHIPPED, start_weights

SMALL = SwinSize(width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8))
BANDS = {"S2": 10, "HLSL30": 6, "Modis": 7}


def released_state(size=SMALL, patch=(4, 4, 4), seed=0):
    """Random weights in the layout of the published file."""
    torch.manual_seed(seed)
    trunk = Swin(size).state_dict()
    state = {f"encoder.backbone.{key}": value for key, value in trunk.items()}
    for key in [key for key in state if key.endswith("bias_table")]:
        state[key.replace("bias_table", "index")] = relative_index(size.window)
    for name, bands in BANDS.items():
        state[f"encoder.{name}_patch_emd.weights"] = torch.randn(size.width, bands, *patch)
        state[f"encoder.{name}_patch_emd.bias"] = torch.randn(size.width)
    return state


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "AgriFM.pth"
    torch.save(released_state(), path)
    return path


def experiment(**options) -> Experiment:
    model = {"size": {"width": 16, "depths": [1, 1, 2, 1], "heads": [1, 2, 4, 8]}, "patch": [4, 4, 4]}
    values = {
        "data": {"sensors": ["S2", "Landsat", "Modis"]},
        "task": {"classes": ["a", "b", "c", "d", "e"]},
        "model": {**model, **options.pop("model", {})},
        **options,
    }
    return parse(values).with_sensors(SENSORS)


@pytest.mark.parametrize("shared", [False, True])
def test_released_weights_fill_the_encoder_and_nothing_else(released, shared):
    plan = experiment(start_from=str(released), model={"shared_backbone": shared})
    weights, module = start_weights(plan), TrainingModule(plan)
    before = {key: value.clone() for key, value in module.model.state_dict().items()}
    match = load_start_weights(module, weights)
    assert match.left_over == ()
    assert all(key.startswith(("context.", "decoder.", "head.", "normalize.")) for key in match.new)
    after = module.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    assert all(torch.equal(after[key], before[key]) for key in match.new)
    encoder = {key for key in after if key.startswith(("embeddings.", "backbones."))}
    assert encoder == set(match.matched)


def test_a_loaded_encoder_gives_the_features_of_the_original(released):
    plan = experiment(start_from=str(released))
    module = TrainingModule(plan)
    load_start_weights(module, start_weights(plan))
    image = torch.randn(1, 8, 10, 128, 128)
    ones = torch.ones(1, 8, dtype=torch.bool)
    with torch.inference_mode():
        series = Series(image, ones[..., None, None].expand(-1, -1, 128, 128), torch.zeros(1, 8))
        pyramid = module.model.eval().encode("S2", series, ones)
        reference = original.load_released(released, "S2")(image)
    found = pyramid.merged[1].permute(0, 4, 1, 2, 3).flatten(1, 2)
    torch.testing.assert_close(found, reference["features_list"][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": [4, 2, 2]}, r"set 'patch: \[4, 4, 4\]'"),
        ({"size": "tiny"}, "width: 16"),
    ],
)
def test_another_model_is_refused_with_what_to_write(released, options, message):
    with pytest.raises(InputError, match=message):
        start_weights(experiment(start_from=str(released), model=options))


def test_the_base_size_is_called_by_its_name(tmp_path):
    size = replace(SIZES["base"], depths=(1, 1, 1, 1))
    path = tmp_path / "x.pth"
    torch.save(released_state(size, patch=(2, 2, 2)), path)
    facts = describe_weights(path)
    assert facts["width"] == "128"
    assert facts["depths"] == "(1, 1, 1, 1)"
    assert facts["patch"] == "(2, 2, 2)"
    assert facts["window"] == "(8, 7, 7)"
    assert facts["sensors"] == "S2, Landsat, Modis"


def fine_tuned(sensors=("S2", "Landsat")):
    """An original model and its state, small."""
    plan = experiment(data={"sensors": list(sensors), "frames": 8}, model={"decoder": "original", "patch": [4, 2, 2]})
    plan = plan.with_sensors([s for s in SENSORS if s.name in sensors])
    torch.manual_seed(1)
    model = build(plan)
    torch.nn.init.normal_(model.head[2].weight)
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith(("context.", "normalize.")):
            continue
        for ours, theirs in (("embeddings.", "patch_emd"), ("backbones.", "backbone")):
            if key.startswith(ours):
                _, sensor, rest = key.split(".", 2)
                key = f"encoders.encoders.{sensor}.{theirs}.{rest}"
        key = key.replace("decoder.", "neck.", 1) if key.startswith("decoder.") else key
        state[f"heads.{key}" if key.startswith("head.") else key] = value
    return plan, model, state


def test_fine_tuned_originals_open_as_checkpoints(tmp_path):
    plan, model, state = fine_tuned()
    path = tmp_path / "best_mFscore_epoch_3.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, path)
    opened = open_checkpoint(path, plan).model()
    sample = replace(random_sample(0, frames=8), valid={})
    sample.images["Landsat"] = torch.randn(8, 6, 8, 9)
    batch = collate([sample.without("Modis")])
    with torch.inference_mode():
        torch.testing.assert_close(opened(batch), model.eval()(batch))
    assert describe_weights(path)["layout"] == "fine-tuned original"
    converted = tmp_path / "converted.safetensors"
    convert(path, converted)
    with torch.inference_mode():
        torch.testing.assert_close(open_checkpoint(converted, plan).model()(batch), model(batch))


def test_fine_tuned_originals_serve_as_a_start(tmp_path):
    _, _, state = fine_tuned(("S2", "Landsat", "Modis"))
    path = tmp_path / "x.pth"
    torch.save({"state_dict": state}, path)
    begin = experiment(start_from=str(path), model={"patch": [4, 2, 2]})
    assert len(load_start_weights(TrainingModule(begin), start_weights(begin)).matched) > 100


def test_our_own_checkpoint_serves_as_a_start(tmp_path):
    plan = experiment()
    path = tmp_path / "best.safetensors"
    Checkpoint(plan, build(plan).state_dict()).save(path)
    begin = experiment(start_from=str(path), task={"classes": ["x", "y"]})
    assert load_start_weights(TrainingModule(begin), start_weights(begin)).left_over == ()


def test_nothing_matching_is_an_error(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="none matched"):
        start_weights(experiment(start_from=str(path)))
    assert describe_weights(path)["layout"] == "unknown"


def test_a_left_over_or_missing_tensor_is_an_error(released):
    state = torch.load(released, weights_only=True)
    state["encoder.backbone.extra"] = torch.zeros(1)
    torch.save(state, released)
    with pytest.raises(InputError, match=r"1 left over.*extra"):
        original.load_released(released, "S2")
    del state["encoder.backbone.extra"], state["encoder.backbone.norm.bias"]
    torch.save(state, released)
    with pytest.raises(InputError, match=r"missing: backbone\.norm\.bias"):
        original.load_released(released, "S2")


def test_another_windows_index_is_an_error(released):
    module = original.load_released(released, "S2")
    state = {**module.state_dict(), "backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(392, 392)}
    with pytest.raises(InputError, match="another window"):
        original.load_state_dict(module, state)


def test_released_sensors_are_found_by_name(released):
    assert original.load_released(released, "Landsat").patch_emd.proj.in_channels == 6
    with pytest.raises(InputError, match="HLSL30_patch_emd, Modis_patch_emd, S2_patch_emd"):
        original.load_released(released, "Radar")


def test_converting_keeps_every_tensor(released, tmp_path):
    target = tmp_path / "sub" / "AgriFM.safetensors"
    kept = convert(released, target)
    again = read_state(target)
    assert again.keys() == kept.keys()
    assert not any(key.endswith("index") for key in again)
    before = original.load_released(released, "S2").state_dict()
    after = original.load_released(target, "S2").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(InputError, match=r"\.safetensors"):
        convert(released, tmp_path / "x.bin")


class Evil:
    """Writes a file when it is unpickled by the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').write('x')",))


def test_files_with_foreign_objects_open_without_running_them(tmp_path):
    """As mmengine writes them: weights beside hooks, numpy scalars and classes of its own."""
    module = types.ModuleType("mmengine_like")
    exec("class HistoryBuffer:\n    def __init__(self, n): self.n = n", module.__dict__)
    module.HistoryBuffer.__module__ = "mmengine_like"
    sys.modules["mmengine_like"] = module
    path, trap = tmp_path / "epoch.pth", tmp_path / "executed"
    hub = {"loss": module.HistoryBuffer(3), "evil": Evil(trap)}
    torch.save({"state_dict": {"a.weight": torch.ones(2)}, "message_hub": hub, "meta": {"seed": 1}}, path)
    del sys.modules["mmengine_like"]
    assert torch.equal(read_state(path)["a.weight"], torch.ones(2))
    assert not trap.exists()


def test_plain_pickles_are_not_run(tmp_path):
    path, trap = tmp_path / "x.pth", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"a": Evil(trap)}))
    with pytest.raises(InputError):
        read_state(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_unreadable_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match="no such file"):
        read_state(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="cut off"):
        read_state(path)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="no tensors"):
        read_state(tmp_path / "empty.pth")


def test_checkpoints_describe_themselves(tmp_path):
    plan = experiment()
    path = tmp_path / "c.safetensors"
    Checkpoint(plan, build(plan).state_dict(), {"mFscore": 0.5}, epoch=4).save(path)
    loaded = Checkpoint.load(path)
    assert loaded.experiment == plan
    assert loaded.scores == {"mFscore": 0.5}
    assert loaded.versions["torch"]
    assert not loaded.model().training
    assert list(tmp_path.iterdir()) == [path]


def test_other_safetensors_are_no_checkpoint(released, tmp_path):
    target = tmp_path / "x.safetensors"
    convert(released, target)
    with pytest.raises(InputError, match="start_from"):
        Checkpoint.load(target)
    path = tmp_path / "c.safetensors"
    plan = experiment()
    Checkpoint(plan, build(plan).state_dict()).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut off"):
        Checkpoint.load(path)


def test_wrong_shapes_are_named():
    plan = experiment()
    model = build(plan)
    weights = {**model.state_dict(), "head.bias": torch.zeros(9)}
    with pytest.raises(InputError, match=r"head\.bias: \(9,\) in the file, \(5,\) in the model"):
        load_strict(model, weights)


def encoder_cfg(path, bands=10, patch=(4, 4, 4)):
    """The original's dictionary for an encoder that starts from a file."""
    return {
        "type": "PretrainingSwinTransformer3DEncoder",
        "patch_emd_cfg": {"type": "SwinPatchEmbed3D", "patch_size": patch, "in_chans": bands, "embed_dim": 16},
        "backbone_cfg": {
            "type": "SwinTransformer3D",
            "embed_dim": 16,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "window_size": (8, 7, 7),
            "mean_frame_down": True,
        },
        "init_cfg": {"type": "pretrained", "checkpoint": str(path)},
    }


@pytest.mark.parametrize(("sensor", "bands"), [("S2", 10), ("Landsat", 6), ("Modis", 7)])
def test_the_originals_init_cfg_really_loads(released, sensor, bands):
    built, expected = original.build(encoder_cfg(released, bands)), original.load_released(released, sensor)
    for key, value in expected.state_dict().items():
        assert torch.equal(built.state_dict()[key], value), key


def test_the_originals_init_cfg_is_refused_where_it_cannot_fit(released):
    with pytest.raises(InputError, match=r"patch_emd\.proj\.weight: \(16, 10, 4, 4, 4\) in the file"):
        original.build(encoder_cfg(released, patch=(4, 2, 2)))
    with pytest.raises(InputError, match="for which weights were published"):
        original.build(encoder_cfg(released, bands=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: cfg.update(typ="x"), "did you mean 'type'"),
        (lambda cfg: cfg["backbone_cfg"].update(qk_scale=1.0), "qk_scale"),
        (lambda cfg: cfg["backbone_cfg"].update(window_sise=1), "did you mean 'window_size'"),
        (lambda cfg: cfg.update(type="ResNet"), "did you mean|one of"),
    ],
)
def test_the_originals_dictionary_is_read_key_by_key(released, change, message):
    cfg = encoder_cfg(released)
    change(cfg)
    with pytest.raises(InputError, match=message):
        original.build(cfg)


def test_frozen_stages_and_one_image(released):
    cfg = encoder_cfg(released)
    cfg["backbone_cfg"]["frozen_stages"] = 2
    encoder = original.build(cfg).train()
    assert [any(p.requires_grad for p in stage.parameters()) for stage in encoder.backbone.layers] == [
        False,
        False,
        True,
        True,
    ]
    assert [stage.training for stage in encoder.backbone.layers] == [False, False, True, True]
    image = torch.randn(1, 10, 32, 32)
    with torch.inference_mode():
        one, same = encoder.eval()(image), encoder(image.unsqueeze(1))
    assert torch.equal(one["encoder_features"], same["encoder_features"])
    reduced = encoder_cfg(released)
    reduced["backbone_cfg"]["reduce_feature_scale"] = 2
    found = original.build(reduced)(torch.randn(1, 16, 10, 32, 32))
    assert [x.shape[1] for x in found["features_list"]] == [32, 32, 64, 128]


def test_the_weights_that_come_along_fill_everything_but_the_head(settings, tmp_path):
    """For one, two or three sensors; nothing is left over, and a name that does not exist is refused."""
    for sensors in (["S2"], ["S2", "Landsat"], ["Modis", "S2", "Landsat"]):
        data = {**settings["data"], "sensors": sensors, "statistics": "given"}
        experiment = parse({**settings, "data": data, "model": {"size": "tiny"}, "start_from": "agrifm-tiny"})
        known = Checkpoint.load(SHIPPED / "agrifm-tiny.safetensors").experiment.data.sensors
        chosen = [sensor for sensor in known if sensor.name in sensors]
        module = TrainingModule(experiment.with_sensors(chosen))
        match = load_start_weights(module, start_weights(experiment))
        assert {key.split(".")[0] for key in match.new} == {"head", "normalize"}
    with pytest.raises(InputError, match="did you mean 'agrifm-tiny'"):
        start_weights(parse({**settings, "start_from": "agrifm-tinny"}))
    with pytest.raises(InputError, match="or leave start_from out"):
        start_weights(parse({**settings, "start_from": "agrifm-tiny"}))
    with pytest.raises(InputError, match="or leave start_from out"):
        fit(parse({**settings, "start_from": "agrifm-tiny"}), tmp_path)
