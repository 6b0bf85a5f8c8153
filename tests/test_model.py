"""The whole model: padding, gaps, missing sensors, odd sizes and options."""

from dataclasses import replace

import pytest
import torch
from conftest import SENSORS, random_sample, unequal_samples

from agrifm.errors import InputError
from agrifm.nn.decoder import masked_softmax, resample, resample_matrix
from agrifm.nn.embedding import Context, Series, fill_gaps, resample_in_time, token_validity
from agrifm.nn.linear import LEAST_WIDTH, Linear
from agrifm.nn.model import CropModel, ModelConfig, count_parameters
from agrifm.nn.swin import SIZES, SwinSize
from agrifm.nn.windows import WindowAttention
from agrifm.sample import Season, collate

SMALL = SwinSize(width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=(4, 3, 3))


def make(seed=0, sensors=SENSORS, frames=None, **options):
    torch.manual_seed(seed)
    return CropModel(sensors, 5, ModelConfig(size=SMALL, **options), frames=frames).eval()


def activate_encodings(model):
    """Give the encodings that start at zero random weights, so that they have an effect."""
    for context in model.context.values():
        torch.nn.init.normal_(context.gaps.weight, std=0.1)
        if context.dates is not None:
            torch.nn.init.normal_(context.dates.weight, std=0.1)
    return model


@torch.no_grad()
def run(model, *samples):
    return model(collate(samples))


@pytest.mark.parametrize("shared", [False, True])
def test_a_sample_gets_the_same_map_alone_and_in_any_batch(shared):
    model = activate_encodings(make(shared_backbone=shared))
    samples = unequal_samples()
    together = run(model, *samples)
    for sample, expected in zip(samples, together, strict=True):
        torch.testing.assert_close(run(model, sample)[0], expected, rtol=1e-4, atol=1e-4)


def test_what_stands_under_invalid_pixels_never_matters():
    model, sample = activate_encodings(make()), random_sample(5)
    corrupted = {
        name: torch.where(sample.valid[name].unsqueeze(1), image, torch.tensor(1e6))
        for name, image in sample.images.items()
    }
    torch.testing.assert_close(run(model, sample), run(model, replace(sample, images=corrupted)))


def test_a_sensor_without_any_valid_pixel_is_as_if_missing():
    model, sample = make(), random_sample(6)
    blind = replace(sample, valid={**sample.valid, "Landsat": torch.zeros_like(sample.valid["Landsat"])})
    torch.testing.assert_close(run(model, blind), run(model, sample.without("Landsat")))


def test_every_sensor_matters_and_none_is_needed():
    model, sample = make(), random_sample(7)
    full = run(model, sample)
    for name in sample.images:
        assert not torch.allclose(run(model, sample.without(name)), full, atol=1e-4)
        alone = sample
        for other in set(sample.images) - {name}:
            alone = alone.without(other)
        assert run(model, alone).isfinite().all()


def test_a_batch_of_unknown_sensors_is_refused():
    sample = random_sample(8)
    other = replace(sample, images={"Radar": torch.zeros(2, 3, 24, 28)}, valid={}, dates={})
    with pytest.raises(InputError, match="at least one of S2, Landsat, Modis"):
        run(make(), other)


@pytest.mark.parametrize("size", [(24, 24), (25, 31), (7, 50), (3, 3)])
@pytest.mark.parametrize("patch", [(4, 2, 2), (4, 4, 4)])
def test_any_size_comes_back_at_its_own_size(size, patch):
    sample = random_sample(9, frames=5, size=size)
    assert run(make(patch=patch), sample).shape == (1, 5, *size)


def test_without_label_the_finest_sensor_sets_the_grid():
    sample = replace(random_sample(10), label=None)
    assert run(make(), sample).shape[-2:] == (24, 28)
    assert run(make(), sample.without("S2")).shape[-2:] == (8, 9)


def test_checkpointing_changes_nothing():
    maps, gradients = [], []
    for checkpointing in (False, True):
        model = make(gradient_checkpointing=checkpointing)
        output = model(collate([random_sample(11)]))
        output.square().mean().backward()
        maps.append(output.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*maps)
    assert len(gradients[0]) == len(gradients[1]) > 50
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_all_weights_learn_from_a_full_batch():
    model = activate_encodings(make())
    model(collate([random_sample(12)])).square().mean().backward()
    without_gradient = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Attention over a single token has nothing to weigh: coarse levels of a 2 x 2 image.
    assert {name for name in without_gradient if "relative_position" not in name and ".score." not in name} == set()
    assert not any(name.startswith("backbones.S2.layers.0") for name in without_gradient)


