"""Equality with the original, on numbers that its own code computed. Needs the reference files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agrifm.compat import original

PARITY = Path(__file__).parents[2] / "shared" / "parity"
TOLERANCE = 1e-4
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the original's reference numbers are not on this machine")
INDEX = json.loads((PARITY / "index.json").read_text()) if PARITY.is_dir() else {}


def cases(kind):
    return [name for name, entry in INDEX.items() if entry["kind"] == kind]


def under(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def encoder_cfg(entry, bands):
    return {
        "type": "PretrainingSwinTransformer3DEncoder",
        "patch_emd_cfg": {
            "type": "SwinPatchEmbed3D",
            "patch_size": entry["patch_size"],
            "in_chans": bands,
            "embed_dim": entry["embed_dim"],
        },
        "backbone_cfg": {
            "type": "SwinTransformer3D",
            "pretrained": None,
            "patch_size": entry["patch_size"],
            "embed_dim": entry["embed_dim"],
            "depths": entry["depths"],
            "num_heads": entry["num_heads"],
            "window_size": entry["window_size"],
            "feature_fusion": entry["feature_fusion"],
            "mean_frame_down": entry.get("mean_frame_down", True),
        },
    }


def model_cfg(entry):
    side = entry["img_size"]
    encoders = {name: encoder_cfg(entry, source["in_chans"]) for name, source in entry["sources"].items()}
    return {
        "type": "MultiUnifiedModel",
        "encoders": {"type": "MultiModalEncoder", "encoders_cfg": encoders},
        "neck": {
            "type": "MultiFusionNeck",
            "embed_dim": entry["neck_embed_dim"],
            "in_feature_key": list(entry["sources"]),
            "feature_size": (side // 16, side // 16),
            "out_size": (side, side),
            "in_fusion_key_list": entry["in_fusion_key_list"],
        },
        "head": {
            "type": "CropFCNHead",
            "num_classes": entry["num_classes"],
            "embed_dim": entry["neck_embed_dim"],
            "loss_model": {"type": "CropCEloss"},
        },
    }


def assert_equal(what, ours, reference):
    margin = float((ours.detach() - reference).abs().max() / reference.abs().max())
    print(f"{what}: {margin:.2e} of {TOLERANCE:.0e}")
    assert ours.shape == reference.shape
    assert margin <= TOLERANCE, what


def assert_gradients_equal(module, tensors, **inputs):
    parameters = dict(module.named_parameters()) | inputs
    expected = under(tensors, "grad.")
    assert expected
    for key, reference in expected.items():
        assert_equal(f"gradient of {key}", parameters[key].grad, reference)


@pytest.mark.parametrize("case", cases("encoder"))
def test_encoder_equals_original(case):
    entry, tensors = INDEX[case], load_file(PARITY / f"{case}.safetensors")
    module = original.build(encoder_cfg(entry, entry["in_chans"])).eval()
    original.load_state_dict(module, under(tensors, "weights."))
    image = tensors["input"].requires_grad_()
    found = original.forward(module, image)
    assert_equal("encoder_features", found["encoder_features"], tensors["encoder_features"])
    for i, features in enumerate(found["features_list"]):
        assert_equal(f"features_list.{i}", features, tensors[f"features_list.{i}"])
    loss = sum((x.square().mean() for x in found["features_list"]), found["encoder_features"].square().mean())
    assert abs(float(loss) - entry["loss"]) <= TOLERANCE * entry["loss"]
    loss.backward()
    assert_gradients_equal(module, tensors, input=image)


@pytest.mark.parametrize("case", cases("model"))
def test_model_equals_original(case):
    entry, tensors = INDEX[case], load_file(PARITY / f"{case}.safetensors")
    module = original.build(model_cfg(entry)).eval()
    original.load_state_dict(module, under(tensors, "weights."))
    logits = original.forward(module, under(tensors, "input."))
    assert_equal("logits", logits, tensors["logits"])
    loss = original.loss(logits, tensors["label"], entry["ignore_index"])
    assert abs(float(loss) - entry["loss"]) <= TOLERANCE * entry["loss"]
    loss.backward()
    assert_gradients_equal(module, tensors)


@pytest.mark.parametrize("sensor", ["S2", "Landsat", "Modis"])
def test_released_layout_loads_and_equals(sensor):
    tensors = load_file(PARITY / "released_layout.safetensors")
    module = original.load_released(PARITY / "released_layout.pth", sensor)
    with torch.inference_mode():
        found = original.forward(module, tensors[f"input.{sensor}"])
    assert_equal("encoder_features", found["encoder_features"], tensors[f"encoder_features.{sensor}"])
    for i, features in enumerate(found["features_list"]):
        assert_equal(f"features_list.{i}", features, tensors[f"features_list.{i}.{sensor}"])


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_metrics_equal_original(case):
    tensors, entry = load_file(PARITY / "metrics.safetensors"), INDEX["metrics"]["cases"][case]
    found = original.metrics(
        tensors[f"{case}.pred"], tensors[f"{case}.label"], entry["num_classes"], entry["ignore_index"]
    )
    for key, reference in entry["mean"].items():
        ours = found[key if key == "aAcc" else f"m{key}"]
        assert ours == pytest.approx(reference, rel=TOLERANCE), key
