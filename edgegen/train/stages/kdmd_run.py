"""The few-step distillation of one width: adapters on a frozen base, two phases, exact resume.

First the few-step teacher learns to do in one step what the guided teacher does in several (`teacher_steps`); then
critic and student learn in turns (`steps`). Batches and draws depend on (seed, step) alone.

Shapes: B batch, C latent channels, h x w latent grid, L text tokens, T text channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import EdgegenError, InputError
from edgegen.frechet import gaussian_distance
from edgegen.model.adapters import AdapterConfig
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.elastic import key
from edgegen.model.flow import Velocity
from edgegen.model.sampler import SamplerConfig, flow_sigmas
from edgegen.model.text import masked_mean
from edgegen.runs.average import follow_
from edgegen.runs.precision import PRECISIONS, autocast, settle_precision
from edgegen.runs.ranges import check_betas, check_choice, check_ranges
from edgegen.runs.run_state import RunState
from edgegen.runs.schedule import plateau_rate
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.stages.adapters import BASE, AdaptedDiT, LoraConfig, checkpoint_adapters
from edgegen.train.stages.kdmd import (
    critic_loss,
    dmd_loss,
    feature_loss,
    guide,
    interval_velocity,
    levels,
    output_loss,
    predicted_x0,
    score_gradient,
    simulate,
    trajectory,
)
from edgegen.train.stages.latent_distance import Components
from edgegen.train.stages.results import NOTHING, read_state

STUDENT, CRITIC, FEW_STEP, AVERAGE = "student", "critic", "few_step", "average"
TRAINED = (FEW_STEP, STUDENT, CRITIC)
LEVELS = (0.02, 0.98)  # noise levels at which scores are compared; at the ends they say nothing
TextCondition = tuple[Tensor, ...]  # text (B, L, T), mask (B, L)[, pooled (B, T)]
LIMITS = {
    "width": (0, 1), "teacher_steps": (0, 10**9), "guidance": (0, 100), "sampler_steps": (1, 100),
    "substeps": (1, 1000), "student_every": (1, 1000), "dmd": (0, 1e6), "kd": (0, 1e6), "kd_features": (0, 1e6),
    "critic_steps": (0, 10**9), "noise_shift": (1e-3, 1000), "validate_count": (2, 10**6),
}  # fmt: skip


@dataclass(frozen=True)
class KdmdTraining:
    """Settings of a few-step distillation; the defaults are the paper's where it gives them."""

    width: float = 0.0  # 0: every width of the checkpoint, one after the other
    checkpoint: str = ""  # a folder; "": what runs/elastic holds, or the bundled checkpoint when there is no such run
    prompts: str = ""  # a text file, one prompt a line; "": the captions of the training pictures
    steps: int = 10_000  # iterations of critic and student
    teacher_steps: int = 2_000  # before them, of the few-step teacher
    batch: int = 512
    rate: float = 1e-4
    warmup: int = 0
    decay_share: float = 0.0  # of the steps of each phase, at the end: the rate of teacher and student falls to zero
    betas: tuple[float, float] = (0.0, 0.99)
    clip: float = 1.0
    ema: float = 0.99  # over the student's steps
    guidance: float = 4.0  # of the teacher alone: the student learns to do without
    sampler_steps: int = 4
    shift: float = 3.0  # of the student's noise levels: 1, 0.9, 0.75, 0.5, 0
    noise_shift: float = 1.0  # of the levels at which scores are compared
    substeps: int = 4  # Euler steps of the teacher to one of the few-step teacher
    student_every: int = 5  # iterations; the critic learns at every one
    critic_steps: int = 0  # iterations at the start in which the critic alone learns, to find where the student is
    dmd: float = 1.0  # weight of distribution matching; 0: distillation alone
    dmd_from: int = 0  # the first of the student's steps whose x0 is matched; the last alone: sampler_steps - 1
    kd: float = 1.0  # weight of the few-step teacher's velocity; 0 with kd_features 0: no such teacher
    kd_features: float = 1.0  # weight of its last layer's features
    start_from_teacher: bool = False  # the student starts as the few-step teacher, not as the base
    drop_caption: float = 0.0
    drop_encoder: float = 0.1  # each of two text encoders, so that either will do
    precision: str = "auto"  # float32 or bfloat16 autocast; auto: the faster on this device, measured at the start
    seed: int = 0
    log_every: int = 20
    validate_every: int = 250
    validate_count: int = 256  # samples drawn

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        check_ranges(self)
        check_ranges(self, LIMITS)
        check_betas(self.betas)
        check_choice("precision", self.precision, PRECISIONS)
        if self.dmd_from not in range(self.sampler_steps):
            raise InputError(
                f"dmd_from is {self.dmd_from}; it must lie between 0 and {self.sampler_steps - 1}, the "
                "student's last step."
            )
        if not self.dmd and not self.distils:
            raise InputError("dmd, kd and kd_features are all 0; the student would learn nothing.", "Set one above 0.")

    @property
    def distils(self) -> bool:
        """Whether there is a few-step teacher."""
        return self.kd > 0 or self.kd_features > 0

    @property
    def first_phase(self) -> int:
        return self.teacher_steps if self.distils else 0

    @property
    def sigmas(self) -> list[float]:
        return flow_sigmas(self.sampler_steps, self.shift)


