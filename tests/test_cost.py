"""Attention equals a plain implementation, gradients included, and builds no mask for every window."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from agrifm.nn.embedding import token_validity
from agrifm.nn.swin import SIZES, Pyramid, Swin, SwinSize
from agrifm.nn.windows import MemoryEfficientAttention, WindowGroup, attend_groups, clip_window, lay_out

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import cost  # noqa: E402
import counted  # noqa: E402
import scaling  # noqa: E402
from yardstick import ExplicitSwin, yardstick_model  # noqa: E402

SMALL = SwinSize(
    clipped_bias="first_rows", width=16, depths=(2, 2, 2), heads=(1, 2, 4), window=(4, 3, 3), drop_path=0.0
)
CPU = torch.device("cpu")


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def pair(size: SwinSize, checkpointing: bool = False) -> tuple[Swin, ExplicitSwin]:
    """Our backbone and the plain one with the same weights, and bias tables large enough to matter."""
    torch.manual_seed(0)
    ours, plain = Swin(size, checkpointing=checkpointing), ExplicitSwin(size)
    for name, parameter in ours.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain


def summary(pyramid: Pyramid) -> torch.Tensor:
    """One number that depends on every stage; plain squares would be constant after a norm."""
    random = torch.Generator().manual_seed(1)
    return torch.stack([(s * torch.randn(s.shape, generator=random)).mean() for s in pyramid.stages]).sum()


@pytest.mark.parametrize("grid", [(8, 12, 12), (5, 13, 8), (3, 7, 10), (1, 2, 5)])
@pytest.mark.parametrize(("batch", "checkpointing"), [(1, False), (2, False), (2, True)])
def test_equals_the_yardstick_with_gradients(
    grid: tuple[int, int, int], batch: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs with and without gradients, and the gradients of every weight and of the input."""
    ours, plain = pair(SMALL, checkpointing)
    if checkpointing:
        monkeypatch.setattr("agrifm.nn.windows.PORTION_OF_TOKENS", 6000)
    x = torch.randn(batch, *grid, SMALL.width)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [model(value) for model, value in zip((ours, plain), inputs, strict=True)]
    with torch.no_grad():
        alone = ours(x)
    for a, b, c in zip(*(p.stages + p.merged for p in (*outputs, alone)), strict=True):
        assert difference(a, b) < 1e-4
        assert difference(c, b) < 1e-4
    for output in outputs:
        summary(output).backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        assert difference(parameter.grad, theirs[name].grad) < 1e-4, name
    assert difference(inputs[0].grad, inputs[1].grad) < 1e-4


