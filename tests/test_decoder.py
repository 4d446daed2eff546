"""The small decoder: what it is made of, that every back end computes it, and that it learns and resumes exactly."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from conftest import decibels
from safetensors.torch import load_file
from test_autoencoder import TINY, pictures
from torch import nn

from edgegen.emit import coreml, executorch
from edgegen.emit import onnx as emit_onnx
from edgegen.errors import EdgegenError, InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from edgegen.rewrite.build import decoder_component
from edgegen.rewrite.component import Form
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.train.stages.autoencoder import reconstruction_psnr
from edgegen.train.stages.decoder import DecoderConfig, DecoderTraining, distillation_loss, draw_crops, train_decoder

SMALL = DecoderConfig(widths=(12, 8, 8), depths=(2, 1, 1))
FAST = DecoderTraining(steps=6, batch=4, crop=16, warmup=2, log_every=1, validate_every=3)


def scrambled_decoder(config: AutoencoderConfig) -> Decoder:
    """A decoder without zeros, so that every layer shows in its output."""
    torch.manual_seed(0)
    decoder = Decoder(config)
    for block in decoder.modules():
        if hasattr(block, "project"):
            nn.init.kaiming_normal_(block.project.weight)
    return decoder.eval()


def sources(singles: np.ndarray, scenes: np.ndarray | None = None):
    made = {"singles": (singles.__getitem__, len(singles))}
    return made if scenes is None else made | {"scenes": (scenes.__getitem__, len(scenes))}


# what it is made of


def test_the_paper_s_size_and_the_bundled_one():
    paper = DecoderConfig((256, 128, 64), (3, 4, 3)).within(AutoencoderConfig(latent_channels=16))
    bundled = DecoderConfig().within(AutoencoderConfig())
    count = {
        name: sum(p.numel() for p in Decoder(config).parameters())
        for name, config in (("paper", paper), ("bundled", bundled), ("full", AutoencoderConfig()))
    }
    assert 1.3e6 < count["paper"] < 1.5e6
    assert 2 * count["bundled"] <= 1.2e6 and count["bundled"] < 0.55 * count["full"]  # fp16 bytes


def test_it_is_convolutions_and_pixel_shuffles_separated_but_at_the_ends():
    decoder = Decoder(DecoderConfig().within(AutoencoderConfig()))
    leaves = [module for module in decoder.modules() if not list(module.children())]
    assert {type(module) for module in leaves} == {nn.Conv2d, nn.PixelShuffle}
    convolutions = [module for module in leaves if isinstance(module, nn.Conv2d)]
    full = [c for c in convolutions if c.kernel_size != (1, 1) and c.groups == 1]
    assert full == [convolutions[0], convolutions[-1]]
    assert decoder(torch.rand(1, 8, 4, 6)).shape == (1, 3, 32, 48)


def test_a_decoder_of_another_factor_is_refused():
    with pytest.raises(InputError, match="shrinks 8x"):
        DecoderConfig((8, 8), (1, 1)).within(AutoencoderConfig())
    with pytest.raises(InputError, match="do not match"):
        DecoderConfig((8, 8), (1,))


# every back end


@pytest.fixture(scope="module")
def deployed():
    decoder = scrambled_decoder(SMALL.within(TINY))
    latent = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = decoder(latent).clamp(0, 1).numpy()
    return decoder_component(decoder, (4, 6), Form("split")), {"latent": latent.numpy()}, reference


def test_onnx_computes_it(deployed, tmp_path):
    component, feed, reference = deployed
    emit_onnx.write(component, tmp_path / "decoder.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "decoder.onnx"))
    assert decibels(reference, session.run(["image"], feed)[0]) >= 100


def test_executorch_computes_it_inside_xnnpack(deployed, tmp_path):
    from executorch.runtime import Runtime

    component, feed, reference = deployed
    left = executorch.write(component, tmp_path / "decoder.pte")
    assert len(left) <= 8, left
    method = Runtime.get().load_program(str(tmp_path / "decoder.pte")).load_method("forward")
    (image,) = method.execute([torch.from_numpy(feed["latent"])])
    assert decibels(reference, image) >= 80


def test_core_ml_computes_it_with_grouped_convolutions(deployed, tmp_path):
    component, feed, reference = deployed
    coreml.write(component, tmp_path / "decoder.mlpackage")
    program = CoreMLProgram.load(tmp_path / "decoder.mlpackage")
    dtype = coreml.signature(component)[0][0].dtype
    image = program.run({"latent": feed["latent"].astype(dtype)}, fp16=True)["image"]
    assert decibels(reference, image) >= 45


# training


def test_the_loss_is_zero_where_picture_teacher_and_output_agree_alone():
    picture = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    darker = picture * 0.9
    assert distillation_loss(picture, picture, picture) == 0
    assert distillation_loss(picture, picture, darker) > 0 and distillation_loss(picture, darker, picture) > 0
    assert distillation_loss(picture, picture, darker, 0.0) == 0


def test_crops_depend_on_seed_and_step_alone_and_mix_the_sources():
    black, white = np.zeros((3, 32, 32, 3), np.uint8), np.full((3, 32, 32, 3), 255, np.uint8)
    both, training = sources(black, white), replace(FAST, batch=64)
    first = draw_crops(both, training, 3)
    assert torch.equal(first, draw_crops(both, training, 3))
    assert 0.3 < first.mean() < 0.7 and set(first.flatten().tolist()) == {0.0, 1.0}
    assert draw_crops(both, replace(training, scene_share=0), 3).max() == 0
    assert draw_crops(both, replace(training, scene_share=1), 3).min() == 1
    singles = sources(pictures())
    assert not torch.equal(draw_crops(singles, training, 3), draw_crops(singles, training, 4))


@pytest.fixture(scope="module")
def teacher() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder.from_config(TINY).eval()


def test_it_comes_nearer_to_pictures_it_has_not_seen(teacher, tmp_path):
    images, config = pictures(8), SMALL.within(TINY)
    training = replace(FAST, steps=40, crop=32, peak_rate=1e-2, teacher_weight=0.0, latent_noise=0.0)
    torch.manual_seed(training.seed)
    before = reconstruction_psnr(Autoencoder(teacher.encoder, Decoder(config)), images[6:]).mean()
    trained = train_decoder(sources(images[:6]), {"singles": images[6:]}, teacher, tmp_path, config, training)
    after = reconstruction_psnr(Autoencoder(teacher.encoder, trained), images[6:]).mean()
    assert after > before + 3
    assert all(p.grad is None for p in teacher.parameters())


def test_alone_with_its_teacher_it_learns_what_the_teacher_draws(tmp_path):
    torch.manual_seed(1)
    teacher, images = Autoencoder.from_config(TINY).eval(), pictures(4)
    training = replace(FAST, steps=60, crop=32, peak_rate=1e-2, teacher_weight=100.0, latent_noise=0.0)
    trained = train_decoder(sources(images), {}, teacher, tmp_path, SMALL.within(TINY), training)
    crops = draw_crops(sources(images), training, 99)
    with torch.no_grad():
        drawn, taught = trained(teacher.encoder(crops)), teacher(crops)
    assert (drawn - taught).abs().mean() < 0.1 * (taught - crops).abs().mean()


def test_a_resumed_run_gives_the_weights_of_an_unbroken_one(teacher, tmp_path):
    images, config = pictures(), SMALL.within(TINY)
    run = dict(sources=sources(images, images[:2]), held_out={}, teacher=teacher, config=config, training=FAST)
    train_decoder(run_dir=tmp_path / "unbroken", **run)
    train_decoder(run_dir=tmp_path / "broken", stop_after=3, **run)
    train_decoder(run_dir=tmp_path / "broken", **run)
    unbroken, broken = (load_file(tmp_path / name / "state.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys() and all(torch.equal(unbroken[n], broken[n]) for n in unbroken)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(teacher, tmp_path):
    images, config = pictures(), SMALL.within(TINY)
    train_decoder(sources(images), {}, teacher, tmp_path, config, FAST, stop_after=2)
    before = (tmp_path / "state.safetensors").read_bytes()
    broken = Autoencoder.from_config(TINY).eval()
    nn.init.constant_(broken.encoder.out.bias, float("nan"))
    with pytest.raises(EdgegenError, match="not finite at step 2"):
        train_decoder(sources(images), {}, broken, tmp_path, config, FAST)
    assert (tmp_path / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("changes", [{"crop": 12}, {"crop": 64}])
def test_a_crop_that_does_not_fit_is_refused_before_anything_is_written(teacher, tmp_path, changes):
    with pytest.raises(InputError, match="crop is"):
        train_decoder(sources(pictures()), {}, teacher, tmp_path / "run", SMALL.within(TINY), replace(FAST, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"scene_share": 1.5}, {"teacher_weight": -1}, {"steps": 0}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        replace(FAST, **changes)


def test_the_recipe_is_the_bundled_size_and_its_result_goes_into_a_checkpoint(teacher, tmp_path, monkeypatch):
    from edgegen.train.outcome import assemble
    from edgegen.train.run import collect
    from edgegen.train.run.recipe import Assembly, load_recipe
    from edgegen.train.stages.frozen import Frozen

    recipe = load_recipe("decoder", ["model.depths=[1, 1, 1]", "steps=3"])
    assert load_recipe("decoder").model == DecoderConfig() and recipe.model.depths == (1, 1, 1)
    config = SMALL.within(TINY)
    made = train_decoder(sources(pictures()), {}, teacher, tmp_path / "decoder", config, FAST, stop_after=1)
    frozen = Frozen(TINY, teacher, tiny.TINY.text, nn.Linear(1, 1), {})
    monkeypatch.setattr(collect, "load_frozen", lambda folder, encoders: frozen)
    monkeypatch.setattr(collect, "elastic_result", lambda folder: (tiny.TINY.transformer, {}))
    found, states, _ = assemble.collect(tmp_path, Assembly())
    assert found.autoencoder == config and found.autoencoder.encoder_widths == TINY.encoder_widths
    assert states["decoder"].keys() == made.state_dict().keys()
    assert all(torch.equal(states["decoder"][name], value) for name, value in made.state_dict().items())
    assert states["encoder"].keys() == teacher.encoder.state_dict().keys()
