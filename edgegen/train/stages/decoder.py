"""Distil a smaller decoder from the autoencoder's own, on crops of single pictures and scenes; the encoder is frozen.

Shapes: B batch, c crop side in pixels, C latent channels, h = w = c/8, M pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.errors import EdgegenError, InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from edgegen.model.pixels import to_tensor
from edgegen.runs.ranges import check_ranges
from edgegen.runs.run_state import RunState
from edgegen.runs.schedule import cosine_rate
from edgegen.train.stages.autoencoder import reconstruction_loss, reconstruction_psnr

PictureSource = Callable[[int], np.ndarray]  # index -> uint8 (H,W,3), the same picture every time


@dataclass(frozen=True)
class DecoderConfig:
    """The small decoder, from the latent to the picture; the rest of the autoencoder stays as it was trained.

    256, 128, 64 wide and 3, 4, 3 deep it has 1.34M parameters for 16 latent channels, the size of arXiv 2601.08303.
    """

    widths: tuple[int, ...] = (160, 96, 48)  # each is followed by a doubling of the grid
    depths: tuple[int, ...] = (3, 3, 2)
    separable: bool = True

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.widths or len(self.widths) != len(self.depths) or min(*self.widths, *self.depths) < 1:
            raise InputError(
                f"decoder widths {list(self.widths)} and depths {list(self.depths)} do not match.",
                "Give as many depths as widths, all at least 1.",
            )

    def within(self, autoencoder: AutoencoderConfig) -> AutoencoderConfig:
        """The autoencoder with this decoder instead of its own."""
        if 2 ** len(self.widths) != autoencoder.downscale:
            raise InputError(
                f"{len(self.widths)} decoder widths grow {2 ** len(self.widths)}x, the encoder shrinks "
                f"{autoencoder.downscale}x.",
                f"Give {int(math.log2(autoencoder.downscale))} widths.",
            )
        return replace(
            autoencoder, decoder_widths=self.widths, decoder_depths=self.depths, separable_decoder=self.separable
        )


@dataclass(frozen=True)
class DecoderTraining:
    """The schedule is counted in steps, so that a slower machine gives the same weights later."""

    steps: int = 4500
    batch: int = 16
    crop: int = 64  # pixels
    peak_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    latent_noise: float = 0.1  # standard deviation, added to the unit-variance latent before decoding
    teacher_weight: float = 1.0  # of the distance to what the large decoder draws
    scene_share: float = 0.5  # of the pictures; the rest are single ones
    clip: float = 1.0
    seed: int = 0
    bfloat16: bool = False  # autocast; pays only where the processor multiplies bfloat16 natively
    log_every: int = 100
    validate_every: int = 500

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, most in (("teacher_weight", 100), ("scene_share", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and {most}.")


def distillation_loss(output: Tensor, picture: Tensor, taught: Tensor, teacher_weight: float = 1.0) -> Tensor:
    """Reconstruction loss to the picture (L1, L1 of the gradients, MSE) + L1 to the teacher's output, (B,3,H,W) all."""
    return reconstruction_loss(output, picture) + teacher_weight * (output - taught).abs().mean()


def draw_crops(sources: Mapping[str, tuple[PictureSource, int]], training: DecoderTraining, step: int) -> Tensor:
    """Crops (B,3,c,c) in [0,1] of one step, half of them mirrored; a function of (seed, step).

    `sources` has "singles" and maybe "scenes": a function from an index to a picture, and the number of indices.
    """
    rng = np.random.Generator(np.random.PCG64([training.seed, step]))
    crops = []
    for _ in range(training.batch):
        scene = "scenes" in sources and rng.random() < training.scene_share
        pictures, count = sources["scenes" if scene else "singles"]
        picture = pictures(int(rng.integers(count)))
        y, x = (int(rng.integers(size - training.crop + 1)) for size in picture.shape[:2])
        crop = picture[y : y + training.crop, x : x + training.crop]
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return to_tensor(np.stack(crops))  # (B,3,c,c)


def train_decoder(
    sources: Mapping[str, tuple[PictureSource, int]],
    held_out: Mapping[str, np.ndarray],
    teacher: Autoencoder,
    run_dir: Path,
    config: AutoencoderConfig,
    training: DecoderTraining,
    stop_after: int | None = None,
) -> Decoder:
    """Trains the decoder of `config` on what the frozen `teacher` encodes and decodes, resuming what `run_dir` holds.

    `held_out` names sets of uint8 pictures (M,H,W,3): the PSNR of each, and how far it is from the teacher's, is
    logged. Raises EdgegenError on a loss that is not finite: the last saved state stays as it was.
    """
    smallest = min(min(pictures(0).shape[:2]) for pictures, _ in sources.values())
    if training.crop % config.downscale or training.crop > smallest:
        raise InputError(
            f"crop is {training.crop}; it must be a multiple of {config.downscale} and at most {smallest}."
        )
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    torch.manual_seed(training.seed)
    decoder = Decoder(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=training.peak_rate, weight_decay=training.weight_decay)
    free = ("log_every", "validate_every")  # these may change when a run is resumed
    settings = {"model": asdict(config), "training": {k: v for k, v in asdict(training).items() if k not in free}}
    state = RunState(run_dir, decoder, optimizer, settings)
    end = min(training.steps, stop_after or training.steps)
    reference = {name: reconstruction_psnr(teacher, images).mean() for name, images in held_out.items()}
    for step in state.steps(end):
        loss = step_(decoder, optimizer, teacher, draw_crops(sources, training, step), training, step)
        if not math.isfinite(loss):
            raise EdgegenError(
                f"the loss is not finite at step {step}.",
                f"The last good state is in {run_dir}; lower the rate and resume.",
            )
        done = step + 1
        if done % training.log_every == 0:
            state.log(done, loss=loss)
        if done % training.validate_every == 0 or done == end:
            state.log(done, **compare(Autoencoder(teacher.encoder, decoder), held_out, reference))
        state.save(done, force=done == end)
    return decoder.eval()


def step_(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    teacher: Autoencoder,
    picture: Tensor,
    training: DecoderTraining,
    step: int,
) -> float:
    """One optimizer step in place; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(step, training.steps, training.peak_rate, training.warmup)
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    picture = picture.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
        with torch.no_grad():
            latent = teacher.encoder(picture)  # (B,C,h,w)
            latent = latent + training.latent_noise * torch.randn(latent.shape, generator=generator)
            taught = teacher.decoder(latent)  # (B,3,c,c)
        output = decoder(latent)  # (B,3,c,c)
    loss = distillation_loss(output.float(), picture, taught.float(), training.teacher_weight)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(decoder.parameters(), training.clip)
    optimizer.step()
    return loss.item()


def compare(small: Autoencoder, held_out: Mapping[str, np.ndarray], reference: Mapping[str, float]) -> dict[str, float]:
    """Of each set of pictures: mean and worst PSNR in dB, and the mean's distance to the teacher's (below 0: worse)."""
    numbers: dict[str, float] = {}
    for name, images in held_out.items():
        psnr = reconstruction_psnr(small, images)  # (M,)
        numbers |= {
            f"psnr_{name}": float(psnr.mean()),
            f"worst_{name}": float(psnr.min()),
            f"gain_{name}": float(psnr.mean() - reference[name]),
        }
    return numbers