def test_large_enough_for_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the work into portions changes nothing."""
    ours, plain = pair(SMALL)
    x = torch.randn(1, 8, 12, 12, SMALL.width)
    monkeypatch.setattr("agrifm.nn.windows.PORTION_OF_TOKENS", 1500)
    monkeypatch.setattr("agrifm.nn.windows.PORTION_OF_SCORES", 3000)
    with torch.no_grad():
        assert difference(ours(x).stages[-1], plain(x).stages[-1]) < 1e-4
    summary(ours(x)).backward()
    summary(plain(x)).backward()
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    assert difference(ours.get_parameter(name).grad, plain.get_parameter(name).grad) < 1e-4


def test_gradients_of_attention() -> None:
    """Checked against finite differences in double precision, with forbidden pairs."""
    torch.manual_seed(0)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[:2, 2:] = allowed[2:, :2] = False
    groups = (WindowGroup(2, None), WindowGroup(1, allowed))
    qkv = torch.randn(3, 4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: MemoryEfficientAttention.apply(a, b, groups), (qkv, bias))
    torch.testing.assert_close(MemoryEfficientAttention.apply(qkv, bias, groups), attend_groups(qkv, bias, groups))


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_and_checkpointing(inside: bool) -> None:
    """bfloat16 gradients stay near those of float32, wherever the backward pass is called."""
    ours, plain = pair(SMALL)
    x = torch.randn(1, 8, 12, 12, SMALL.width)
    summary(plain(x)).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = summary(checkpoint(ours, x, use_reentrant=False))
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    for block in (0, 1):
        name = f"layers.0.blocks.{block}.attn.relative_position_bias_table"
        assert difference(ours.get_parameter(name).grad, plain.get_parameter(name).grad) < 0.1


def test_training_after_inference_mode() -> None:
    """A layout cached in inference mode can be used in training."""
    lay_out.cache_clear()
    ours, _ = pair(SMALL)
    x = torch.randn(1, 8, 12, 12, SMALL.width)
    with torch.inference_mode():
        ours(x)
    summary(ours(x)).backward()


@pytest.mark.parametrize("grid", [(8, 128, 128), (16, 30, 31), (5, 8, 50)])
def test_no_mask_per_window(grid: tuple[int, int, int]) -> None:
    """At most eight masks of one window each, and every token in exactly one place."""
    window, shift = clip_window(grid, (8, 7, 7), shifted=True)
    layout = lay_out(2, grid, window, shift, CPU)
    tokens = window[0] * window[1] * window[2]
    assert len(layout.groups) <= 8
    assert all(p.allowed is None or p.allowed.shape == (tokens, tokens) for p in layout.groups)
    assert sum(p.count for p in layout.groups) * tokens == len(layout.tokens)
    numbers = torch.arange(1, 2 * grid[0] * grid[1] * grid[2] + 1.0).view(2, *grid, 1)
    split = layout.split(numbers)
    assert int((split == 0).sum()) == len(layout.padding)
    assert torch.equal(layout.join(split, grid), numbers)


def test_probabilities_are_not_kept_for_training() -> None:
    """The tensors kept for the backward pass are smaller than the scores alone."""
    torch.manual_seed(0)
    attention = Swin(replace(SMALL, window=(8, 7, 7))).layers[0].blocks[0].attn
    kept: list[int] = []
    x = torch.randn(16, 392, SMALL.width)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attention(x, (8, 7, 7), (WindowGroup(16, None),))
    assert max(kept) < 16 * 392 * 392 / 4


def flops(case: cost.Case) -> float:
    """Counted operations of a forward pass."""
    return cost.measure_forward(case, 1, 60.0)["gflop"]


def test_light_decoder_is_light() -> None:
    """At 32x10x256x256 everything around the base encoder costs at most 15 % of it; counted without computing."""
    meta = torch.device("meta")
    model = cost.CropModel([cost.S2], cost.CLASSES, cost.ModelConfig(size="base")).to(meta)
    image, days = torch.empty(1, 32, 10, 256, 256, device=meta), torch.empty(1, 32, device=meta)
    valid = torch.empty(1, 32, 256, 256, dtype=torch.bool, device=meta)
    with FlopCounterMode(display=False) as around:
        real = torch.empty(1, 32, dtype=torch.bool, device=meta)
        tokens = model.context["S2"](model.embeddings["S2"](image), valid, days, real)
    with FlopCounterMode(display=False) as encoder:
        pyramid = model.backbone("S2")(tokens)
    strides = model.config.swin.strides(model.config.patch)
    with FlopCounterMode(display=False) as decoder:
        reduced = model.decoder.reduce("S2", pyramid, token_validity(valid, strides))
        extents = {"S2": [(256 / rows, 256 / columns) for _, rows, columns in strides]}
        model.head(model.decoder({"S2": reduced}, extents, (256, 256)))
    share = (around.get_total_flops() + decoder.get_total_flops()) / encoder.get_total_flops()
    assert 0.01 < share <= cost.DECODER_SHARE


def test_counts_attention() -> None:
    """Our backbone and the plain one do the same multiplications, so their times can be compared."""
    case = cost.Case("tiny", 64, "float32", "encoder")
    assert flops(case) == pytest.approx(flops(case.yardstick), rel=0.02)


def test_table_and_floors() -> None:
    """Rows show ratios, slow rows say so, floors say pass or miss."""
    rows = [cost.Case("base", 256, "float32", subject) for subject in cost.SUBJECTS]
    figures = {"forward": 1.0, "train": 3.0, "megabytes": 100.0, "gflop": 100.0}
    results = {row: dict(figures) for row in rows}
    results[rows[1]]["forward"] = 2.6
    results[rows[5]] = {}
    lines = list(cost.table(results))
    assert "1.00 (2.60×)" in lines[2]
    assert "over limit" in lines[-1]
    found = dict(cost.floors(results))
    assert any("2.60×" in line and line.endswith("pass") for line in found)
    assert any("not measured" in line for line in found)
    results[rows[1]]["forward"] = 2.0
    assert rows[0] in [case for _, case in cost.floors(results)]


def test_child_measures_and_reports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement is one line of JSON."""
    case = {"size": "tiny", "pixels": 32, "precision": "bf16", "subject": "model, light, checkpointing"}
    cost.run_task(json.dumps({"case": case, "mode": "train", "repeats": 1, "limit": 60}))
    found = json.loads(capsys.readouterr().out)
    assert found["train"] > 0


def test_yardstick_model_equals_ours() -> None:
    """The plain model gives the same map."""
    torch.manual_seed(0)
    config = cost.ModelConfig(size=replace(SIZES["tiny"], drop_path=0.0), decoder="original")
    ours = cost.CropModel([cost.S2], 3, config, frames=8).eval()
    plain = yardstick_model(cost.S2, 3, config, 8).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    batch = cost.collate([cost.Sample({"S2": torch.rand(8, 10, 32, 32) * 1e4})])
    with torch.no_grad():
        assert difference(ours(batch), plain(batch)) < 1e-4


def test_operations_and_bytes_are_those_that_are_stored() -> None:
    """More of either is a slower model; after a change that is meant, ``benchmarks/counted.py --write`` stores them."""
    stored = json.loads(counted.STORED.read_text())
    for name, count in counted.all_counts().items():
        gflop, megabytes = stored.pop(name)
        assert count.gflop == pytest.approx(gflop, rel=1e-3), name
        assert count.megabytes == pytest.approx(megabytes, rel=1e-3), name
    assert not stored


def test_training_creates_what_inference_does_and_more() -> None:
    """A count that misses the backward pass would be the same for both."""
    forward = counted.count("tiny", 64, train=False)
    training = counted.count("tiny", 64, train=True)
    assert 2.5 < training.gflop / forward.gflop < 3.5
    assert training.megabytes > 1.5 * forward.megabytes


def test_exponents_are_fitted() -> None:
    assert scaling.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
