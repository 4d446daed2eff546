"""The elastic training run: batches that depend on (seed, step, rank) alone, EMA, exact resume.

Shapes: M pictures, K captions, C latent channels, h x w latent grid, L text tokens, T text channels, B batch.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgegen.errors import EdgegenError, InputError
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import ElasticDiT, elastic_state
from edgegen.model.text import masked_mean
from edgegen.train import parallel
from edgegen.train.elastic import GradientScale, elastic_gradients_
from edgegen.train.flow import logit_normal, noised, validation_loss
from edgegen.train.ranges import check_ranges
from edgegen.train.run_state import RunState


@dataclass(frozen=True)
class ElasticTraining:
    """Settings of an elastic run; batch is over all processes together."""

    steps: int = 5000
    batch: int = 32
    rate: float = 1e-3
    warmup: int = 200
    decay_share: float = 0.25  # of the steps, at the end: the rate falls linearly to zero
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.998
    drop_caption: float = 0.1
    drop_encoder: float = 0.1  # each of two text encoders, independently, never both
    shift: float = 1.0
    gradient_scale: str = "grad_ratio"
    sub_widths: int = 1  # drawn at every step; the paper draws one
    full_every: int = 1  # steps between those that train the full model; in the others it only teaches
    bfloat16: bool = True
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        check_ranges(self)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are {list(self.betas)}; two numbers from 0 to below 1 are needed.")
        if self.gradient_scale not in ("grad_ratio", "loss_ratio", "none"):
            raise InputError(f"gradient_scale {self.gradient_scale!r} is not one of grad_ratio, loss_ratio, none.")


@dataclass(frozen=True)
class CaptionedLatents:
    """Cached training data: each picture's latent and the captions it may carry, as cached text tokens.

    Caption 0 is the empty prompt. `word_tokens` of the L tokens belong to the first encoder.
    """

    latents: Tensor  # (M, C, h, w)
    captions: list[list[int]]  # per picture, indices into the K captions
    text: Tensor  # (K, L, T)
    mask: Tensor  # (K, L)
    word_tokens: int

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """x0, noise, t, text, mask, pooled of one step on one process; a function of (seed, step, rank)."""
        g = torch.Generator().manual_seed((training.seed * 1_000_003 + step) * 4099 + rank)
        count = max(1, training.batch // world)
        pictures = torch.randint(len(self.latents), (count,), generator=g).tolist()
        draws = torch.rand(count, generator=g).tolist()
        picked = [self.captions[m][int(d * len(self.captions[m]))] for m, d in zip(pictures, draws, strict=True)]
        dropped = torch.rand(count, generator=g) < training.drop_caption
        rows = torch.where(dropped, 0, torch.tensor(picked))
        mask = self.drop_encoders(self.mask[rows].float(), training.drop_encoder, g)  # (B, L)
        text = self.text[rows].float() * mask[..., None]  # (B, L, T)
        x0 = self.latents[pictures]
        noise = torch.randn(x0.shape, generator=g)
        return x0, noise, logit_normal(count, g, training.shift), text, mask, masked_mean(text, mask)

    def drop_encoders(self, mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Masks all tokens of one encoder in a share of the rows (B, L), each encoder as often, never both."""
        if not 0 < self.word_tokens < mask.shape[1]:
            return mask
        draw = torch.rand(len(mask), 1, generator=generator)
        is_word = (torch.arange(mask.shape[1]) < self.word_tokens)[None]
        drop = (draw < share) & is_word | (draw > 1 - share) & ~is_word
        return mask * ~drop


def learning_rate(training: ElasticTraining, step: int) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero over the last `decay_share` of the steps."""
    warm = min(1.0, (step + 1) / max(1, training.warmup))
    left = (training.steps - step) / max(1.0, training.decay_share * training.steps)
    return training.rate * min(warm, left, 1.0)


class ElasticRun(nn.Module):
    """What a run saves: the supernet, its moving average, and the gradient scale."""

    def __init__(self, config: DiTConfig, seed: int):
        super().__init__()
        self.model = ElasticDiT(config, seed)
        self.average = deepcopy(self.model).requires_grad_(False)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def follow_(self, decay: float, step: int) -> None:
        """Moves the average toward the model; early steps, before the average has settled, count for more."""
        weight = 1 - min(decay, (1 + step) / (10 + step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for averaged, current in pairs:
            averaged.lerp_(current, weight)


def train_elastic(
    data: CaptionedLatents,
    validation: CaptionedLatents,
    run_dir: Path,
    config: DiTConfig,
    training: ElasticTraining,
    stop_after: int | None = None,
) -> dict[str, Tensor]:
    """Trains a supernet, resuming what `run_dir` holds; returns the averaged weights by checkpoint name.

    Raises EdgegenError on a loss that is not finite: the last saved state stays as it was.
    """
    run = ElasticRun(config, training.seed)
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=training.rate, betas=training.betas,
                                  weight_decay=training.weight_decay)
    # these may change when a run is resumed
    free = ("steps", "decay_share", "log_every", "validate_every", "rate", "sub_widths", "full_every")
    settings = {"model": config.to_dict(), "training": {k: v for k, v in asdict(training).items() if k not in free}}
    state = RunState(run_dir, run, optimizer, settings)
    end = min(training.steps, stop_after or training.steps)
    for step in state.steps(end):
        losses = step_(run, optimizer, data, training, step)
        if not all(math.isfinite(v) for v in losses.values()):
            raise EdgegenError(f"the loss is not finite at step {step}: {losses}.",
                               f"The last good state is in {run_dir}; lower the rate and resume.")
        done = step + 1
        if parallel.rank() == 0:
            if done % training.log_every == 0:
                state.log(done, rate=learning_rate(training, step), **losses)
            if done % training.validate_every == 0 or done == end:
                state.log(done, **validate(run.average, validation))
            state.save(done, force=done == end)
    return elastic_state(run.average)


def step_(run: ElasticRun, optimizer: torch.optim.Optimizer, data: CaptionedLatents, training: ElasticTraining,
          step: int) -> dict[str, float]:
    """One optimizer step in place; every process draws the same sub-width."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(training, step)
    x0, noise, t, *condition = data.batch(training, step, parallel.rank(), parallel.world_size())
    x_t = noised(x0, noise, t)
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    order = torch.randperm(len(run.model.sub_widths), generator=generator).tolist()
    widths = [run.model.sub_widths[i] for i in order[: training.sub_widths]]
    scale = GradientScale(training.gradient_scale, value=float(run.scale))

    def velocity(at: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            return run.model(at, x_t, t, *condition)

    losses = elastic_gradients_(run.model, widths, velocity, x0, noise, scale, step % training.full_every == 0)
    run.scale.fill_(scale.value)
    parallel.average_gradients_(run.model.parameters())
    losses["norm"] = float(nn.utils.clip_grad_norm_(run.model.parameters(), training.clip))
    optimizer.step()
    run.follow_(training.ema, step)
    return losses


@torch.no_grad()
def validate(model: ElasticDiT, data: CaptionedLatents) -> dict[str, float]:
    """The validation loss of each width on the first caption of every picture."""
    rows = torch.tensor([c[0] for c in data.captions])
    text, mask = data.text[rows].float(), data.mask[rows].float()
    condition = (text, mask, masked_mean(text, mask))
    return {f"val@{w}": validation_loss(lambda x, t, w=w: model(w, x, t, *condition), data.latents)
            for w in model.config.widths}