class PromptSource(Protocol):
    """Anything that draws batches: x0, noise, t, text, mask[, pooled]; x0, noise and t are not read."""

    def batch(self, training: Any, step: int, rank: int, world: int) -> tuple[Tensor, ...]: ...


class KdmdRun(nn.Module):
    """What a run saves: every adapter, under its name and its layers' names."""

    def __init__(self, net: AdaptedDiT):
        super().__init__()
        self.adapters = nn.ModuleDict(
            {name: nn.ParameterDict({key(n): p for n, p in net.parameters(name).items()}) for name in net.names}
        )


def join_conditions(first: TextCondition, second: TextCondition) -> TextCondition:
    """Two conditions as one batch; the text of the shorter is filled up with masked tokens."""
    length = max(first[0].shape[1], second[0].shape[1])

    def fill(part: Tensor, index: int) -> Tensor:
        missing = length - part.shape[1] if index < 2 else 0  # pooled text has no tokens
        return F.pad(part, (0, 0, 0, missing) if index == 0 else (0, missing))

    pairs = enumerate(zip(first, second, strict=True))
    return tuple(torch.cat([fill(part, index) for part in pair]) for index, pair in pairs)


class Distillation:
    """One width being distilled: the networks, how each is asked for a velocity, and one step of each phase."""

    def __init__(
        self, base: DiT, lora: LoraConfig, training: KdmdTraining, unconditional: TextCondition, device: str = "cpu"
    ):
        self.training, self.lora, self.device = training, lora, device
        self.precision = "float32" if training.precision == "auto" else training.precision
        self.net = AdaptedDiT(base, lora, (*TRAINED, AVERAGE), training.seed)
        self.net.model.to(device)
        self.run = KdmdRun(self.net)
        self.unconditional = tuple(part.to(device) for part in unconditional)
        size = base.config.grid[0] * base.config.patch, base.config.grid[1] * base.config.patch
        self.latent = (base.config.in_channels, *size)
        groups = [{"params": list(self.net.parameters(name).values())} for name in TRAINED]
        self.optimizer = torch.optim.Adam(groups, lr=training.rate, betas=training.betas)

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def trial(self, data: PromptSource, precision: str) -> float:
        """The time-consuming part of a step, which changes nothing: the student forward and backward."""
        before, self.precision = self.precision, precision
        condition = self.condition(data, 0)
        velocity, _ = self.student_at(self.noise(len(condition[0]), self.draws(0)), 1.0, condition)
        loss = velocity.square().mean()
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.precision = before
        return loss.item()

    def velocity(self, name: str, condition: TextCondition) -> Velocity:
        """The velocity of an adapter under a condition, without guidance."""

        def ask(x: Tensor, t: Tensor) -> Tensor:
            with self.autocast():
                return self.net(name, x, t, *condition).float()

        return ask

    def teacher(self, condition: TextCondition) -> Velocity:
        """The guided velocity of the base; both halves in one pass."""
        if self.training.guidance == 1:
            return self.velocity(BASE, condition)

        def ask(x: Tensor, t: Tensor) -> Tensor:
            empty = [part.expand(len(x), *part.shape[1:]) for part in self.unconditional]
            both = join_conditions(condition, empty)
            v = self.velocity(BASE, both)(torch.cat([x, x]), torch.cat([t, t]))
            return guide(*v.chunk(2), self.training.guidance)

        return ask

    def draws(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.training.seed * 1_000_003 + step) * 7919 + 1)

    def condition(self, data: PromptSource, step: int) -> TextCondition:
        """Text, mask and, where the model wants it, pooled text of a step's prompts."""
        drawn = data.batch(self.training, step, 0, 1)[3 : 3 + len(self.unconditional)]
        return tuple(part.to(self.device) for part in drawn)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, *self.latent, generator=generator).to(self.device)

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels (B,) at which scores are compared and the critic learns."""
        t = LEVELS[0] + (LEVELS[1] - LEVELS[0]) * torch.rand(count, generator=generator)
        shift = self.training.noise_shift
        return (shift * t / (1 + (shift - 1) * t)).to(self.device)

    def update_(self, name: str, loss: Tensor, step: int) -> float:
        """One step of one adapter; returns the norm of its gradient. A loss that is not finite changes nothing."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(self.net.parameters(name).values())
        norm = float(nn.utils.clip_grad_norm_(parameters, self.training.clip))
        if math.isfinite(norm):
            self.optimizer.param_groups[TRAINED.index(name)]["lr"] = self.rate(name, step)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def rate(self, name: str, step: int) -> float:
        """The rate falls at the end of a phase, but not the critic's: it has to keep up with the student."""
        training, first = self.training, self.training.first_phase
        done, total = (step, first) if name == FEW_STEP else (step - first, training.steps)
        decay_share = 0.0 if name == CRITIC else training.decay_share
        return plateau_rate(done, total, training.rate, training.warmup, decay_share)

    def teach_step_(self, data: PromptSource, step: int) -> dict[str, float]:
        """The few-step teacher learns the guided teacher's result over one of its intervals, from its own latents."""
        g, sigmas = self.draws(step), self.training.sigmas
        condition = self.condition(data, step)
        index = int(torch.randint(self.training.sampler_steps, (), generator=g))
        own = self.velocity(FEW_STEP, condition)
        x_t = simulate(own, self.noise(len(condition[0]), g), sigmas, index)
        target = interval_velocity(
            self.teacher(condition), x_t, sigmas[index], sigmas[index + 1], self.training.substeps
        )
        loss = output_loss(own(x_t, levels(x_t, sigmas[index])), target)
        return {"few_step": loss.item(), "norm": self.update_(FEW_STEP, loss, step)}

    def student_step_(self, data: PromptSource, step: int) -> dict[str, float]:
        """One iteration: the student in its turn, then the critic on the student's latest samples."""
        training, g = self.training, self.draws(step)
        started = step >= training.first_phase + (training.critic_steps if training.dmd else 0)
        student_turn = started and (step + 1) % training.student_every == 0
        if not student_turn and not training.dmd:
            return {}
        condition = self.condition(data, step)
        index, kd_index = self.steps_of_turn(g)
        steps = max(index, kd_index) if student_turn else index
        own = self.velocity(STUDENT, condition)
        x = trajectory(own, self.noise(len(condition[0]), g), training.sigmas, steps)
        losses: dict[str, float] = {}
        if student_turn:
            x0, losses = self.student_turn_(x, index, kd_index, condition, g, step)
        else:
            sigma = training.sigmas[index]
            with torch.no_grad():
                x0 = predicted_x0(x[index], sigma, own(x[index], levels(x[index], sigma)))
        if training.dmd:
            loss = critic_loss(self.velocity(CRITIC, condition), x0, self.noise(len(x0), g), self.levels(len(x0), g))
            losses |= {"critic": loss.item(), "critic_norm": self.update_(CRITIC, loss, step)}
        return losses

    def steps_of_turn(self, g: torch.Generator) -> tuple[int, int]:
        """Which of the student's steps distribution matching and distillation take: the same, unless `dmd_from`."""
        first, count = self.training.dmd_from if self.training.dmd else 0, self.training.sampler_steps
        index = int(torch.randint(first, count, (), generator=g))
        return index, int(torch.randint(count, (), generator=g)) if first and self.training.distils else index

    def student_turn_(
        self, x: list[Tensor], index: int, kd_index: int, condition: TextCondition, g: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Moves the student; returns its x0 at step `index` from before the move, and the losses."""
        training = self.training
        asked = {i: self.student_at(x[i], training.sigmas[i], condition) for i in {index, kd_index}}
        x0 = predicted_x0(x[index], training.sigmas[index], asked[index][0])
        loss, losses = x0.new_zeros(()), {}
        if training.dmd:
            gradient, _, teacher_x0 = score_gradient(
                x0,
                self.noise(len(x0), g),
                self.levels(len(x0), g),
                self.velocity(CRITIC, condition),
                self.teacher(condition),
            )
            loss = loss + training.dmd * dmd_loss(x0, gradient)
            losses |= {"g": float(gradient.abs().mean()), "std_ratio": float(x0.detach().std() / teacher_x0.std())}
        if training.distils:
            kd, kd_features = self.distillation(*asked[kd_index], x[kd_index], training.sigmas[kd_index], condition)
            loss = loss + training.kd * kd + training.kd_features * kd_features
            losses |= {"kd": kd.item(), "kd_features": kd_features.item()}
        losses["norm"] = self.update_(STUDENT, loss, step)
        if math.isfinite(losses["norm"]):
            self.follow_(step)
        return x0.detach(), losses

    def student_at(self, x_t: Tensor, sigma: float, condition: TextCondition) -> tuple[Tensor, Tensor]:
        """The student's velocity and features, with gradients."""
        with self.autocast():
            velocity, features = self.net.with_features(STUDENT, x_t, levels(x_t, sigma), *condition)
        return velocity.float(), features

    def distillation(
        self, velocity: Tensor, features: Tensor, x_t: Tensor, sigma: float, condition: TextCondition
    ) -> tuple[Tensor, Tensor]:
        """Output and feature losses against the few-step teacher on the same x_t."""
        with torch.no_grad(), self.autocast():
            wanted, wanted_features = self.net.with_features(FEW_STEP, x_t, levels(x_t, sigma), *condition)
        return output_loss(velocity, wanted), feature_loss(features, wanted_features)

    def follow_(self, step: int) -> None:
        """Moves the average toward the student."""
        done = (step - self.training.first_phase) // self.training.student_every
        averages, current = self.net.parameters(AVERAGE), self.net.parameters(STUDENT)
        follow_(averages.values(), (current[name] for name in averages), self.training.ema, done)

    @torch.no_grad()
    def start_student_(self) -> None:
        """At the start of the second phase, when asked: the student, and its average, become the few-step teacher."""
        for name in (STUDENT, AVERAGE):
            for layer, parameter in self.net.parameters(name).items():
                parameter.copy_(self.net.parameters(FEW_STEP)[layer])

    def step_(self, data: PromptSource, step: int) -> dict[str, float]:
        """One step of the phase that `step` is in."""
        if step < self.training.first_phase:
            return self.teach_step_(data, step)
        if step == self.training.first_phase and self.training.start_from_teacher and self.training.distils:
            self.start_student_()
        return self.student_step_(data, step)

    @torch.no_grad()
    def sample(
        self,
        name: str,
        noise: Tensor,
        condition: TextCondition,
        sigmas: list[float] | None = None,
        guidance: bool = False,
        batch: int = 64,
    ) -> Tensor:
        """Latents (N, C, h, w) that an adapter draws from noise in Euler steps; `guidance` asks the guided base."""
        sigmas = sigmas or self.training.sigmas
        drawn = []
        for start in range(0, len(noise), batch):
            part = tuple(c[start : start + batch] for c in condition)
            velocity = self.teacher(part) if guidance else self.velocity(name, part)
            drawn.append(simulate(velocity, noise[start : start + batch], sigmas, len(sigmas) - 1))
        return torch.cat(drawn)


def train_kdmd(
    base: DiT,
    data: PromptSource,
    validation: CaptionedLatents | None,
    unconditional: TextCondition,
    run_dir: Path,
    lora: LoraConfig,
    training: KdmdTraining,
    stop_after: int | None = None,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Distils one width (`training.width`), resuming what `run_dir` holds; returns the averaged student's adapter.

    `base` is the plain model of that width, `unconditional` the empty prompt's condition (1, ...). Names are those of
    a checkpoint. Raises EdgegenError on a loss that is not finite: the last saved state stays as it was.
    """
    base_digest = weights_digest(base)  # before the adapters are put in
    work = Distillation(base, lora, training, unconditional, device)
    work.precision, _ = settle_precision(training.precision, run_dir, partial(work.trial, data))
    training = replace(training, precision=work.precision)
    free = ("steps", "decay_share", "log_every", "validate_every", "validate_count", "checkpoint", "prompts", "rate")
    settings = {
        "model": asdict(lora),
        "training": {k: v for k, v in asdict(training).items() if k not in free},
        "base": base_digest,
    }
    state = RunState(run_dir, work.run, work.optimizer, settings)
    end = training.first_phase + training.steps
    end = min(end, stop_after or end)
    watch = Watch(work, validation) if validation is not None else None
    for step in state.steps(end):
        losses = work.step_(data, step)
        if not all(math.isfinite(v) for v in losses.values()):
            raise EdgegenError(
                f"the loss is not finite at step {step} of width {training.width:g}: {losses}.",
                f"The last good state is in {run_dir}; lower the rate and resume.",
            )
        done = step + 1
        if done % training.log_every == 0 and losses:
            state.log(done, **losses)
        if watch is not None and (done % training.validate_every == 0 or done == end):
            state.log(done, **watch.measure(work, FEW_STEP if done <= training.first_phase else AVERAGE))
        state.save(done, force=done == end)
    return checkpoint_adapters(work.net.parameters(AVERAGE), lora, training.width)


class Watch:
    """The Fréchet distance of samples to real latents, on fixed prompts and noise, in 64 principal components."""

    def __init__(self, work: Distillation, validation: CaptionedLatents):
        count = work.training.validate_count
        rows = torch.arange(count) * len(validation.latents) // count  # evenly: they may be sorted
        captions = torch.tensor([c[0] for c in validation.captions])[rows]
        text, mask = validation.text[captions].float(), validation.mask[captions].float()
        whole = (text, mask, masked_mean(text, mask))[: len(work.unconditional)]
        self.condition = tuple(part.to(work.device) for part in whole)
        self.noise = work.noise(count, torch.Generator().manual_seed(work.training.seed))
        self.components = Components.fit(validation.latents.float())
        self.real = self.components.of(validation.latents.float())
        self.spread = float(validation.latents.float().std())

    def measure(self, work: Distillation, name: str) -> dict[str, float]:
        """Of an adapter's few-step samples: the distance, and how their spread compares with that of real latents."""
        drawn = work.sample(name, self.noise, self.condition).cpu()
        return {
            f"frechet_{name}": gaussian_distance(self.components.of(drawn), self.real),
            f"spread_{name}": float(drawn.std()) / self.spread,
        }


def weights_digest(model: nn.Module) -> str:
    """sha256 of the weights that a run starts from."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class KdmdResults:
    """Adapters by checkpoint name, what config.json says of them, how to draw, and sha256 of each width's base."""

    config: AdapterConfig
    factors: dict[str, Tensor]
    sampler: SamplerConfig
    bases: dict[float, str]

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Refuses a checkpoint on whose weights the adapters were not trained."""
        for width, sha in self.bases.items():
            if weights_digest(checkpoint.transformer(width, adapters=False)) != sha:
                raise InputError(
                    f"the adapters of width {width:g} were trained on other weights than those of "
                    f"{checkpoint.config.name}.",
                    "Distil this model, or use the one they came from.",
                )


def kdmd_result(run_dir: Path, name: str = AVERAGE) -> tuple[LoraConfig, dict[str, Tensor]]:
    """What the run of one width learnt: its adapter by checkpoint name. `name` may be another of the run's adapters."""
    state = read_state(run_dir, f"module.adapters.{name}.")
    lora = LoraConfig(**state.settings["model"])
    parameters = {n.replace("/", "."): tensor for n, tensor in state.tensors.items()}
    return lora, checkpoint_adapters(parameters, lora, float(state.settings["training"]["width"]))


def kdmd_results(runs_dir: Path, widths: Sequence[float]) -> KdmdResults | None:
    """What the widths that have a run below `runs_dir` learnt; None where there is no run."""
    folders = {width: runs_dir / f"{width:g}" for width in widths}
    folders = {width: folder for width, folder in folders.items() if (folder / "state.safetensors").is_file()}
    if not folders:
        return None
    found = {width: kdmd_result(folder) for width, folder in folders.items()}
    settings = [read_state(folder, NOTHING).settings for folder in folders.values()]
    kinds = {(lora.rank, lora.targets) for lora, _ in found.values()}
    samplers = {(s["training"]["sampler_steps"], s["training"]["shift"]) for s in settings}
    if len(kinds) > 1 or len(samplers) > 1:
        raise InputError(
            f"the widths in {runs_dir} were distilled with different adapters or steps.",
            "Distil them with the same rank, targets, sampler_steps and shift.",
        )
    (rank, targets), (steps, shift) = kinds.pop(), samplers.pop()
    factors = {name: tensor for _, adapter in found.values() for name, tensor in adapter.items()}
    bases = {width: s["base"] for width, s in zip(folders, settings, strict=True)}
    return KdmdResults(AdapterConfig(rank, targets, tuple(found)), factors, SamplerConfig(steps, shift, 1.0), bases)
