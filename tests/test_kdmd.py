"""Few-step distillation: the losses' sign, the adapters, exact resumption, what stops a run, the checkpoint."""

import json
import math
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_inputs, scrambled, small_config
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_checkpoint
from torch import nn

from edgegen.errors import EdgegenError, InputError
from edgegen.frechet import gaussian_distance
from edgegen.model.adapters import AdapterConfig, adapter_shapes, target_layers
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.checkpoint import load_checkpoint, save_checkpoint
from edgegen.model.elastic import elastic_state, load_elastic_, materialize, materialize_state
from edgegen.model.flow import noised
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig, Tokenizers
from edgegen.prompts import read_prompts
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.outcome.assemble import add_adapters, assemble
from edgegen.train.outcome.card import commands, unfinished_note
from edgegen.train.run import kdmd_stage
from edgegen.train.run.kdmd_data import base_checkpoint
from edgegen.train.run.recipe import Assembly, Recipe, load_recipe
from edgegen.train.run.run import write_note
from edgegen.train.stages import kdmd_run
from edgegen.train.stages.adapters import BASE, AdaptedDiT, LoraConfig, checkpoint_adapters
from edgegen.train.stages.autoencoder import AutoencoderTraining, train_autoencoder
from edgegen.train.stages.kdmd import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    guide,
    interval_velocity,
    predicted_x0,
    score_gradient,
    simulate,
)
from edgegen.train.stages.kdmd_run import AVERAGE, CRITIC, FEW_STEP, STUDENT, Distillation, KdmdTraining, train_kdmd
from edgegen.train.stages.latent_distance import Components
from edgegen.train.stages.loop import ElasticTraining, train_elastic
from edgegen.train.stages.results import read_log, read_state
from edgegen.train.stages.text import TextTraining, save_tokenizers, train_text

CONFIG = small_config()
LORA = LoraConfig(rank=2, alpha=4.0, targets=("attn.q", "attn.v", "cross.o", "ffn.down"))
FAST = KdmdTraining(
    width=0.5,
    steps=6,
    teacher_steps=2,
    batch=2,
    rate=1e-2,
    substeps=2,
    student_every=2,
    guidance=2.0,
    precision="float32",
    log_every=1,
    validate_every=4,
    validate_count=4,
)


def captioned(pictures: int = 3, prompts: int = 5, tokens: int = 6) -> CaptionedLatents:
    """Random latents with captions of random tokens; caption 0 is the empty prompt."""
    g = torch.Generator().manual_seed(1)
    size = CONFIG.grid[0] * CONFIG.patch
    return CaptionedLatents(
        torch.randn(pictures, CONFIG.in_channels, size, size, generator=g),
        [[1 + m, prompts - 1] for m in range(pictures)],
        torch.randn(prompts, tokens, CONFIG.text_dim, generator=g),
        torch.ones(prompts, tokens),
        tokens // 2,
    )


def unconditional():
    data = captioned()
    return data.text[:1], data.mask[:1], data.text[:1].mean(1)


def base():
    return materialize(scrambled(CONFIG), 0.5)


# losses


def test_the_noise_levels_are_the_papers():
    assert KdmdTraining().sigmas == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_a_critic_that_equals_the_teacher_gives_no_gradient_at_all():
    x0 = torch.randn(4, 3, 5, 5, requires_grad=True)

    def velocity(x, t):
        return torch.sin(3 * x) + t[:, None, None, None]

    gradient, critic, teacher = score_gradient(x0, torch.randn_like(x0), torch.rand(4), velocity, velocity)
    assert torch.equal(critic, teacher) and torch.equal(gradient, torch.zeros_like(x0))
    dmd_loss(x0, gradient).backward()
    assert torch.equal(x0.grad, torch.zeros_like(x0))
    assert torch.equal(dmd_gradient(x0, x0, x0), torch.zeros_like(x0))  # 0 / 0


def test_a_new_critic_is_the_teacher_to_the_bit():
    net = AdaptedDiT(base(), LORA, (STUDENT, CRITIC))
    inputs = random_inputs(CONFIG)
    assert torch.equal(net(CRITIC, *inputs), net(BASE, *inputs))


