"""Sensitivity: second moments against outputs computed outright, what is left unchanged, calibration inputs."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY
from torch import nn

from edgegen.errors import InputError
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.prompts import read_prompts
from edgegen.quantize.calibration import calibrate, default_prompts, spread
from edgegen.quantize.gradients import gradient_errors
from edgegen.quantize.layers import quantizable
from edgegen.quantize.moments import SAMPLE, Moments
from edgegen.quantize.palette import palettize
from edgegen.quantize.sensitivity import groups, measure, palettes, velocity_error, velocity_errors

LAYERS = {
    "linear": (nn.Linear(24, 10), (3, 7, 24)),
    "conv 1x1": (nn.Conv2d(8, 6, 1), (2, 8, 4, 5)),
    "conv 2x2, stride 2, grouped": (nn.Conv2d(8, 12, 2, stride=2, groups=4), (2, 8, 6, 4)),
    "conv 3x3, padded": (nn.Conv2d(4, 6, 3, padding=1, bias=False), (2, 4, 5, 5)),
}


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(TINY)


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint.transformer(1.0)


@pytest.fixture(scope="module")
def batches(checkpoint, model):
    return calibrate(checkpoint, model, ["a dog", "two cats", "a tree"])


def apply(layer, weight, x):
    """The layer's output without bias for another weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("kind", LAYERS)
def test_output_power_is_that_of_the_outputs(kind):
    layer, shape = LAYERS[kind]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) + 0.5 for _ in range(3)]
    change = torch.randn(layer.weight.shape, generator=generator)
    held = Moments(layer)
    for x in inputs:
        held.add(x)
    expected = torch.cat([apply(layer, change, x).flatten() for x in inputs]).square().mean()
    assert held.output_power(change) == pytest.approx(float(expected), rel=1e-4)


def test_wide_layers_keep_an_even_sample_of_their_inputs():
    layer = nn.Linear(SAMPLE + 100, 8, bias=False)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(700, SAMPLE + 100, generator=generator) * scale for scale in (1.0, 2.0, 3.0)]
    held = Moments(layer)
    held.add(inputs[0])
    first = float(apply(layer, layer.weight, inputs[0]).square().mean())
    assert held.rows == 700 and held.output_power(layer.weight) == pytest.approx(first, rel=1e-4)  # all of them still
    for x in inputs[1:]:
        held.add(x)
    expected = float(torch.cat([apply(layer, layer.weight, x) for x in inputs]).square().mean())
    assert held.rows == SAMPLE
    assert held.output_power(layer.weight) == pytest.approx(expected, rel=0.1)
    assert held.importance().mean() == pytest.approx((1 + 4 + 9) / 3, rel=0.1)


def test_importance_is_the_mean_square_of_each_input():
    layer, shape = LAYERS["conv 2x2, stride 2, grouped"]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    held = Moments(layer)
    held.add(x)
    importance = held.importance()
    assert importance.shape == layer.weight.shape
    top_left = x[:, :, ::2, ::2].square().mean((0, 2, 3))  # (channels,): what meets element (., ., 0, 0)
    assert torch.allclose(importance[5, :, 0, 0], top_left[2:4], rtol=1e-5)  # outputs 3 to 5 read channels 2 and 3


def test_sensitivity_is_the_error_of_the_layers_own_output(model, batches):
    found = {one.name: one for one in measure(model, batches, (2, 4))}
    assert list(found) == list(quantizable(model)) and len(found) > 3
    name = "middle.1.ffn.up"
    layer, seen = model.get_submodule(name), []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for batch in batches:
        model(*batch.inputs)
    handle.remove()
    one = found[f"{name}.weight"]
    for bits in (2, 4):
        dense = palettize(layer.weight, bits).dense()
        errors = torch.cat(
            [(apply(layer, dense, x) - apply(layer, layer.weight.half().float(), x)).flatten() for x in seen]
        )
        assert one.output[bits] == pytest.approx(float(errors.square().mean()), rel=1e-3)
    assert one.errors("relative")[4] == pytest.approx(one.output[4] / one.power)
    assert one.output[4] < one.output[2]


def test_little_memory_gives_the_same_in_more_passes(model, batches):
    names = [name.removesuffix(".weight") for name in quantizable(model)]
    assert len(groups(model, names)) == 1 and len(groups(model, names, memory=1)) == len(names)
    assert measure(model, batches, (4,), memory=20_000) == measure(model, batches, (4,))


def test_weighted_clusters_lower_the_output_error():
    layer = nn.Linear(64, 200, bias=False)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(layer.weight, generator=generator)
    layer.weight.data *= torch.logspace(0, -1, 64)  # as trained: the strong inputs have the small weights
    held = Moments(layer)
    held.add(torch.randn(4000, 64, generator=generator) * torch.logspace(-2, 1, 64))
    errors = [
        held.output_power(palettize(layer.weight, 3, False, importance).dense() - layer.weight.half().float())
        for importance in (None, held.importance())
    ]
    assert errors[1] < 0.8 * errors[0]


