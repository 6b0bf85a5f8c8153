"""Write the reference numbers of tests/data/parity: outputs, losses, gradients and metrics for generated inputs.

    .venv/bin/python benchmarks/parity_subset.py

Weights and inputs come from integer arithmetic, so they are the same on every machine and need not be stored. The
reference numbers are those of ``agrifm.compat.original``; tests/data/parity/README.md says what they were checked
against. Run this only to add a case: numbers of an existing case must not change.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from agrifm.compat import original

REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "parity" / "reference.safetensors"
PROJECTIONS = 4

BACKBONE = {
    "embed_dim": 4,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 1, 2, 4],
    "window_size": [2, 3, 3],
}
# Sizes that no patch, window or step divides, so that every kind of padding takes part.
ENCODERS: dict[str, dict[str, Any]] = {
    "encoder_cat": {
        **BACKBONE,
        "in_chans": 10,
        "patch_size": [4, 2, 2],
        "feature_fusion": "cat",
        "mean_frame_down": True,
        "input": (2, 9, 10, 21, 28),
    },
    "encoder_mean": {
        **BACKBONE,
        "in_chans": 6,
        "patch_size": [4, 4, 4],
        "feature_fusion": "mean",
        "mean_frame_down": False,
        "input": (1, 13, 6, 37, 30),
    },
}
MODEL: dict[str, Any] = {
    **BACKBONE,
    "patch_size": [4, 2, 2],
    "feature_fusion": "cat",
    "sources": {"S2": {"in_chans": 10}, "Landsat": {"in_chans": 6}},
    "inputs": {"S2": (2, 8, 10, 32, 32), "Landsat": (2, 8, 6, 11, 11)},
    "img_size": 32,
    "neck_embed_dim": 32,
    "in_fusion_key_list": [{"S2": 16, "Landsat": 16}, {"S2": 8, "Landsat": 8}, {"S2": 8, "Landsat": 8}],
    "num_classes": 3,
}
METRICS = {"metrics_2": (2, -1), "metrics_5": (5, 255)}  # number of classes, ignored label


def encoder_cfg(entry: dict[str, Any], bands: int) -> dict[str, Any]:
    """Return the original's configuration of one encoder."""
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


def model_cfg(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the original's configuration of a whole model."""
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


def integers(name: str, *shape: int) -> np.ndarray:
    """Return pseudo-random 64-bit integers that depend on the name alone (SplitMix64; Steele et al., OOPSLA 2014)."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        start = np.uint64(zlib.crc32(name.encode()) << 32)
        x = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x.reshape(shape)


def uniform(name: str, *shape: int) -> Tensor:
    """Return numbers between -1 and 1 that depend on the name alone, exact in float32."""
    numbers = (integers(name, *shape) >> np.uint64(40)).astype(np.float64)  # 24 bits
    return torch.from_numpy((numbers / 2**23 - 1).astype(np.float32))


def label_of(name: str, classes: int, ignored: int, *shape: int) -> Tensor:
    """Return labels from 0 on, of which about one in ``classes + 1`` is ignored."""
    label = torch.from_numpy((integers(name, *shape) % np.uint64(classes + 1)).astype(np.int64))
    return label.masked_fill(label == classes, ignored)


def weights_of(case: str, module: nn.Module) -> dict[str, Tensor]:
    """Return weights for every key of a module, scaled so that features keep their size from layer to layer."""
    weights = {}
    for key, value in module.state_dict().items():
        random = uniform(f"{case}.{key}", *value.shape) if value.is_floating_point() else value
        if key.endswith("running_var") or (key.endswith("weight") and value.ndim == 1):
            random = 1 + 0.5 * random
        elif key.endswith("weight"):
            inputs = value[0].numel()
            random = random * (3 / inputs) ** 0.5
        weights[key] = random
    return weights


def sketch(name: str, gradient: Tensor) -> Tensor:
    """Summarize a gradient by its norm and its products with random vectors."""
    gradient = gradient.flatten().double()
    products = uniform(name, PROJECTIONS, len(gradient)).double() @ gradient
    return torch.cat([gradient.norm().view(1), products])


def compute_encoder(case: str) -> dict[str, Tensor]:
    """Return features, loss and gradients of an encoder."""
    entry = ENCODERS[case]
    module = original.build(encoder_cfg(entry, entry["in_chans"])).eval()
    original.load_state_dict(module, weights_of(case, module))
    image = uniform(f"{case}.input", *entry["input"]).requires_grad_()
    features = original.forward(module, image)
    results = {"encoder_features": features["encoder_features"]}
    for i, level in enumerate(features["features_list"]):
        results[f"features_list.{i}"] = level
    loss = torch.stack([part.square().mean() for part in results.values()]).sum()
    loss.backward()
    return results | {"loss": loss} | _gradients(case, module) | {"gradient.input": sketch("input", image.grad)}


def compute_model() -> dict[str, Tensor]:
    """Return logits, loss and gradients of a whole model with two sensors."""
    module = original.build(model_cfg(MODEL)).eval()
    original.load_state_dict(module, weights_of("model", module))
    images = {name: uniform(f"model.input.{name}", *shape) for name, shape in MODEL["inputs"].items()}
    side = MODEL["img_size"]
    logits = original.forward(module, images)
    loss = original.loss(logits, label_of("model.label", MODEL["num_classes"], -1, len(logits), side, side), -1)
    loss.backward()
    return {"logits": logits, "loss": loss} | _gradients("model", module)


def _gradients(case: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"gradient.{key}": sketch(f"{case}.{key}", value.grad) for key, value in module.named_parameters()}


def compute_metrics(case: str) -> dict[str, Tensor]:
    """Return the mean metrics of a prediction of which about half is correct."""
    classes, ignored = METRICS[case]
    label = label_of(f"{case}.label", classes, ignored, 3, 32, 32)
    wrong = torch.from_numpy((integers(f"{case}.wrong", 3, 32, 32) % np.uint64(classes)).astype(np.int64))
    is_correct = torch.from_numpy(integers(f"{case}.correct", 3, 32, 32) % np.uint64(2) == 0) & (label != ignored)
    metrics = original.metrics(torch.where(is_correct, label, wrong), label, classes, ignored)
    del metrics["kappa"]  # the original has no kappa
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()}


def compute(case: str) -> dict[str, Tensor]:
    """Return all numbers of a case."""
    if case in ENCODERS:
        return compute_encoder(case)
    return compute_model() if case == "model" else compute_metrics(case)


CASES = (*ENCODERS, "model", *METRICS)


def main() -> None:
    """Write the reference file."""
    tensors = {}
    for case in CASES:
        for key, value in compute(case).items():
            tensors[f"{case}.{key}"] = value.detach().clone().contiguous()
    save_file(tensors, REFERENCE)
    print(f"{REFERENCE}: {len(tensors)} tensors, {REFERENCE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