def test_the_gradient_of_the_loss_is_the_normalized_difference_of_the_two_predictions():
    x0, critic, teacher = (torch.randn(2, 1, 2, 2) for _ in range(3))
    gradient = dmd_gradient(x0, critic, teacher)
    for index in range(2):
        expected = (critic - teacher)[index] / (x0 - teacher)[index].abs().mean()
        torch.testing.assert_close(gradient[index], expected)
    x0.requires_grad_()
    dmd_loss(x0, gradient).backward()
    torch.testing.assert_close(x0.grad, gradient / x0.numel())


def gaussian_velocity(mean, std):
    """E[noise - x0 | x_t] where x0 is normal."""

    def velocity(x, t):
        t = t[:, None, None, None]
        variance = (1 - t) ** 2 * std**2 + t**2
        rest = x - (1 - t) * mean
        return (t - (1 - t) * std**2) / variance * rest - mean

    return velocity


def test_the_gaussian_velocity_is_the_minimum_of_the_flow_loss():
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(200_000, 1, 1, 1, generator=g) for _ in range(2))
    x0, t = 1.5 + 0.5 * x0, torch.full((200_000,), 0.4)
    x_t, target = noised(x0, noise, t), noise - x0
    residual = target - gaussian_velocity(1.5, 0.5)(x_t, t)
    assert abs(float(residual.mean())) < 0.01 and abs(float((residual * x_t).mean())) < 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_the_student_moves_to_the_teachers_gaussian_and_with_the_sign_flipped_away(sign):
    """Student x0 = mean + exp(log_std) z in one step, exact scores on both sides."""
    g = torch.Generator().manual_seed(0)
    mean, log_std = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=0.02)
    wanted_mean, wanted_std = 2.0, 0.4
    for _ in range(400 if sign > 0 else 40):
        x0 = mean + log_std.exp() * torch.randn(256, 1, 2, 2, generator=g)
        critic = gaussian_velocity(mean.item(), log_std.exp().item())
        noise, t = torch.randn(x0.shape, generator=g), 0.02 + 0.96 * torch.rand(256, generator=g)
        gradient, *_ = score_gradient(x0, noise, t, critic, gaussian_velocity(wanted_mean, wanted_std))
        optimizer.zero_grad()
        dmd_loss(x0, sign * gradient).backward()
        optimizer.step()
    if sign > 0:
        assert abs(mean.item() - wanted_mean) < 0.1 and abs(log_std.exp().item() - wanted_std) < 0.1
    else:
        assert mean.item() < -1.3 and log_std.exp().item() > 1.1


