"""Distillation: the operator S, features through hooks, teachers of ours and of diffusers, and whole runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_inputs, scrambled, small_config
from scipy.stats import norm
from test_train import captioned, rows, same_state
from tiny import TINY, tiny_checkpoint
from torch import nn

from edgegen.errors import InputError
from edgegen.model.checkpoint import load_checkpoint
from edgegen.model.elastic import ElasticDiT, elastic_state, load_elastic_, materialize
from edgegen.model.families.qwen_image import QwenImage, load_qwen_image
from edgegen.model.sampler import euler, flow_sigmas
from edgegen.train.stages import kd
from edgegen.train.stages.blockwise import BlockwiseElastic
from edgegen.train.stages.elastic import GradientScale, joint_gradients_
from edgegen.train.stages.kd import KDRun, KDTraining, Teacher, first_input, open_teacher, train_kd
from edgegen.train.stages.loop import Batch

CONFIG = small_config()
FAST = KDTraining(
    steps=4,
    batch=4,
    warmup=2,
    precision="float32",
    log_every=1,
    validate_every=2,
    gradient_scale="none",
    teacher="given",
)


def our_teacher(seed: int = 5, **changes) -> Teacher:
    """A frozen random model of one of our kinds."""
    dit = materialize(scrambled(small_config(**changes), seed), 1.0)
    return Teacher(dit, dit.final, first_input, dit.config.hidden)


def batch_of(training: KDTraining = FAST) -> Batch:
    return Batch(*captioned().batch(training, 0, 0, 1))


# S


def test_the_flow_weight_is_the_logit_normal_density_over_its_middle():
    t = np.linspace(0.01, 0.99, 99)
    density = norm.pdf(np.log(t / (1 - t))) / (t * (1 - t))
    found = kd.flow_weight(torch.tensor(t)).numpy()
    np.testing.assert_allclose(found, density / density[49], rtol=1e-5)
    assert found.max() == pytest.approx(1) and found.argmax() == 49
    assert torch.isfinite(kd.flow_weight(torch.tensor([0.0, 1.0]))).all()


def test_s_scales_the_output_loss_to_the_flow_loss_and_hands_over_with_t():
    flow, output = torch.tensor([2.0, 2.0, 3.0]), torch.tensor([0.5, 1e-9, 900.0])
    middle = kd.timestep_aware(flow, output, torch.full((3,), 0.5))
    torch.testing.assert_close(middle, flow)  # in the middle of the path the teacher has no say
    end = kd.timestep_aware(flow, output, torch.full((3,), 1e-5))
    torch.testing.assert_close(end, torch.tensor([2.0, 1e-8, 90.0]), rtol=1e-3, atol=1e-9)  # ratio 4, 10, 0.1


@pytest.mark.parametrize("t", [0.03, 0.2, 0.5, 0.9])
def test_no_gradient_flows_through_the_ratio_of_s(t):
    flow, output = (torch.tensor([x], requires_grad=True) for x in (2.0, 0.8))
    kd.timestep_aware(flow, output, torch.tensor([t])).sum().backward()
    weight = float(kd.flow_weight(torch.tensor([t])))
    assert float(flow.grad) == pytest.approx(weight, rel=1e-6)
    assert float(output.grad) == pytest.approx((1 - weight) * 2.5, rel=1e-5, abs=1e-7)


def test_the_constant_operator_is_a_fixed_share():
    flow, output, t = torch.rand(5), torch.rand(5), torch.rand(5)
    torch.testing.assert_close(kd.mix_losses(flow, output, t, "constant", 0.25), 0.25 * flow + 0.75 * output)
    assert torch.equal(kd.mix_losses(flow, output, t, "constant", 1.0), flow)


def test_the_feature_loss_does_not_depend_on_the_teacher_s_scale():
    ours, theirs = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert float(kd.feature_loss(theirs, theirs)) == 0
    torch.testing.assert_close(kd.feature_loss(100 * ours, 100 * theirs), kd.feature_loss(ours, theirs))
    assert float(kd.feature_loss(torch.zeros_like(theirs), theirs)) == pytest.approx(1)


# what a step learns from


@pytest.mark.parametrize("kind", [ElasticDiT, BlockwiseElastic])
@pytest.mark.parametrize("width", CONFIG.widths)
def test_a_hook_sees_the_last_block_s_output_at_every_width(kind, width):
    model, inputs = kind(CONFIG, 0).eval(), random_inputs(CONFIG)
    model.load_state_dict(scrambled(CONFIG).state_dict())
    plain = materialize(model, width)
    with kd.capture_calls(plain.up[-1], lambda inputs, output: output) as wanted:
        velocity = plain(*inputs)
    with kd.capture_calls(kd.last_layer(model, width), first_input) as found:
        assert torch.equal(model(width, *inputs), velocity)
    assert torch.equal(found[0], wanted[0]) and found[0].shape == (2, 64, int(64 * width))
    with kd.capture_calls(plain, first_input):
        pass
    assert not plain._forward_hooks


@pytest.mark.parametrize("operator", kd.OPERATORS)
def test_gradients_are_those_of_the_written_out_loss(operator):
    training, teacher = replace(FAST, operator=operator, feature_weight=0.7, flow_share=0.3), our_teacher()
    run = KDRun(CONFIG, training, teacher, elastic_state(scrambled(CONFIG)))
    batch = batch_of(training)
    joint_gradients_(
        run.model, run.trained_parameters(), [0.5], [lambda width: run.task(width, batch)], GradientScale("none")
    )
    found = {name: p.grad.clone() for name, p in run.trained_parameters().items() if p.grad is not None}
    run.zero_grad()

    with torch.no_grad():
        dit = teacher.network
        with kd.capture_calls(dit.up[-1], lambda inputs, output: output) as features:
            taught = dit(*batch.inputs)
    total, outputs = torch.zeros(()), {}
    for width in CONFIG.widths:
        with kd.capture_calls(kd.last_layer(run.model, width), first_input) as mine:
            outputs[width] = run.model(width, *batch.inputs)
        flow = (outputs[width] - (batch.noise - batch.x0)).pow(2).mean((1, 2, 3))
        output = (outputs[width] - taught).pow(2).mean((1, 2, 3))
        if operator == "constant":
            total = total + (0.3 * flow + 0.7 * output).mean()
        else:
            logit = torch.log(batch.t / (1 - batch.t))
            share = torch.exp(-(logit**2) / 2) / (4 * batch.t * (1 - batch.t))
            ratio = (flow / output).detach().clamp(0.1, 10)
            total = total + (share * flow + (1 - share) * ratio * output).mean()
        projected = run.projectors[str(width).replace(".", "/")](mine[0])
        ratio = (projected - features[0]).pow(2).mean((1, 2)) / features[0].pow(2).mean((1, 2))
        total = total + 0.7 * ratio.mean()
    total = total + (outputs[0.5] - outputs[1.0].detach()).pow(2).mean()
    total.backward()
    wanted = {name: p.grad for name, p in run.trained_parameters().items() if p.grad is not None}
    assert wanted.keys() == found.keys() and any(name.startswith("projectors.") for name in wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 + 1e-4 * float(gradient.abs().max()), rtol=0)


def test_a_student_that_is_its_teacher_has_no_output_loss():
    state = elastic_state(scrambled(CONFIG, 5))
    run = KDRun(CONFIG, FAST, our_teacher(5), state)
    _, _, numbers = run.task(1.0, batch_of())
    assert float(numbers["output"]) < 1e-10 and float(numbers["loss"]) > 0.1


def test_a_teacher_of_another_token_count_is_refused():
    run = KDRun(CONFIG, FAST, our_teacher(patch=4, grid=(4, 4)), elastic_state(scrambled(CONFIG)))
    with pytest.raises(InputError, match="64 tokens, the teacher's 16"):
        run.task(1.0, batch_of())


# whole runs


def test_a_student_comes_closer_to_its_teacher_at_every_width(tmp_path):
    training = replace(
        FAST, steps=40, rate=5e-3, ema=0.0, log_every=40, validate_every=40, operator="constant", flow_share=0.0
    )
    start = elastic_state(ElasticDiT(CONFIG, 0))
    data, teacher = captioned(), our_teacher()
    learnt = train_kd(data, data, tmp_path, CONFIG, training, start, teacher)
    batch, model = batch_of(), ElasticDiT(CONFIG)
    taught, _ = teacher(*batch.inputs)

    def distance(state, width):
        with torch.no_grad():
            load_elastic_(model, state)
            return float((model(width, *batch.inputs) - taught).square().mean())

    for width in CONFIG.widths:
        assert distance(learnt, width) < 0.7 * distance(start, width)
    assert {"feature", "feature@0.5", "output", "output@0.5"} <= rows(tmp_path)[-2].keys()


def test_a_resumed_distillation_ends_as_an_unbroken_one(tmp_path):
    data, start = captioned(), elastic_state(scrambled(CONFIG))
    expected = train_kd(data, data, tmp_path / "a", CONFIG, FAST, start, our_teacher())
    train_kd(data, data, tmp_path / "b", CONFIG, FAST, start, our_teacher(), stop_after=2)
    resumed = train_kd(data, data, tmp_path / "b", CONFIG, FAST, start, our_teacher())
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    with pytest.raises(InputError, match="operator timestep, not constant"):
        train_kd(data, data, tmp_path / "b", CONFIG, replace(FAST, operator="constant"), start, our_teacher())


# teachers from folders


def test_one_of_our_checkpoints_teaches_at_a_width(tmp_path):
    folder = tiny_checkpoint(tmp_path / "t")
    config, inputs = TINY.transformer, random_inputs(TINY.transformer)
    for width in config.widths:
        teacher = open_teacher(folder, width, config)
        velocity, features = teacher(*inputs)
        assert torch.equal(velocity, load_checkpoint(folder).transformer(width)(*inputs))
        assert features.shape == (2, 16, int(32 * width)) and teacher.feature_size == int(32 * width)
    with pytest.raises(InputError, match="width 0.3"):
        open_teacher(folder, 0.3, config)
    with pytest.raises(InputError, match="reads 16 text channels, the student 24"):
        open_teacher(folder, 1.0, CONFIG)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A folder with a tiny random Qwen-Image transformer of our latent and text channels, as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [train]")
    torch.manual_seed(0)
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=CONFIG.text_dim,
        axes_dims_rope=(4, 6, 6),
    )
    folder = tmp_path_factory.mktemp("qwen") / "transformer"
    model.save_pretrained(folder)
    return folder


def packed(latents):
    """As QwenImagePipeline packs them, copied from its source: (B, C, h, w) -> (B, N, 4C)."""
    batch, channels, height, width = latents.shape
    latents = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpacked(latents, height, width):
    """As QwenImagePipeline unpacks them."""
    batch, _, channels = latents.shape
    latents = latents.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, channels // 4, height, width)


@torch.no_grad()
def test_qwen_image_sees_what_its_pipeline_gives_it(qwen):
    outside, x = load_qwen_image(qwen), random_inputs(CONFIG)
    latent, t, text, mask, pooled = x[0][..., :12], *x[1:]  # not square, so that a transposed grid would show
    timestep = t * 1000  # the scheduler's, 0 to 1000
    wanted = outside.transformer(
        hidden_states=packed(latent),
        timestep=timestep / 1000,
        encoder_hidden_states=text,
        encoder_hidden_states_mask=mask.bool(),
        img_shapes=[[(1, 8, 6)]] * 2,
        return_dict=False,
    )[0]
    torch.testing.assert_close(outside(latent, t, text, mask, pooled), unpacked(wanted, 16, 12))
    hidden = text.clone()
    hidden[mask == 0] = 7.0  # what is masked does not count
    torch.testing.assert_close(outside(latent, t, hidden, mask), outside(latent, t, text, mask), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(outside(latent, 1 - t, text, mask), outside(latent, t, text, mask), atol=1e-4)


@torch.no_grad()
def test_qwen_image_s_scheduler_and_our_sampler_walk_the_same_way(qwen):
    scheduler = pytest.importorskip("diffusers", reason="needs the extra [train]").FlowMatchEulerDiscreteScheduler(
        shift=1.0
    )
    outside, (latent, _, text, mask, pooled) = load_qwen_image(qwen), random_inputs(CONFIG)
    sigmas = flow_sigmas(4, 3.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1])
    theirs = packed(latent)
    for timestep in scheduler.timesteps:
        output = outside.transformer(
            hidden_states=theirs,
            timestep=timestep.expand(2) / 1000,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask.bool(),
            img_shapes=[[(1, 8, 8)]] * 2,
            return_dict=False,
        )[0]
        theirs = scheduler.step(output, timestep, theirs, return_dict=False)[0]

    def velocity(x, sigma):
        return outside(torch.from_numpy(x), torch.full((2,), sigma), text, mask, pooled).numpy()

    *_, (ours, _) = euler(velocity, latent.numpy(), sigmas)
    torch.testing.assert_close(torch.from_numpy(ours), unpacked(theirs, 16, 16), atol=1e-4, rtol=1e-3)


def test_qwen_image_teaches_ours(qwen, tmp_path):
    teacher, batch = open_teacher(qwen, 1.0, CONFIG), batch_of()
    assert isinstance(teacher.network, QwenImage) and teacher.feature_size == 32
    velocity, features = teacher(*batch.inputs)
    assert velocity.shape == batch.x0.shape and features.shape == (4, 64, 32)
    head = teacher.network.transformer
    embedding = head.time_text_embed(batch.t, features)
    again = unpacked(head.proj_out(head.norm_out(features, embedding)), 16, 16)
    torch.testing.assert_close(again, velocity, atol=1e-5, rtol=1e-4)  # the features are what its head reads
    data = captioned()
    train_kd(data, data, tmp_path, CONFIG, replace(FAST, steps=2), elastic_state(scrambled(CONFIG)), teacher)
    assert rows(tmp_path)[-1]["val@0.5"] > 0
    assert not any(p.requires_grad or p.grad is not None for p in teacher.network.parameters())


def test_wrong_teachers_are_refused(qwen, tmp_path):
    with pytest.raises(InputError, match="needs a teacher"):
        open_teacher(Path(""), 1.0, CONFIG)
    with pytest.raises(InputError, match="does not exist"):
        open_teacher(tmp_path / "no", 1.0, CONFIG)
    with pytest.raises(InputError, match="reads 24 text channels, the student 16"):
        open_teacher(qwen, 1.0, replace(CONFIG, text_dim=16))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(InputError, match="FluxTransformer2DModel, not a QwenImageTransformer2DModel"):
        open_teacher(other, 1.0, CONFIG)
    (other / "config.json").write_text((qwen / "config.json").read_text())
    (other / "diffusion_pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(InputError, match="is a pickle"):
        open_teacher(other, 1.0, CONFIG)
    (other / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(InputError, match="cannot be opened"):
        open_teacher(other, 1.0, CONFIG)


def test_projectors_are_one_for_each_width_and_none_without_a_feature_loss():
    state = elastic_state(scrambled(CONFIG))
    run = KDRun(CONFIG, FAST, our_teacher(), state)
    assert {tuple(p.weight.shape) for p in run.projectors.values()} == {(64, 32), (64, 64)}
    assert all(isinstance(p, nn.Linear) for p in run.projectors.values())
    bare = KDRun(CONFIG, replace(FAST, feature_weight=0.0), our_teacher(), state)
    assert not bare.projectors and "feature" not in bare.task(0.5, batch_of())[2]