def test_a_frozen_encoder_stays_as_it_is():
    model = make(freeze_encoder=True).train()
    assert not any(p.requires_grad for p in model.encoder_parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())
    assert not model.backbones.training
    assert model.decoder.training


def test_dates_start_without_effect():
    with_dates, without = make(day_of_year=True), make(day_of_year=False)
    without.load_state_dict({k: v for k, v in with_dates.state_dict().items() if ".dates." not in k})
    sample = random_sample(13)
    assert torch.equal(run(with_dates, sample), run(without, sample))


def test_dates_matter_once_learned():
    model, sample = activate_encodings(make()), random_sample(14)
    spring = replace(sample, dates={name: torch.arange(len(x)) * 5 for name, x in sample.images.items()})
    autumn = replace(spring, dates={name: days + 200 for name, days in spring.dates.items()})
    assert not torch.allclose(run(model, spring), run(model, autumn), atol=1e-3)


def test_original_decoder_wants_its_frames():
    model = make(decoder="original", frames=8)
    sample = random_sample(15, frames=8)
    sample_of_8_frames = replace(
        sample,
        images={"S2": sample.images["S2"], "Landsat": torch.randn(8, 6, 8, 9), "Modis": torch.randn(8, 7, 2, 2)},
        valid={},
    )
    assert run(model, sample_of_8_frames).shape == (1, 5, 24, 28)
    with pytest.raises(InputError, match="decoder: pyramid"):
        run(model, random_sample(15, frames=13))
    with pytest.raises(InputError, match="decoder: pyramid"):
        run(model, sample_of_8_frames.without("Modis"))
    with pytest.raises(InputError, match="set 'frames'"):
        make(decoder="original")