class Toy(nn.Module):
    """A small network of (x (B, 1, 1, 1), t (B,)) that adds to a Gaussian's exact velocity; zero at the start."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x, t):
        own = self.net(torch.stack([x.flatten(), t, x.flatten() * t], 1))[:, :, None, None]
        return own + gaussian_velocity(-1.0, 1.0)(x, t)


def test_a_learnt_critic_leads_the_last_of_four_steps_to_the_teachers_gaussian():
    """Critic and student start as the wrong Gaussian; the critic has to find out where the student is."""
    g = torch.Generator().manual_seed(0)
    sigmas, teacher = KdmdTraining().sigmas, gaussian_velocity(1.0, 0.5)
    student, critic = Toy(0), Toy(1)
    by_student = torch.optim.Adam(student.parameters(), 1e-3, (0.0, 0.99))
    by_critic = torch.optim.Adam(critic.parameters(), 3e-3, (0.0, 0.99))

    def draw(count):
        x_t = simulate(student, torch.randn(count, 1, 1, 1, generator=g), sigmas, 3)
        return predicted_x0(x_t, sigmas[3], student(x_t, torch.full((count,), sigmas[3])))

    means, spreads = [draw(4000).mean().item()], [draw(4000).std().item()]
    for step in range(1600):
        x0 = draw(256)
        noise, t = torch.randn(x0.shape, generator=g), 0.02 + 0.96 * torch.rand(256, generator=g)
        if step % 5 == 4:
            loss = dmd_loss(x0, score_gradient(x0, noise, t, critic, teacher)[0])
            by_student.zero_grad()
            loss.backward()
            by_student.step()
        by_critic.zero_grad()
        critic_loss(critic, x0, noise, t).backward()
        by_critic.step()
        if step >= 1200 and step % 50 == 49:
            means.append(draw(4000).mean().item())
            spreads.append(draw(4000).std().item())
    assert abs(means[0] + 1) < 0.1
    assert abs(sum(means[1:]) / 8 - 1.0) < 0.25 and abs(sum(spreads[1:]) / 8 - 0.5) < 0.2, (means, spreads)


def test_guidance_and_predictions():
    x, v, u = torch.randn(3, 2, 1, 1, 1).unbind(0)
    assert torch.equal(guide(v, u, 1.0), u + (v - u))
    torch.testing.assert_close(guide(v, u, 3.0), 3 * v - 2 * u)
    torch.testing.assert_close(predicted_x0(x, torch.tensor([0.5, 1.0]), v)[1], (x - v)[1])


def test_one_step_with_the_interval_velocity_lands_where_the_substeps_land():
    velocity = gaussian_velocity(0.5, 0.3)
    x = torch.randn(2, 1, 3, 3)
    mean = interval_velocity(velocity, x, 0.9, 0.5, 4)
    fine = x
    for start, end in ((0.9, 0.8), (0.8, 0.7), (0.7, 0.6), (0.6, 0.5)):
        fine = fine + (end - start) * velocity(fine, torch.full((2,), start))
    torch.testing.assert_close(x - 0.4 * mean, fine)
    torch.testing.assert_close(simulate(velocity, x, [0.9, 0.8, 0.7, 0.6, 0.5], 4), fine)


# adapters


def randomized(net, name, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters(name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.2)
    return net


def test_merged_adapters_are_the_base_with_the_adapter():
    model, inputs = scrambled(CONFIG), random_inputs(CONFIG)
    net = randomized(AdaptedDiT(materialize(model, 0.5), LORA, (STUDENT, CRITIC)), STUDENT)
    state = elastic_state(model) | checkpoint_adapters(net.parameters(STUDENT), LORA, 0.5)
    merged, plain = (materialize(model, 0.5) for _ in range(2))
    merged.load_state_dict(materialize_state(state, CONFIG, 0.5))
    plain.load_state_dict(materialize_state(state, CONFIG, 0.5, adapters=False))
    adapted = net(STUDENT, *inputs)
    assert float((merged(*inputs) - adapted).abs().max()) < 1e-5 * float(adapted.abs().max())
    assert float((adapted - net(BASE, *inputs)).abs().max()) > 0.01
    assert torch.equal(plain(*inputs), net(BASE, *inputs))
    full = materialize(model, 1.0)
    full.load_state_dict(materialize_state(state, CONFIG, 1.0))  # the adapters of another width do nothing here
    assert torch.equal(full(*inputs), materialize(model, 1.0)(*inputs))
    load_elastic_(scrambled(CONFIG, 1), state)  # a supernet is filled from it as before


def test_a_gradient_reaches_the_adapter_it_was_made_with_whatever_acts_in_between():
    net = randomized(randomized(AdaptedDiT(base(), LORA, (STUDENT, CRITIC)), STUDENT), CRITIC, 1)
    velocity, features = net.with_features(STUDENT, *random_inputs(CONFIG))
    assert features.shape == (2, 64, 32)
    with torch.no_grad():
        net(CRITIC, *random_inputs(CONFIG))
    velocity.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters(STUDENT).values())
    assert all(p.grad is None for p in net.parameters(CRITIC).values())


def test_adapters_of_another_seed_differ_and_of_the_same_do_not():
    a, b, c = (AdaptedDiT(base(), LORA, (STUDENT,), seed).parameters(STUDENT) for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["down.0.attn.q.lora_a"], c["down.0.attn.q.lora_a"])


def test_a_target_that_no_layer_ends_in_is_named():
    with pytest.raises(InputError, match="'attn.query'.*attn.q,"):
        target_layers(base(), ["attn.query"])


def test_the_bundled_recipe_s_adapters_fit_in_1_2_million_parameters():
    from edgegen.model.config import PRESETS
    from edgegen.model.elastic import skeleton

    lora, config = load_recipe("kdmd").model, PRESETS["emoji"]
    shapes = [adapter_shapes(skeleton(config.at(w)), lora.targets, lora.rank, w) for w in config.widths]
    total = sum(math.prod(shape) for width in shapes for shape in width.values())
    assert total == 881_664


# whole runs


def run(folder, training=FAST, data=None, **options):
    return train_kdmd(base(), data or captioned(), captioned(), unconditional(), folder, LORA, training, **options)


def rows(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "time"} for row in read_log(folder)]


def test_a_killed_run_resumes_to_the_same_curve_and_weights_in_either_phase(tmp_path, monkeypatch):
    training = replace(FAST, start_from_teacher=True)
    expected = run(tmp_path / "unbroken", training)
    true_step = Distillation.step_
    for kill in (1, 2, 5):
        folder = tmp_path / f"broken-{kill}"
        run(folder, training, stop_after=kill)

        def killed(self, data, step, kill=kill):
            if step == kill + 1:
                raise KeyboardInterrupt
            return true_step(self, data, step)

        monkeypatch.setattr(Distillation, "step_", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, training)
        monkeypatch.undo()
        resumed = run(folder, training)
        assert all(torch.equal(resumed[name], expected[name]) for name in expected)
        kept = [row for row in rows(folder) if row["step"] != kill or "frechet_average" not in row]
        wanted = {row["step"]: row for row in rows(tmp_path / "unbroken") if "norm" in row}
        assert {row["step"]: row for row in kept if "norm" in row} == wanted


def test_every_adapter_learns_and_the_base_does_not(tmp_path):
    model = base()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    found = train_kdmd(model, captioned(), captioned(), unconditional(), tmp_path, LORA, FAST)
    after = {name.replace("base_layer.", ""): p for name, p in model.state_dict().items() if "lora_" not in name}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    saved = read_state(tmp_path, "module.adapters.").tensors
    for name in (STUDENT, CRITIC, FEW_STEP, AVERAGE):
        assert saved[f"{name}.down/0/attn/q/lora_b"].abs().max() > 0
    assert found.keys() == adapter_shapes(base(), LORA.targets, LORA.rank, 0.5).keys()
    logged = {name for row in rows(tmp_path) for name in row}
    assert logged >= {"few_step", "g", "std_ratio", "kd", "kd_features", "critic", "frechet_average", "spread_average"}


@pytest.mark.parametrize("changes, absent, still", [
    ({"dmd": 0.0}, {"g", "critic"}, {CRITIC}),
    ({"kd": 0.0, "kd_features": 0.0}, {"few_step", "kd"}, {FEW_STEP}),
    ({"dmd_from": 3, "student_every": 1}, set(), set()),
])  # fmt: skip
def test_either_half_can_be_left_out(tmp_path, changes, absent, still):
    run(tmp_path, replace(FAST, **changes))
    saved = read_state(tmp_path, "module.adapters.").tensors
    for name in (STUDENT, CRITIC, FEW_STEP):
        moved = saved[f"{name}.down/0/attn/q/lora_b"].abs().max() > 0
        assert moved == (name not in still)
    assert not absent & {name for row in rows(tmp_path) for name in row}


def test_the_critic_may_have_a_head_start(tmp_path):
    run(tmp_path, replace(FAST, steps=4, critic_steps=4))
    saved = read_state(tmp_path, "module.adapters.").tensors
    assert saved[f"{STUDENT}.down/0/attn/q/lora_b"].abs().max() == 0
    assert saved[f"{CRITIC}.down/0/attn/q/lora_b"].abs().max() > 0


def test_a_loss_that_is_not_finite_stops_with_step_and_width_and_keeps_the_last_good_state(tmp_path):
    run(tmp_path, stop_after=3)
    before = (tmp_path / "state.safetensors").read_bytes()
    broken = replace(captioned(), text=captioned().text * math.nan)
    with pytest.raises(EdgegenError, match="not finite at step 3 of width 0.5") as caught:
        run(tmp_path, data=broken)
    assert caught.value.exit_code == 1 and (tmp_path / "state.safetensors").read_bytes() == before
    assert all(math.isfinite(value) for row in rows(tmp_path) for value in row.values())


def test_a_run_of_another_base_or_setting_is_not_resumed(tmp_path):
    run(tmp_path, stop_after=1)
    with pytest.raises(InputError, match="training.guidance 2.0, not 3.0"):
        run(tmp_path, replace(FAST, guidance=3.0))
    other = materialize(scrambled(CONFIG, 1), 0.5)
    with pytest.raises(InputError, match="base"):
        train_kdmd(other, captioned(), captioned(), unconditional(), tmp_path, LORA, FAST)


def test_the_teacher_alone_is_guided():
    work = Distillation(base(), LORA, FAST, unconditional())
    x, t, *condition = random_inputs(CONFIG, tokens=6)
    empty = [part.expand(2, *part.shape[1:]) for part in unconditional()]
    v, u = (work.velocity(BASE, c)(x, t) for c in (tuple(condition), tuple(empty)))
    torch.testing.assert_close(work.teacher(tuple(condition))(x, t), u + 2.0 * (v - u), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(work.velocity(STUDENT, tuple(condition))(x, t), v)


def test_conditions_of_different_lengths_are_joined_without_changing_either():
    model = base()
    x, t, *long = random_inputs(CONFIG, tokens=9)
    short = (*(part[:, :5] for part in long[:2]), long[2])
    both = kdmd_run.join_conditions(short, tuple(long))
    assert both[0].shape == (4, 9, CONFIG.text_dim) and both[1][:2, 5:].sum() == 0
    joined = model(torch.cat([x, x]), torch.cat([t, t]), *both)
    torch.testing.assert_close(joined, torch.cat([model(x, t, *short), model(x, t, *long)]), atol=1e-5, rtol=1e-5)


def test_the_few_step_teacher_comes_nearer_to_the_guided_teacher(tmp_path):
    data, training = captioned(), replace(FAST, teacher_steps=60, batch=4, rate=2e-2)
    work = Distillation(base(), LORA, training, unconditional())
    condition = work.condition(data, 999)
    noise = work.noise(4, torch.Generator().manual_seed(5))
    fine = [s + (e - s) * k / 2 for s, e in zip(training.sigmas[:-1], training.sigmas[1:], strict=True) for k in (0, 1)]
    wanted = work.sample(BASE, noise, condition, [*fine, 0.0], guidance=True)
    before = (work.sample(FEW_STEP, noise, condition) - wanted).square().mean()
    for step in range(60):
        work.teach_step_(data, step)
    after = (work.sample(FEW_STEP, noise, condition) - wanted).square().mean()
    assert after < 0.6 * before


# settings and data


@pytest.mark.parametrize("override, says", [
    ("stdent_every=3", ["training.stdent_every", "Did you mean student_every?"]),
    ("guidance=-1", ["guidance is -1"]),
    ("model.rank=0", ["rank is 0"]),
    ("betas=[0.0]", ["betas"]),
    ("width=2", ["width is 2"]),
    ("sampler_steps=0", ["sampler_steps is 0"]),
    ("dmd_from=4", ["dmd_from is 4", "0 and 3"]),
])  # fmt: skip
def test_wrong_settings_are_refused_with_one_line(override, says):
    with pytest.raises(InputError) as caught:
        load_recipe("kdmd", [override])
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in says)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(InputError, match="dmd, kd and kd_features are all 0"):
        KdmdTraining(dmd=0, kd=0, kd_features=0)


def test_a_user_s_checkpoint_is_distilled_from_a_file_of_prompts(tmp_path):
    folder = tiny_checkpoint(tmp_path / "mine")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n\n  a red heart \n")
    assert read_prompts(prompts) == ["a dog", "a red heart"]
    training = replace(FAST, width=0.0, steps=2, teacher_steps=1, checkpoint=str(folder), prompts=str(prompts))

    def start(training):
        runs = tmp_path / "runs"
        return kdmd_stage.prepare(Recipe("kdmd", LORA, training), tmp_path / "data", runs, runs / "kdmd")

    start(training)()
    assert not (tmp_path / "data").exists()
    add_adapters(folder, tmp_path / "runs", tmp_path / "new")
    made, plain = load_checkpoint(tmp_path / "new"), load_checkpoint(folder)
    assert made.config.adapters == AdapterConfig(2, LORA.targets, (0.5, 1.0))
    assert made.sampler == SamplerConfig(4, 3.0, 1.0)
    for width in (0.5, 1.0):
        kept, before = (c.transformer(width, adapters=False).state_dict() for c in (made, plain))
        assert all(torch.equal(kept[name], before[name]) for name in before)
        merged = made.transformer(width).state_dict()
        assert not torch.equal(merged["up.0.ffn.down.weight"], before["up.0.ffn.down.weight"])
        assert torch.equal(merged["patch.weight"], before["patch.weight"])
    assert "4 Euler steps at shift 3" in (tmp_path / "new" / "MODEL_CARD.md").read_text()
    with pytest.raises(InputError, match="trained on other weights than those of tiny"):
        add_adapters(tiny_checkpoint(tmp_path / "other", seed=1), tmp_path / "runs", tmp_path / "wrong")
    shutil.rmtree(tmp_path / "runs" / "kdmd" / "1")
    with pytest.raises(InputError, match="width 1 of tiny is not distilled"):
        add_adapters(folder, tmp_path / "runs", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    prompts.write_text("\n")
    with pytest.raises(InputError, match="has no prompts"):
        start(training)
    with pytest.raises(InputError, match="width 0.3 is not one"):
        start(replace(training, width=0.3))


def test_without_a_folder_or_runs_the_bundled_checkpoint_is_the_base(tmp_path):
    assert base_checkpoint("", tmp_path).origin["kind"] == "bundled"


def test_frechet_distance_of_gaussians():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=g)
    b = 2 * torch.randn(20_000, 3, generator=g) + torch.tensor([1.0, 0.0, 0.0])
    assert gaussian_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert gaussian_distance(a, b) == pytest.approx(1 + 3 * (1 - 2) ** 2, rel=0.05)
    latents = torch.randn(10, 2, 3, 3, generator=g)
    assert Components.fit(latents).of(latents).shape == (10, 9)


# checkpoints


@pytest.fixture
def distilled(tmp_path):
    """A saved checkpoint with random adapters at one of its widths."""
    config = replace(TINY, adapters=AdapterConfig(2, ("attn.q", "ffn.up"), (0.5,)))
    made = random_checkpoint(config)
    save_checkpoint(tmp_path / "c", config, made.states, made.tokenizer_files)
    return tmp_path / "c"


def test_a_checkpoint_keeps_its_adapters_and_merges_them(distilled):
    checkpoint = load_checkpoint(distilled)
    assert checkpoint.config.adapters == AdapterConfig(2, ("attn.q", "ffn.up"), (0.5,))
    state = checkpoint.states["transformer"]
    with_them, without = (checkpoint.transformer(0.5, flag).state_dict() for flag in (True, False))
    product = state["down.0.attn.q.lora_b@0.5"] @ state["down.0.attn.q.lora_a@0.5"]
    torch.testing.assert_close(with_them["down.0.attn.q.weight"] - without["down.0.attn.q.weight"], product)
    changed = {name for name in with_them if not torch.equal(with_them[name], without[name])}
    assert changed == {f"{layer}.weight" for layer in target_layers(checkpoint.transformer(0.5), ("attn.q", "ffn.up"))}
    full, full_base = (checkpoint.transformer(1.0, flag).state_dict() for flag in (True, False))
    assert all(torch.equal(p, full[name]) for name, p in full_base.items())


def test_a_checkpoint_without_adapters_says_nothing_of_them(tmp_path):
    folder = tiny_checkpoint(tmp_path / "plain")
    assert "adapters" not in json.loads((folder / "config.json").read_text())
    assert load_checkpoint(folder).config.adapters is None


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder).transformer(0.5)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder, change):
    path = folder / "transformer.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def test_missing_misshapen_and_unexpected_adapters_are_named(distilled, tmp_path):
    whole = load_file(distilled / "transformer.safetensors")
    edit(distilled, lambda state: state.pop("down.0.attn.q.lora_a@0.5"))
    assert "lacks down.0.attn.q.lora_a@0.5" in refused(distilled)
    wrong = whole | {"down.0.attn.q.lora_a@0.5": torch.zeros(3, 16)}
    save_file(wrong, distilled / "transformer.safetensors")
    assert "down.0.attn.q.lora_a@0.5 is (3, 16), config.json asks for (2, 16)" in refused(distilled)
    save_file(whole | {"down.0.attn.q.lora_a@1.0": torch.zeros(2, 32)}, distilled / "transformer.safetensors")
    assert "unexpected down.0.attn.q.lora_a@1.0" in refused(distilled)


@pytest.mark.parametrize("adapters, says", [
    ({"rank": 0, "targets": ["attn.q"], "widths": [0.5]}, "adapters.rank is 0; 1 to 4096"),
    ({"rank": 2, "targets": ["attn.x"], "widths": [0.5]}, "'attn.x'"),
    ({"rank": 2, "targets": ["attn.q"], "widths": [0.3]}, "width 0.3"),
    ({"rank": 2, "target": ["attn.q"], "widths": [0.3]}, "Did you mean targets"),
    (None, "has unexpected down."),
    ([], "adapters must be an object"),
])  # fmt: skip
def test_wrong_adapter_settings_are_named(distilled, adapters, says):
    path = distilled / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adapters": adapters}))
    assert says in refused(distilled)


def test_assembling_takes_the_adapters_of_the_runs_and_refuses_those_of_another_base(tmp_path):
    runs = tmp_path / "runs"
    elastic = ElasticTraining(steps=1, batch=2, warmup=1, precision="float32")
    train_elastic(captioned(), captioned(), runs / "elastic", CONFIG, elastic)
    save_tokenizers(runs / "text" / "tokenizer", None, ByteTokenizer(length=24))
    tokens = Tokenizers.load(runs / "text" / "tokenizer").encode(["a dog", "a cat"])
    text = TextConfig(word=None, byte=EncoderConfig(258, 24, 16, 1, 2, 2), width=CONFIG.text_dim)
    train_text(
        tokens,
        torch.randn(2, 6),
        np.array(["train", "caption"]),
        runs / "text",
        text,
        TextTraining(steps=1, batch=2, warmup=1),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    pictures = AutoencoderConfig(
        latent_channels=4,
        encoder_widths=(8, 8),
        encoder_depths=(1, 1),
        decoder_widths=(8, 8, 8),
        decoder_depths=(1, 1, 1),
    )
    train_autoencoder(
        images, images, runs / "autoencoder", pictures, AutoencoderTraining(steps=1, batch=2, crop=16, warmup=1)
    )
    checkpoint = base_checkpoint("", runs)
    assert checkpoint.origin["kind"] == "runs"
    training = replace(FAST, steps=2, teacher_steps=1)
    train_kdmd(checkpoint.transformer(0.5), captioned(), None, unconditional(), runs / "kdmd" / "0.5", LORA, training)
    assemble(runs, tmp_path / "c", Assembly("small"))
    made = load_checkpoint(tmp_path / "c")
    assert made.config.adapters == AdapterConfig(2, LORA.targets, (0.5,))
    kept, before = made.transformer(0.5, adapters=False).state_dict(), checkpoint.transformer(0.5).state_dict()
    assert all(torch.equal(kept[name], before[name]) for name in before)
    train_elastic(captioned(), captioned(), runs / "elastic", CONFIG, replace(elastic, steps=2))
    with pytest.raises(InputError, match="width 0.5 were trained on other weights"):
        assemble(runs, tmp_path / "d", Assembly("small"))


def test_the_card_tells_what_each_width_was_started_with_and_what_is_missing(tmp_path):
    stage = tmp_path / "kdmd"
    for width, steps in ((0.5, 2), (1.0, 1)):
        training = replace(FAST, width=width, steps=steps, teacher_steps=2)
        run(stage / f"{width:g}", training, stop_after=2 if width == 0.5 else None)
        write_note(stage, load_recipe("kdmd", [f"width={width}", f"steps={steps}", "teacher_steps=2"]))
    told = commands(tmp_path).splitlines()
    assert [line.split("--set ")[1:3] for line in told[1:3]] == [["width=0.5 ", "steps=2 "], ["width=1.0 ", "steps=1 "]]
    assert unfinished_note(tmp_path).count("steps") == 1
    assert "kdmd had done 2 of 4 steps" in unfinished_note(tmp_path)  # the few-step teacher's alone
    write_note(stage, load_recipe("kdmd", ["steps=1", "teacher_steps=1"]))  # all widths, with one command
    assert len(commands(tmp_path).splitlines()) == 3 and not unfinished_note(tmp_path)


def test_a_shell_takes_the_commands_of_the_card_as_they_are(tmp_path):
    stage = tmp_path / "kdmd"
    run(stage / "0.5", replace(FAST, width=0.5, steps=1, teacher_steps=1), stop_after=1)
    asked = ["width=0.5", 'checkpoint="my model"', "betas=[0.5,0.9]"]
    write_note(stage, load_recipe("kdmd", asked))
    words = shlex.split(commands(tmp_path).splitlines()[1])
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert given == ["width=0.5", "checkpoint=my model", "betas=[0.5,0.9]"]
    assert load_recipe("kdmd", given).to_dict() == load_recipe("kdmd", asked).to_dict()
