"""Train the autoencoder on crops of rendered pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig
from edgegen.model.pixels import to_tensor
from edgegen.runs.ranges import check_ranges
from edgegen.runs.run_state import RunState
from edgegen.runs.schedule import cosine_rate


@dataclass(frozen=True)
class AutoencoderTraining:
    """The schedule is counted in steps, so that a slower machine gives the same weights later."""

    steps: int = 9000
    batch: int = 16
    crop: int = 64  # pixels
    peak_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    latent_noise: float = 0.1  # standard deviation, added to the unit-variance latent before decoding
    seed: int = 0
    bfloat16: bool = False  # autocast; pays only where the processor multiplies bfloat16 natively

    def __post_init__(self) -> None:
        check_ranges(self)


class NormalisedAutoencoder(nn.Module):
    """The autoencoder while it trains: the latent is whitened by a BatchNorm that `folded` moves into the encoder."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.autoencoder = Autoencoder.from_config(config)
        self.norm = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.01)

    def encode(self, image: Tensor) -> Tensor:
        return self.norm(self.autoencoder.encoder(image))  # (B,C,h,w)

    def fold(self, config: AutoencoderConfig) -> Autoencoder:
        """A copy for deployment, whose encoder gives the normalised latent by itself."""
        plain = Autoencoder.from_config(config)
        plain.load_state_dict(self.autoencoder.state_dict())
        plain.encoder.fold_(self.norm.running_mean, (self.norm.running_var + self.norm.eps).sqrt())
        return plain.eval()


def reconstruction_loss(output: Tensor, image: Tensor) -> Tensor:
    """L1 + 0.5 L1 of the two image gradients + 2 MSE, of pictures (B,3,H,W)."""
    error = output - image
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * gradient + 2 * error.square().mean()


def random_crops(images: np.ndarray, training: AutoencoderTraining, step: int) -> tuple[Tensor, torch.Generator]:
    """The crops (B,3,c,c) in [0,1] of one step, mirrored half of the time, and the generator that drew them."""
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    size, crop = images.shape[1], training.crop
    picks = torch.randint(len(images), (training.batch,), generator=generator).tolist()
    corners = torch.randint(size - crop + 1, (training.batch, 2), generator=generator).tolist()
    crops = np.stack([images[i, y : y + crop, x : x + crop] for i, (y, x) in zip(picks, corners, strict=True)])
    batch = to_tensor(crops)  # (B,3,c,c)
    mirrored = torch.rand(training.batch, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, batch.flip(-1), batch), generator


def train_autoencoder(
    images: np.ndarray,
    held_out: np.ndarray,
    run_dir: Path,
    config: AutoencoderConfig,
    training: AutoencoderTraining,
    stop_after: int | None = None,
) -> Autoencoder:
    """Train on uint8 pictures (M,H,W,3), resuming what `run_dir` holds; `stop_after` ends early, state saved."""
    if training.crop % config.downscale or training.crop > images.shape[1]:
        raise InputError(
            f"crop is {training.crop}; it must be a multiple of {config.downscale} and at most {images.shape[1]}."
        )
    torch.manual_seed(training.seed)
    module = NormalisedAutoencoder(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), lr=training.peak_rate, weight_decay=training.weight_decay)
    state = RunState(run_dir, module, optimizer, {"model": asdict(config), "training": asdict(training)})
    end = min(training.steps, stop_after or training.steps)
    for step in state.steps(end):
        loss = _step_(module, optimizer, images, training, step)
        if (step + 1) % 100 == 0:
            state.log(step + 1, loss=loss)
        if (step + 1) % 1000 == 0 or step + 1 == end:
            psnr = reconstruction_psnr(module.fold(config), held_out)
            state.log(step + 1, psnr_mean=psnr.mean(), psnr_worst=psnr.min())
        state.save(step + 1, force=step + 1 == end)
    return module.fold(config)


def _step_(module: NormalisedAutoencoder, optimizer, images: np.ndarray, training: AutoencoderTraining, step: int):
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(step, training.steps, training.peak_rate, training.warmup)
    batch, generator = random_crops(images, training, step)
    batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
        latent = module.encode(batch)  # (B,C,h,w)
        noise = torch.randn(latent.shape, generator=generator)
        output = module.autoencoder.decoder(latent + training.latent_noise * noise)  # (B,3,c,c)
    loss = reconstruction_loss(output.float(), batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def reconstruction_psnr(autoencoder: Autoencoder, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each reconstructed uint8 picture (M,H,W,3), clamped to [0,1]; (M,)."""
    values = []
    for start in range(0, len(images), batch):
        image = to_tensor(images[start : start + batch])
        error = F.mse_loss(autoencoder(image).clamp(0, 1), image, reduction="none").mean((1, 2, 3))  # (B,)
        values.append(-10 * error.clamp_min(1e-10).log10())
    return torch.cat(values).numpy()
