"""Tuning of a foreign network's biases, norms and tables by self-distillation, around weights that palettes give.

The targets are what the network gave before it was palettized, on fresh inputs; other inputs choose the best values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.capture.specialize import output_leaves
from edgegen.errors import EdgegenError
from edgegen.foreign.recording import CASES
from edgegen.foreign.source import Source
from edgegen.quantize.tune import Tuning

POINTS, HELD_OUT = 64, 8  # inputs that are learned from, and that judge
CHECKS = 20  # times that a run is judged


@dataclass(frozen=True)
class Point:
    """Inputs, and what the network gave for them before its weights changed."""

    arguments: Any
    expected: tuple[Tensor, ...]


@torch.no_grad()
def draw_points(source: Source, count: int, first: int) -> list[Point]:
    """Points of the seeds from `first` on."""
    drawn = (source.inputs(seed) for seed in range(first, first + count))
    return [Point(given, tuple(results(source.module, given))) for given in drawn]


def results(module: nn.Module, arguments: Any) -> list[Tensor]:
    return [leaf for _, leaf in output_leaves(module(**arguments))]


def trainable(module: nn.Module, frozen: Collection[str]) -> dict[str, nn.Parameter]:
    """What tuning moves: every parameter but those in palettes and the other matrices of layers."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    matrices = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, layers)}
    kept = matrices | set(frozen)
    return {n: p for n, p in module.named_parameters() if n not in kept and p.is_floating_point()}


@dataclass(frozen=True)
class Points:
    """Inputs to learn from and to judge by, none of them those of verification."""

    learned: Sequence[Point]
    held_out: Sequence[Point]

    @classmethod
    def of(cls, source: Source, steps: int) -> Points:
        """Of a network that is not changed yet."""
        held_out = draw_points(source, HELD_OUT, CASES)
        return cls(draw_points(source, min(steps, POINTS), CASES + HELD_OUT), held_out)


def tune_module_(
    module: nn.Module,
    points: Points,
    frozen: Collection[str],
    tuning: Tuning,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Tunes a module in place to the best values found, which are its own where nothing was better.

    Returns the steps, how many numbers moved, and the error relative to the output before and after. EdgegenError where
    the loss is not finite.
    """
    moved = trainable(module, frozen)
    first = best = error_of(module, points.held_out)
    chosen = {name: p.detach().clone() for name, p in moved.items()}
    optimizer = torch.optim.Adam(list(moved.values()), lr=tuning.rate, betas=(0.9, 0.99))
    for step in range(tuning.steps):
        for group in optimizer.param_groups:
            group["lr"] = tuning.rate_at(step)
        step_(module, points.learned[step % len(points.learned)], moved, optimizer)
        if (step + 1) % max(tuning.steps // CHECKS, 1) == 0 or step + 1 == tuning.steps:
            error = error_of(module, points.held_out)
            if error < best:
                best, chosen = error, {name: p.detach().clone() for name, p in moved.items()}
        advance(step + 1, tuning.steps)
    for name, parameter in moved.items():
        parameter.data.copy_(chosen[name])
    numbers = sum(p.numel() for p in moved.values())
    return {"steps": tuning.steps, "numbers": numbers, "error_before": first, "error_after": best}


def step_(module: nn.Module, point: Point, moved: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """One step on the error of one point."""
    for parameter in moved.values():
        parameter.requires_grad_(True)
    loss = relative_error(results(module, point.arguments), point.expected)
    if not torch.isfinite(loss):
        raise EdgegenError("the loss of tuning is not finite.", "Leave --tune-steps out.")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for parameter in moved.values():
        parameter.requires_grad_(False)


def relative_error(made: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """The mean squared error of outputs, each relative to its own mean square."""
    errors = [(m - e).square().mean() / e.square().mean() for m, e in zip(made, expected, strict=True)]
    return torch.stack(errors).mean()


@torch.no_grad()
def error_of(module: nn.Module, points: Sequence[Point]) -> float:
    """The mean relative error over points."""
    return float(torch.stack([relative_error(results(module, p.arguments), p.expected) for p in points]).mean())