def test_named_sizes_come_from_one_dial():
    assert [size.width for size in SIZES.values()] == [32, 64, 128]
    assert SIZES["base"].depths == (2, 2, 18, 2)
    assert SIZES["base"].stage_heads == (4, 8, 16, 32)
    frames, width = 8, SIZES["base"].width
    strides = SIZES["base"].strides((4, 2, 2))
    assert {frames * 4 // stride[0] * width * 2**i for i, stride in enumerate(strides)} == {1024}
    assert count_parameters(make()) > 100_000


def test_a_clipped_window_keeps_its_geometry():
    attention = WindowAttention(4, (4, 3, 3), 1)
    table = attention.relative_position_bias_table
    table.data = torch.arange(len(table)).float().unsqueeze(1)
    full, clipped = attention.bias((4, 3, 3))[0].view(4, 3, 3, 4, 3, 3), attention.bias((2, 2, 3))[0]
    assert torch.equal(clipped.view(2, 2, 3, 2, 2, 3), full[:2, :2, :, :2, :2, :])
    quirk = WindowAttention(4, (4, 3, 3), 1, first_rows=True)
    quirk.relative_position_bias_table = table
    assert not torch.equal(quirk.bias((2, 2, 3)), clipped[None])
    assert torch.equal(quirk.bias((2, 3, 3)), attention.bias((2, 3, 3)))


def test_gaps_are_filled_linearly_in_time():
    image = torch.tensor([1.0, 99.0, 4.0, 99.0]).view(1, 4, 1, 1, 1)
    valid = torch.tensor([True, False, True, False]).view(1, 4, 1, 1)
    filled, distance = fill_gaps(image, valid, torch.tensor([[350.0, 360.0, 380.0, 405.0]]))
    torch.testing.assert_close(filled.flatten(), torch.tensor([1.0, 2.0, 4.0, 4.0]))
    assert distance.flatten().tolist() == [0, 10, 0, 25]
    never, distance = fill_gaps(image, torch.zeros_like(valid), torch.zeros(1, 4))
    assert not never.any()
    assert distance.isinf().all()


def test_a_calendar_reads_a_line_off_any_dates():
    """A series that grows by one a day is the same on the calendar, whatever its dates and gaps are."""
    days = torch.tensor([[100.0, 103.0, 111.0, 125.0, 140.0]])
    image = days.view(1, 5, 1, 1, 1) - 100
    valid = torch.ones(1, 5, 1, 1, dtype=torch.bool)
    resampled = resample_in_time(Series(image, valid, days), torch.tensor([100.0]), 40.0, 4)
    assert resampled.days.tolist() == [[105, 115, 125, 135]]
    torch.testing.assert_close(resampled.image.flatten(), torch.tensor([5.0, 15.0, 25.0, 35.0]))
    assert resampled.valid.all()
    valid[0, 2:4] = False
    corrupted = Series(image.masked_fill(~valid[:, :, None], 1e6), valid, days)
    hidden = resample_in_time(corrupted, torch.tensor([100.0]), 40.0, 4)
    torch.testing.assert_close(hidden.image, resampled.image)
    assert hidden.valid.flatten().tolist() == [True, False, False, True]


def test_with_a_calendar_batches_of_any_dates_agree():
    model = activate_encodings(make(time_steps=8, season=Season(60.0, 200.0)))
    samples = [random_sample(i, frames=n) for i, n in enumerate((3, 9, 1))]
    samples = [
        replace(s, dates={k: 19800 + 7 * i + torch.arange(len(x)) * 11 for k, x in s.images.items()})
        for i, s in enumerate(samples)
    ]
    samples.append(samples[0].without("S2"))
    together = run(model, *samples)
    for sample, expected in zip(samples, together, strict=True):
        torch.testing.assert_close(run(model, sample)[0], expected, rtol=1e-4, atol=1e-4)
    later = replace(samples[1], dates={name: days + 1461 for name, days in samples[1].dates.items()})
    torch.testing.assert_close(run(model, later)[0], together[1], rtol=1e-3, atol=1e-3)


def test_seasons():
    assert Season.of([(100.0, 200.0), (95.0 + 1461, 180.0 + 1461)]) == Season(95.0, 105.0)
    winter = Season.of([(340.0, 480.0), (360.0, 500.0), (3.0, 130.0)])
    assert winter.start == 340.0
    assert winter.length == pytest.approx(160.0)
    assert float(winter.begin(torch.tensor(345.0 + 3652.5))) == pytest.approx(340.0 + 3652.5)
    assert float(winter.begin(torch.tensor(10.0))) == pytest.approx(340.0 - 365.25)
    assert float(winter.begin(torch.tensor(330.0))) == pytest.approx(340.0)


def test_token_validity_needs_one_valid_pixel():
    valid = torch.zeros(1, 8, 6, 6, dtype=torch.bool)
    valid[0, 5, 0, 3] = True
    fine, coarse = token_validity(valid, ((4, 2, 2), (8, 4, 4)))
    assert fine.nonzero().tolist() == [[0, 1, 0, 1]]
    assert coarse.nonzero().tolist() == [[0, 0, 0, 0]]


def test_masked_softmax_of_nothing_is_zero():
    scores = torch.tensor([[1.0, 5.0, 2.0]]).requires_grad_()
    weights = masked_softmax(scores, torch.tensor([[True, False, True]]), 1)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert weights[0, 1] == 0
    nothing = masked_softmax(scores, torch.zeros(1, 3, dtype=torch.bool), 1)
    nothing.sum().backward()
    assert not nothing.any()
    assert scores.grad.isfinite().all()


def test_resampling_keeps_a_ramp_on_the_ground():
    """A ramp over the footprint stays the same ramp on another grid, also where cells extend beyond the footprint."""
    matrix = resample_matrix(4, 3.5, 7, 7.0)
    centers = (torch.arange(4) + 0.5) / 3.5
    expected = (torch.arange(7) + 0.5) / 7
    inside = (expected > centers[0]) & (expected < centers[-1])
    torch.testing.assert_close((matrix @ centers)[inside], expected[inside])
    torch.testing.assert_close(matrix.sum(1), torch.ones(7))
    x = torch.randn(1, 3, 3, 2)
    assert resample(x, (3.0, 3.0), (3, 3), (3.0, 3.0)) is x


def test_context_ignores_padded_frames():
    context = Context(4, (2, 1, 1), dates=True)
    torch.nn.init.ones_(context.gaps.weight)
    torch.nn.init.ones_(context.dates.weight)
    valid, real = torch.zeros(1, 2, 1, 1, dtype=torch.bool), torch.tensor([[True, False]])
    days = torch.tensor([[0.0, 100.0]])
    tokens = context(torch.zeros(1, 1, 1, 1, 4), valid, days, real)
    torch.testing.assert_close(tokens.flatten(), torch.full((4,), 1.0 + 4.0))


@pytest.mark.parametrize("width", [48, LEAST_WIDTH])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_linear_layer_has_the_outputs_and_gradients_of_pytorch(width, gelu):
    torch.manual_seed(0)
    layer = Linear(width, 40, gelu=gelu)
    plain = torch.nn.Linear(width, 40)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 5, width, requires_grad=True)
    same_x = x.detach().clone().requires_grad_()
    output = layer(x)
    expected = torch.nn.functional.gelu(plain(same_x)) if gelu else plain(same_x)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, same_x.grad)
    for parameter, same in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same.grad)


def test_a_frozen_linear_layer_passes_gradients_on():
    layer = Linear(48, 40).requires_grad_(False)
    x = torch.randn(4, 48, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, -1))
    assert layer.weight.grad is None
