"""Tuning what was not quantized by self-distillation against the unquantized model's velocity, arXiv 2601.08303.

Quantized weights are frozen; biases, norms and modulation tables learn at points of the unquantized model's own
sampling trajectories. A batch is a function of (seed, step), so a resumed run ends in the bytes of an unbroken one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.errors import EdgegenError, InputError
from edgegen.model.dit import DiT
from edgegen.model.states import open_safetensors, write_tensors
from edgegen.quantize.stages import AGAIN, reading_stage
from edgegen.quantize.trajectories import Conditions, Points, Sampling, draw_points, mixed_seed, velocity_error
from edgegen.runs.average import follow_
from edgegen.runs.schedule import cosine_rate
from edgegen.strict_json import parse_json


@dataclass(frozen=True)
class Tuning:
    """Settings of a tuning run; everything but `save_s` decides what comes out."""

    steps: int = 2000
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 50
    ema: float = 0.99
    held_out: int = 64  # points that choose the best average
    check_every: int = 100
    bfloat16: bool = False
    seed: int = 0
    save_s: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("warmup", 0), ("held_out", 1), ("check_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"tuning {name} {getattr(self, name)} must be at least {least}.")
        if not (self.rate > 0 and 0 <= self.ema < 1):
            raise InputError(f"tuning rate {self.rate:g} must be above 0 and ema {self.ema:g} from 0 to below 1.")

    def settings(self) -> dict:
        """What must be the same for a run to be resumed."""
        return {name: value for name, value in asdict(self).items() if name != "save_s"}

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        return cosine_rate(step, self.steps, self.rate, self.warmup)


@dataclass
class TuneState:
    """Where a run stands: names in the model's order, Adam's moments, the average, and the best average so far."""

    step: int
    values: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]
    squares: dict[str, Tensor]
    best_error: float
    first_error: float  # before tuning
    curve: list[tuple[int, float]]  # step, error on held-out points

    GROUPS = ("values", "average", "best", "moments", "squares")

    @classmethod
    def start(cls, values: dict[str, Tensor], error: float) -> TuneState:
        def copies() -> dict[str, Tensor]:
            return {name: value.detach().clone() for name, value in values.items()}

        def zeros() -> dict[str, Tensor]:
            return {name: torch.zeros_like(value) for name, value in values.items()}

        return cls(0, copies(), copies(), copies(), zeros(), zeros(), error, error, [(0, error)])

    def save(self, path: Path, settings: dict) -> None:
        """Writes the state whole or not at all."""
        tensors = {f"{group}.{name}": tensor for group in self.GROUPS for name, tensor in getattr(self, group).items()}
        note = {
            "step": self.step,
            "best_error": self.best_error,
            "first_error": self.first_error,
            "curve": self.curve,
            "settings": settings,
        }
        write_tensors(path, tensors, {"state": json.dumps(note)})

    @classmethod
    def load(cls, path: Path, names: Iterable[str], settings: dict) -> TuneState:
        """Reads a state back; one of other settings is an error."""
        with reading_stage(path):
            file = open_safetensors(path, AGAIN)
            note = parse_json(file.metadata()["state"], str(path), AGAIN)
            if note["settings"] != json.loads(json.dumps(settings)):
                raise InputError(
                    f"{path} belongs to a tuning with other settings.",
                    "Give the settings it was started with, or --overwrite to start again.",
                )
            groups = {
                group: {name: file.get_tensor(f"{group}.{name}").clone() for name in names} for group in cls.GROUPS
            }
            curve = [(int(step), float(error)) for step, error in note["curve"]]
            return cls(
                int(note["step"]), best_error=note["best_error"], first_error=note["first_error"], curve=curve, **groups
            )


@dataclass(frozen=True)
class Tuned:
    """The parameters of the best average, and the mean squared velocity error on held-out points."""

    values: dict[str, Tensor]
    error_before: float | None  # None: there were no steps
    error_after: float | None
    curve: list[tuple[int, float]]


def trainable(model: DiT, frozen: Iterable[str]) -> dict[str, Tensor]:
    """The parameters that tuning moves: all that are not quantized."""
    kept = set(frozen)
    return {name: parameter for name, parameter in model.named_parameters() if name not in kept}


def tune_(
    student: DiT,
    teacher: DiT,
    frozen: Iterable[str],
    conditions: Conditions,
    sampling: Sampling,
    tuning: Tuning,
    state_path: Path | None = None,
    advance: Advance = lambda done, of: None,
) -> Tuned:
    """Tunes `student` in place to the best average found; resumes the state in `state_path` if there is one.

    Raises EdgegenError when the loss is not finite: the last saved state stays as it was.
    """
    student.requires_grad_(False)
    moved = trainable(student, frozen)
    if tuning.steps == 0:
        return Tuned({name: value.detach().clone() for name, value in moved.items()}, None, None, [])
    held_out = draw_points(teacher, conditions, sampling, tuning.held_out, mixed_seed("held out", tuning.seed))
    if state_path is not None and state_path.is_file():
        state = TuneState.load(state_path, moved, tuning.settings())
        fill_(moved, state.values)
    else:
        state = TuneState.start(moved, velocity_error(student, held_out, conditions))
    saved_at = time.monotonic()
    for step in range(state.step, tuning.steps):
        points = draw_points(teacher, conditions, sampling, tuning.batch, mixed_seed("batch", tuning.seed, step))
        step_(student, moved, points, conditions, state, tuning)
        if state.step % tuning.check_every == 0 or state.step == tuning.steps:
            check_(student, moved, held_out, conditions, state)
        last = state.step == tuning.steps
        if state_path is not None and (last or time.monotonic() - saved_at >= tuning.save_s):
            state.save(state_path, tuning.settings())
            saved_at = time.monotonic()
        advance(state.step, tuning.steps)
    fill_(moved, state.best)
    return Tuned(state.best, state.first_error, state.best_error, state.curve)


def step_(
    student: DiT, moved: dict[str, Tensor], points: Points, conditions: Conditions, state: TuneState, tuning: Tuning
) -> None:
    """One step of Adam on the velocity's mean squared error, and the average's."""
    for parameter in moved.values():
        parameter.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=tuning.bfloat16):
        velocity = student(points.latent, points.t, *conditions.rows(points.row))
    loss = (velocity.float() - points.velocity).square().mean()
    if not torch.isfinite(loss):
        raise EdgegenError(f"the loss is not finite at step {state.step} of tuning.", "Lower the rate and resume.")
    gradients = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
    state.step += 1
    rate, (beta, beta_squares) = tuning.rate_at(state.step - 1), (0.9, 0.99)
    with torch.no_grad():
        for (name, parameter), gradient in zip(moved.items(), gradients, strict=True):
            parameter.requires_grad_(False)
            if gradient is not None:
                moment = state.moments[name].lerp_(gradient, 1 - beta)
                square = state.squares[name].lerp_(gradient.square(), 1 - beta_squares)
                scale = (square / (1 - beta_squares**state.step)).sqrt_().add_(1e-8)
                parameter.sub_(rate / (1 - beta**state.step) * moment / scale)
            state.values[name].copy_(parameter)
    follow_((state.average[name] for name in moved), moved.values(), tuning.ema, state.step)


def check_(student: DiT, moved: dict[str, Tensor], held_out: Points, conditions: Conditions, state: TuneState) -> None:
    """Measures the average on held-out points and keeps it if it is the best."""
    fill_(moved, state.average)
    error = velocity_error(student, held_out, conditions)
    fill_(moved, state.values)
    state.curve.append((state.step, error))
    if error < state.best_error:
        state.best_error = error
        state.best = {name: value.clone() for name, value in state.average.items()}


@torch.no_grad()
def fill_(parameters: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copies values into parameters."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