def test_weighted_measures_are_those_of_weighted_palettes(model, batches):
    plain, weighted = (measure(model, batches, (3,), int8=False, weighted=w) for w in (False, True))
    assert [one.power for one in plain] == [one.power for one in weighted]
    assert all(0.5 < w.output[3] / p.output[3] < 2 and w != p for p, w in zip(plain, weighted, strict=True))


def test_measuring_leaves_the_model_as_it_was(model, batches):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert velocity_error(model, batches, {}) < 1e-12
    effects = velocity_errors(model, batches, (2, 8))
    assert list(effects) == list(quantizable(model))
    assert sum(e[2] for e in effects.values()) > 20 * sum(e[8] for e in effects.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_one_layer_alone_moves_the_velocity_by_its_measured_error(model, batches):
    name = "final.proj.weight"
    if name not in quantizable(model):
        name = next(iter(quantizable(model)))
    dense = palettize(model.get_parameter(name), 3).dense()
    kept = model.get_parameter(name).data
    model.get_parameter(name).data = dense
    with torch.no_grad():
        expected = torch.cat([(model(*b.inputs) - b.velocity).flatten() for b in batches]).square().mean()
    model.get_parameter(name).data = kept
    assert velocity_error(model, batches, {name: dense}) == pytest.approx(float(expected), rel=1e-5)


def inputs_of(batches):
    """Every row of every batch as arguments of its own."""
    return [tuple(part[i : i + 1] for part in b.inputs) for b in batches for i in range(b.t.numel())]


def test_gradients_estimate_the_measured_errors_of_the_velocity(model, batches):
    """At 8 bits, where changes are small enough for the first order to be all."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exact = velocity_errors(model, batches, (8,))
    found = gradient_errors(model, inputs_of(batches) * 3, (8, 4))
    ratios = [found[name][8] / exact[name][8] for name in exact]
    assert list(found) == list(exact) and all(0.6 < ratio < 1.5 for ratio in ratios), ratios
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_gradients_of_a_linear_network_are_exact_on_average():
    """One layer: the estimate is of |D x|^2, which needs no first order."""
    layer, generator = nn.Linear(64, 48, bias=False).requires_grad_(False), torch.Generator().manual_seed(0)
    points = [(torch.randn(1, 64, generator=generator),) for _ in range(2000)]
    change = palettize(layer.weight, 2).dense() - layer.weight
    expected = torch.cat([x for (x,) in points]) @ change.T
    found = gradient_errors(layer, points, (2,))["weight"][2]
    assert found == pytest.approx(float(expected.square().mean()), rel=0.1)  # three deviations
    with pytest.raises(InputError, match="no points"):
        gradient_errors(layer, [])


def test_the_palettes_of_a_plan_are_those_it_names(model):
    names = list(quantizable(model))
    made = dict(palettes(model, {names[0]: 4, names[2]: 8}))
    assert {name: palette.bits for name, palette in made.items()} == {names[0]: 4, names[2]: 8}


def test_calibration_follows_the_models_own_trajectory(checkpoint, model, batches):
    assert len(batches) == checkpoint.sampler.steps
    first, second = batches[0], batches[1]
    assert first.latent.shape[0] == 6 and torch.equal(first.latent[:3], first.latent[3:])  # with text and without
    assert not torch.equal(first.text[:3], first.text[3:])
    assert float(first.t[0]) == 1.0
    guidance = checkpoint.sampler.guidance
    velocity = first.velocity[3:] + guidance * (first.velocity[:3] - first.velocity[3:])
    stepped = first.latent[:3] + (second.t[0] - first.t[0]) * velocity
    assert torch.allclose(stepped, second.latent[:3], atol=1e-5)
    again = calibrate(checkpoint, model, ["a dog", "two cats", "a tree"])
    assert all(torch.equal(a.velocity, b.velocity) for a, b in zip(batches, again, strict=True))


def test_a_spread_takes_rows_of_every_step(batches):
    (few,) = spread(batches, 6)
    assert few.t.numel() == 6 and len(set(few.t.tolist())) == len(batches)
    (one,) = spread(batches, 1)
    assert one.t.numel() == 1


def test_prompts_come_from_a_file(tmp_path, checkpoint):
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n a red #1 dog \n\n  # his\nzwei Äpfel\n")
    assert read_prompts(path) == ["a red #1 dog", "zwei Äpfel"]
    prompts = default_prompts(checkpoint)
    assert prompts[: len(TINY.prompts)] == list(TINY.prompts) and len(prompts) == len(set(prompts)) >= 32


def test_calibration_that_cannot_be_read_is_refused(tmp_path, model):
    path = tmp_path / "prompts.txt"
    for content, words in (
        (b"", "has no prompts"),
        (b"# only a comment\n", "has no prompts"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_prompts(path)
    with pytest.raises(InputError, match="is missing"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is no file"):
        read_prompts(tmp_path)
    with pytest.raises(InputError, match="no calibration inputs"):
        measure(model, [])
