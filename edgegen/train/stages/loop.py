"""The elastic training run: batches that depend on (seed, step) alone, EMA, exact resume.

Shapes: M pictures, K captions, C latent channels, h x w latent grid, L text tokens, T text channels, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.errors import EdgegenError, InputError
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import ElasticDiT, elastic_state, load_elastic_
from edgegen.model.flow import flow_loss, noised, validation_loss
from edgegen.model.text import masked_mean
from edgegen.runs import parallel
from edgegen.runs.average import follow_
from edgegen.runs.precision import PRECISIONS, autocast, settle_precision
from edgegen.runs.ranges import check_betas, check_choice, check_ranges
from edgegen.runs.run_state import RunState
from edgegen.runs.scalars import Scalars
from edgegen.runs.schedule import plateau_rate
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.stages.blockwise import BlockwiseElastic, shard_
from edgegen.train.stages.elastic import GradientScale, freeze_, joint_gradients_

COMPILED_TOKENS = 32  # text is compiled in multiples of these
DISTRIBUTIONS = ("auto", "replicate", "shard")
# settings that may change when a run is resumed
FREE = (
    "steps",
    "decay_share",
    "log_every",
    "validate_every",
    "rate",
    "sub_widths",
    "full_every",
    "accumulate",
    "activation_checkpointing",
    "distribution",
    "tensorboard",
    "compile",
)


@dataclass(frozen=True)
class ElasticTraining:
    """Settings of an elastic run; batch is over all processes together."""

    steps: int = 5000
    batch: int = 32
    accumulate: int = 1  # equal parts that a process works its rows through in, to save memory
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
    precision: str = "auto"  # float32 or bfloat16 autocast; auto: the faster on this device, measured at the start
    activation_checkpointing: bool = False  # blocks are recomputed in the backward pass, to save memory
    compile: bool = False  # torch.compile: some minutes a width when a run begins or resumes, then steps take less time
    distribution: str = "auto"  # replicate or shard (FSDP2) over the processes; auto: shard on GPUs, replicate on CPUs
    tensorboard: bool = False  # scalars, and a grid of fixed prompts for each width, in the run's folder
    start: str = ""  # folder of a checkpoint or of an elastic run, or "bundled", whose weights the run begins with
    start_width: float = 0.0  # a width of it, which a wider model grows from with those below it; 0: all, as it is
    frozen_width: float = 0.0  # the slice of this width and those below it stay as they are; only the rest learns
    seed: int = 0
    log_every: int = 20
    validate_every: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        check_ranges(self)
        check_betas(self.betas)
        check_choice("gradient_scale", self.gradient_scale, ("grad_ratio", "loss_ratio", "none"))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        if self.frozen_width and self.weight_decay:
            raise InputError(
                f"frozen_width {self.frozen_width:g} goes with a weight_decay of 0 only, which would "
                f"shrink what is frozen; it is {self.weight_decay:g}.",
                "Add --set weight_decay=0.",
            )
        if self.compile and (self.activation_checkpointing or self.distribution == "shard"):
            raise InputError(
                "compile goes with neither activation_checkpointing nor distribution=shard.", "Leave one of them out."
            )


class TrainingData(Protocol):
    """What a run draws its batches from."""

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """One process's rows of x0, noise, t, text, mask, pooled; together a function of (seed, step)."""


class ValidationData(Protocol):
    """What a validation loss is computed on."""

    def groups(self) -> Iterable[CaptionedLatents]:
        """Latents of one shape each."""


