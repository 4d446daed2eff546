"""The autoencoder: shapes, the folded normalisation, and training that resumes exactly."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgegen.errors import InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig
from edgegen.runs.schedule import cosine_rate
from edgegen.train.stages.autoencoder import (
    AutoencoderTraining,
    NormalisedAutoencoder,
    random_crops,
    reconstruction_loss,
    reconstruction_psnr,
    train_autoencoder,
)

TINY = AutoencoderConfig(
    latent_channels=4, encoder_widths=(8, 8), encoder_depths=(1, 1), decoder_widths=(8, 8, 8), decoder_depths=(1, 1, 1)
)


def pictures(count: int = 6, size: int = 32) -> np.ndarray:
    """Discs of random colour and place on white; (M,size,size,3) uint8."""
    rng = np.random.default_rng(0)
    images = np.full((count, size, size, 3), 255, np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for image in images:
        y, x = rng.integers(8, size - 8, 2)
        image[(rows - y) ** 2 + (columns - x) ** 2 < 49] = rng.integers(0, 256, 3)
    return images


def test_latent_is_8x_smaller_and_decodes_to_the_pictures_size():
    model = Autoencoder.from_config(AutoencoderConfig())
    image = torch.rand(1, 3, 128, 96)
    latent = model.encoder(image)
    assert latent.shape == (1, 8, 16, 12)
    assert model.decoder(latent).shape == image.shape


def test_decoder_is_small_and_deployable():
    decoder = Autoencoder.from_config(AutoencoderConfig()).decoder
    assert sum(p.numel() for p in decoder.parameters()) <= 1_400_000
    leaves = {type(module) for module in decoder.modules() if not list(module.children())}
    assert leaves == {nn.Conv2d, nn.PixelShuffle}  # ReLU is functional; no norm, no attention
    assert not list(decoder.buffers())


@pytest.mark.parametrize(
    "bad", [{"encoder_widths": (8, 8, 8), "encoder_depths": (1, 1, 1)}, {"decoder_depths": (1,)}, {"unshuffle": 2}]
)
def test_config_rejects_factors_and_depths_that_disagree(bad):
    with pytest.raises(InputError):
        AutoencoderConfig(**bad)


def test_folding_equals_the_batch_norm_it_replaces():
    torch.manual_seed(0)
    module = NormalisedAutoencoder(TINY)
    module.norm.running_mean.uniform_(-2, 2)
    module.norm.running_var.uniform_(0.1, 9)
    module.eval()
    image = torch.rand(2, 3, 32, 32)
    folded = module.fold(TINY)
    torch.testing.assert_close(folded.encoder(image), module.encode(image), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module.fold(TINY).encoder(image), folded.encoder(image))  # the source is untouched


def test_psnr_agrees_with_its_definition():
    class Darker(nn.Module):
        def forward(self, image):
            return image - 0.1

    images = np.full((3, 8, 8, 3), 200, np.uint8)
    np.testing.assert_allclose(reconstruction_psnr(Darker(), images, batch=2), [20.0] * 3, atol=1e-3)


def test_loss_is_zero_only_for_the_picture_itself_and_sees_edges():
    image = torch.rand(1, 3, 8, 8)
    assert reconstruction_loss(image, image) == 0
    flat, striped = torch.full_like(image, 0.1), torch.full_like(image, 0.1)
    striped[..., ::2] *= -1  # the same size of error, but it alternates
    assert reconstruction_loss(image + striped, image) > reconstruction_loss(image + flat, image) + 0.05


def test_crops_depend_on_seed_and_step_alone():
    images, training = pictures(), AutoencoderTraining(batch=4, crop=16)
    first, _ = random_crops(images, training, 3)
    again, _ = random_crops(images, training, 3)
    other, _ = random_crops(images, training, 4)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_rate_warms_up_peaks_and_ends_near_zero():
    rates = [cosine_rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[9] == 1.0 == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


def test_training_lowers_the_error_of_held_out_pictures(tmp_path):
    images = pictures(8)
    training = AutoencoderTraining(steps=30, batch=4, crop=32, warmup=3, peak_rate=5e-3)
    untrained = reconstruction_psnr(NormalisedAutoencoder(TINY).fold(TINY), images[6:]).mean()
    trained = train_autoencoder(images[:6], images[6:], tmp_path, TINY, training)
    assert reconstruction_psnr(trained, images[6:]).mean() > untrained + 3


def test_a_resumed_run_gives_the_bytes_of_an_unbroken_one(tmp_path):
    images = pictures()
    training = AutoencoderTraining(steps=6, batch=2, crop=16, warmup=2)
    train_autoencoder(images, images[:1], tmp_path / "unbroken", TINY, training)
    train_autoencoder(images, images[:1], tmp_path / "broken", TINY, training, stop_after=3)
    train_autoencoder(images, images[:1], tmp_path / "broken", TINY, training)
    unbroken, broken = (load_file(tmp_path / name / "state.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys()
    assert all(torch.equal(unbroken[name], broken[name]) for name in unbroken)


def test_a_run_folder_of_other_settings_is_refused(tmp_path):
    images = pictures()
    train_autoencoder(images, images[:1], tmp_path, TINY, AutoencoderTraining(steps=1, batch=2, crop=16))
    with pytest.raises(InputError, match="settings"):
        train_autoencoder(images, images[:1], tmp_path, TINY, AutoencoderTraining(steps=2, batch=2, crop=16))
