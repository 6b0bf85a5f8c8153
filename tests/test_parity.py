"""Equality with the original.

The reference numbers in tests/data/parity are checked everywhere. The numbers in ../shared/parity, which the original's
own code computed from random weights, are checked where that folder exists.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agrifm.compat import original

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import parity_subset  # noqa: E402
from parity_subset import encoder_cfg, model_cfg  # noqa: E402

SHARED = ROOT.parent / "shared" / "parity"
TOLERANCE = 1e-4
INDEX = json.loads((SHARED / "index.json").read_text()) if SHARED.is_dir() else {}
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference numbers are not on this machine")


def cases(kind):
    return [name for name, entry in INDEX.items() if entry["kind"] == kind]


def under(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


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


@pytest.mark.parametrize("case", parity_subset.CASES)
def test_generated_case_equals_its_reference(case):
    expected = under(load_file(parity_subset.REFERENCE), f"{case}.")
    results = parity_subset.compute(case)
    assert results.keys() == expected.keys()
    for key, reference in expected.items():
        if not key.startswith("gradient."):
            assert_equal(key, results[key], reference)
            continue
        # The first number is the norm of the gradient; the products with random vectors are of its size.
        assert results[key].shape == reference.shape
        difference = float((results[key] - reference).abs().max())
        assert difference <= TOLERANCE * float(reference.abs().max()) + 1e-9, key


def test_generated_numbers_are_the_same_everywhere():
    """The empty name is the seed 0, from which SplitMix64 gives its published numbers."""
    assert parity_subset.integers("", 3).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("case", cases("encoder"))
def test_encoder_equals_original(case):
    entry, tensors = INDEX[case], load_file(SHARED / f"{case}.safetensors")
    module = original.build(encoder_cfg(entry, entry["in_chans"])).eval()
    original.load_state_dict(module, under(tensors, "weights."))
    image = tensors["input"].requires_grad_()
    results = original.forward(module, image)
    assert_equal("encoder_features", results["encoder_features"], tensors["encoder_features"])
    for i, features in enumerate(results["features_list"]):
        assert_equal(f"features_list.{i}", features, tensors[f"features_list.{i}"])
    loss = sum((x.square().mean() for x in results["features_list"]), results["encoder_features"].square().mean())
    assert abs(float(loss.detach()) - entry["loss"]) <= TOLERANCE * entry["loss"]
    loss.backward()
    assert_gradients_equal(module, tensors, input=image)


@pytest.mark.parametrize("case", cases("model"))
def test_model_equals_original(case):
    entry, tensors = INDEX[case], load_file(SHARED / f"{case}.safetensors")
    module = original.build(model_cfg(entry)).eval()
    original.load_state_dict(module, under(tensors, "weights."))
    logits = original.forward(module, under(tensors, "input."))
    assert_equal("logits", logits, tensors["logits"])
    loss = original.loss(logits, tensors["label"], entry["ignore_index"])
    assert abs(float(loss.detach()) - entry["loss"]) <= TOLERANCE * entry["loss"]
    loss.backward()
    assert_gradients_equal(module, tensors)


@needs_shared
@pytest.mark.parametrize("sensor", ["S2", "Landsat", "Modis"])
def test_released_layout_loads_and_equals(sensor):
    tensors = load_file(SHARED / "released_layout.safetensors")
    module = original.load_released(SHARED / "released_layout.pth", sensor)
    with torch.inference_mode():
        results = original.forward(module, tensors[f"input.{sensor}"])
    assert_equal("encoder_features", results["encoder_features"], tensors[f"encoder_features.{sensor}"])
    for i, features in enumerate(results["features_list"]):
        assert_equal(f"features_list.{i}", features, tensors[f"features_list.{i}.{sensor}"])


@needs_shared
@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_metrics_equal_original(case):
    tensors, entry = load_file(SHARED / "metrics.safetensors"), INDEX["metrics"]["cases"][case]
    metrics = original.metrics(
        tensors[f"{case}.pred"], tensors[f"{case}.label"], entry["num_classes"], entry["ignore_index"]
    )
    for key, reference in entry["mean"].items():
        ours = metrics[key if key == "aAcc" else f"m{key}"]
        assert ours == pytest.approx(reference, rel=TOLERANCE), key