@dataclass
class Batch:
    """Rows of a step on a device; `taught` is room for what a teacher says of them."""

    x0: Tensor  # (B, C, h, w)
    noise: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    text: Tensor  # (B, L, T)
    mask: Tensor  # (B, L)
    pooled: Tensor  # (B, T)
    taught: tuple[Tensor, ...] = field(default=())

    @property
    def x_t(self) -> Tensor:
        return noised(self.x0, self.noise, self.t)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of a model after the width."""
        return self.x_t, self.t, self.text, self.mask, self.pooled

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.x0, self.noise, self.t, self.text, self.mask, self.pooled

    def parts(self, count: int, device: str) -> list[Batch]:
        """The rows in equal parts on a device."""
        return [
            Batch(*(part.to(device) for part in parts))
            for parts in zip(*(tensor.chunk(count) for tensor in self.tensors), strict=True)
        ]


def learning_rate(training: ElasticTraining, step: int) -> float:
    """The rate of a step."""
    return plateau_rate(step, training.steps, training.rate, training.warmup, training.decay_share)


class ElasticRun(nn.Module):
    """What a run saves: the supernet, its moving average, and the gradient scale; and how its loss is computed.

    `blockwise` makes the supernet one that can be sharded, `recompute` one that recomputes its blocks.
    """

    def __init__(
        self,
        config: DiTConfig,
        seed: int,
        blockwise: bool = False,
        recompute: bool = False,
        start: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        blocks = blockwise or recompute
        self.model = BlockwiseElastic(config, seed, recompute) if blocks else ElasticDiT(config, seed)
        if start is not None:
            with torch.no_grad():
                load_elastic_(self.model, start)
        self.average = deepcopy(self.model).requires_grad_(False)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.precision = "float32"
        self.compiled: Callable[..., Tensor] | None = None

    @property
    def device(self) -> str:
        return str(self.scale.device)

    def compile_(self) -> None:
        """Has the model compiled when a width is first called; the parameters stay where they are."""
        model = self.model

        def velocity(width: float, *inputs: Tensor) -> Tensor:
            return model(width, *inputs)

        self.compiled = torch.compile(velocity, dynamic=False, recompile_limit=8 * len(model.config.widths))

    def velocity(self, width: float, batch: Batch) -> Tensor:
        """What the model says of a batch (B, C, h, w), in the run's precision."""
        with self.autocast():
            if self.compiled is None:
                return self.model(width, *batch.inputs)
            x, t, text, mask, pooled = batch.inputs
            return self.compiled(width, x, t, *in_whole_columns(text, mask), pooled)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter that is trained, by name."""
        return dict(self.model.named_parameters())

    def shard_(self) -> None:
        """Shards the supernet and its moving average over the processes."""
        shard_(self.model)
        shard_(self.average)

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def task(self, width: float, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss to minimise on a batch, the velocity (B, C, h, w), and numbers to log."""
        velocity = self.velocity(width, batch).float()
        loss = flow_loss(velocity, batch.x0, batch.noise)
        return loss, velocity, {"loss": loss}


def in_whole_columns(text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text (B, L, T) and mask (B, L) with masked tokens at the end, so that few lengths have to be compiled."""
    more = -text.shape[1] % COMPILED_TOKENS
    return nn.functional.pad(text, (0, 0, 0, more)), nn.functional.pad(mask, (0, more))


MakeRun = Callable[[bool, bool], ElasticRun]  # (blockwise, recompute) -> the run at its first step
DrawGrids = Callable[[ElasticDiT], Mapping[str, np.ndarray]]  # pictures (H, W, 3) uint8 of fixed prompts by name


def train_elastic(
    data: TrainingData,
    validation: ValidationData,
    run_dir: Path,
    config: DiTConfig,
    training: ElasticTraining,
    stop_after: int | None = None,
    device: str = "cpu",
    draw: DrawGrids | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Trains a supernet, resuming what `run_dir` holds; returns the averaged weights by checkpoint name.

    A new run begins with the weights `start`, by checkpoint name, where they are given. Raises EdgegenError on a loss
    that is not finite: the last saved state stays as it was.
    """

    def make(blockwise: bool, recompute: bool) -> ElasticRun:
        return ElasticRun(config, training.seed, blockwise, recompute, start)

    return train_run(make, data, validation, run_dir, config, training, stop_after, device, draw)


def train_run(
    make: MakeRun,
    data: TrainingData,
    validation: ValidationData,
    run_dir: Path,
    config: DiTConfig,
    training: ElasticTraining,
    stop_after: int | None = None,
    device: str = "cpu",
    draw: DrawGrids | None = None,
) -> dict[str, Tensor]:
    """Trains what `make` makes, resuming what `run_dir` holds; see `train_elastic`."""
    parallel.share_of_batch(training.batch, training.accumulate)  # refuses before anything is written
    sharded = is_sharded(training.distribution, device)
    run = make(sharded, training.activation_checkpointing)
    if device == "mps":
        run.scale = run.scale.float()  # it has no fp64
    run.to(device)
    precision, measured = settle_precision(training.precision, run_dir, partial(trial, run, data, training))
    training, run.precision = replace(training, precision=precision), precision
    if sharded and training.compile:
        raise InputError("compile is for models that are not sharded.", "Add --set distribution=replicate.")
    if sharded and training.frozen_width:
        raise InputError("frozen_width is for models that are not sharded.", "Add --set distribution=replicate.")
    if training.frozen_width and training.frozen_width not in run.model.sub_widths:
        raise InputError(
            f"frozen_width is {training.frozen_width:g}; the widths below 1 are "
            f"{', '.join(f'{w:g}' for w in run.model.sub_widths) or 'none'}.",
            "Name one of them.",
        )
    if sharded:
        run.shard_()
    if training.compile:
        run.compile_()
    optimizer = torch.optim.AdamW(
        run.trained_parameters().values(), lr=training.rate, betas=training.betas, weight_decay=training.weight_decay
    )
    scalars = Scalars(run_dir / "tensorboard") if training.tensorboard and parallel.rank() == 0 else None
    state = RunState(
        run_dir,
        run,
        optimizer,
        settings_of(config, training),
        sharded=sharded,
        scalars=scalars,
    )
    if measured and parallel.rank() == 0:
        state.log(0, **{f"{name}_s": seconds for name, seconds in measured.items()})
    end = min(training.steps, stop_after or training.steps)
    for step in state.steps(end):
        losses = step_(run, optimizer, data, training, step)
        report(state, run, validation, training, step, end, losses, draw)
        state.save(step + 1, force=step + 1 == end)
    state.finish(end)
    return {name: parallel.gather(tensor) for name, tensor in elastic_state(run.average).items()}


def is_sharded(distribution: str, device: str) -> bool:
    """Whether the model is sharded: it needs several processes; where gathering is slow the default is not to."""
    shard = distribution == "shard" or distribution == "auto" and device.startswith("cuda")
    return shard and parallel.world_size() > 1


def settings_of(config: DiTConfig, training: ElasticTraining) -> dict[str, Any]:
    """What may not change when a run is resumed."""
    return {"model": config.to_dict(), "training": {k: v for k, v in asdict(training).items() if k not in FREE}}


def trial(run: ElasticRun, data: TrainingData, training: ElasticTraining, precision: str) -> float:
    """The loss of a forward and backward pass of the full model, to be timed; leaves nothing behind."""
    run.precision = precision
    batch = Batch(*data.batch(training, 0, parallel.rank(), parallel.world_size())).parts(
        training.accumulate, run.device
    )[0]
    loss, _, _ = run.task(1.0, batch)
    loss.backward()
    run.zero_grad(set_to_none=True)
    return loss.item()


def report(
    state: RunState,
    run: ElasticRun,
    validation: ValidationData,
    training: ElasticTraining,
    step: int,
    end: int,
    losses: dict[str, float],
    draw: DrawGrids | None,
) -> None:
    """Logs and validates when it is time; sharded models validate on all processes together."""
    done, first = step + 1, parallel.rank() == 0
    if first and done % training.log_every == 0:
        state.log(done, rate=learning_rate(training, step), **losses)
    if done % training.validate_every and done != end or not (first or state.sharded):
        return
    numbers = validate(run.average, validation)
    pictures = draw(run.average) if draw is not None and training.tensorboard else {}
    if first:
        state.log(done, **numbers)
        for name, picture in pictures.items():
            state.picture(done, name, picture)


def step_(
    run: ElasticRun, optimizer: torch.optim.Optimizer, data: TrainingData, training: ElasticTraining, step: int
) -> dict[str, float]:
    """One optimizer step in place; every process draws the same sub-width.

    Raises EdgegenError before anything has changed when the loss or its gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(training, step)
    batch = Batch(*data.batch(training, step, parallel.rank(), parallel.world_size()))
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    order = torch.randperm(len(run.model.sub_widths), generator=generator).tolist()
    learning = [width for i in order if (width := run.model.sub_widths[i]) > training.frozen_width]
    widths = learning[: training.sub_widths]
    scale = GradientScale(training.gradient_scale, value=float(run.scale))
    tasks = [partial(run.task, batch=part) for part in batch.parts(training.accumulate, run.device)]
    parameters = run.trained_parameters()
    losses = joint_gradients_(run.model, parameters, widths, tasks, scale, step % training.full_every == 0)
    if training.frozen_width:
        freeze_(run.model, training.frozen_width)
    norm = nn.utils.clip_grad_norm_(parameters.values(), training.clip)
    losses["norm"] = float(parallel.gather(norm))
    check_finite(losses, step)
    run.scale.fill_(scale.value)
    optimizer.step()
    follow_(run.average.parameters(), run.model.parameters(), training.ema, step)
    return losses


def check_finite(losses: Mapping[str, float], step: int) -> None:
    """Refuses to go on from numbers that are not finite: says the step, and the width of the first such loss."""
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if not wrong:
        return
    name, _, width = wrong[0].partition("@")
    raise EdgegenError(
        f"not finite at step {step}: {name} at width {width or 1.0} is {losses[wrong[0]]}.",
        "The last good state is kept; lower the rate and resume.",
    )


@torch.no_grad()
def validate(model: ElasticDiT, data: ValidationData) -> dict[str, float]:
    """The validation loss of each width on the first caption of every picture; groups count by their pictures."""
    totals, count = dict.fromkeys((f"val@{w}" for w in model.config.widths), 0.0), 0
    for group in data.groups():
        for name, loss in validate_group(model, group).items():
            totals[name] += loss * len(group.latents)
        count += len(group.latents)
    return {name: total / count for name, total in totals.items()}


def validate_group(model: ElasticDiT, data: CaptionedLatents) -> dict[str, float]:
    """The validation loss of each width on latents of one shape."""
    device = next(model.parameters()).device
    rows = torch.tensor([c[0] for c in data.captions])
    text, mask = data.text[rows].float(), data.mask[rows].float()
    condition = [part.to(device) for part in (text, mask, masked_mean(text, mask))]

    def velocity(x: Tensor, t: Tensor, width: float) -> Tensor:
        return model(width, x.to(device), t.to(device), *condition).cpu()

    return {f"val@{w}": validation_loss(partial(velocity, width=w), data.latents) for w in model.config.widths}
