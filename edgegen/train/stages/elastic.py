"""One elastic training step: the full model and one or more sub-widths together, arXiv 2601.08303 section 4.

L = L_fm(full) + s (L_fm(sub) + |v_sub - stopgrad(v_full)|^2). The paper's "adaptive gradient scaling" is not defined
there; s here is the running ratio of the two gradients' norms over the shared slice, clipped to [0.25, 4].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgegen.model.elastic import ElasticDiT, is_own, slice_parameter
from edgegen.runs import parallel

SCALE_RANGE = (0.25, 4.0)


@dataclass
class GradientScale:
    """The factor s on the sub-width's gradient: `grad_ratio` (default), `loss_ratio` or `none`."""

    method: str = "grad_ratio"
    decay: float = 0.99
    value: float = 1.0

    def update(self, full: float, sub: float) -> float:
        """Follows the ratio full / sub and returns the clipped factor."""
        if self.method != "none" and sub > 0:
            self.value = self.decay * self.value + (1 - self.decay) * full / sub
        return self.factor

    @property
    def factor(self) -> float:
        return min(max(self.value, SCALE_RANGE[0]), SCALE_RANGE[1])


Task = Callable[[float], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Runs the model at a width on a fixed batch: loss to minimise, velocity (B, C, h, w), numbers to log by name."""


def joint_gradients_(
    model: ElasticDiT,
    parameters: Mapping[str, nn.Parameter],
    widths: Sequence[float],
    tasks: Sequence[Task],
    scale: GradientScale,
    train_full: bool = True,
) -> dict[str, float]:
    """Fills `.grad` of every parameter used by the full model and by the sub-widths given; returns what to log.

    `parameters` are the model's by name and maybe others that the tasks use. Each task is one of the equal parts that
    a batch is worked through in. Gradients and numbers are means over tasks and processes. Without `train_full` the
    full model only teaches.
    """
    take_gradients_(parameters)
    follows_norms = scale.method == "grad_ratio" and train_full
    full, taught, numbers, loss_full = _full_pass_(parameters, tasks, train_full)
    if follows_norms:  # the norm of the mean gradient is not the mean of the norms
        parallel.average_gradients_(full.values())
    total = dict(full)
    for width in widths:
        sub, of_width, loss_sub = _sub_pass_(parameters, tasks, width, taught)
        if follows_norms:
            parallel.average_gradients_(sub.values())
            shapes = {f"full.{n}": shape for n, shape in model.shapes_at(width).items() if not is_own(n)}
            scale.update(parallel.norm_of_slices(full, shapes), parallel.norm_of_slices(sub, shapes))
        elif train_full:
            pair = parallel.average({"full": loss_full, "sub": loss_sub})
            scale.update(pair["full"], pair["sub"])
        s = scale.factor
        for name, gradient in sub.items():
            total[name] = total[name] + s * gradient if name in total else s * gradient
        numbers |= of_width | {"scale": s}
    if not follows_norms:
        parallel.average_gradients_(total.values())
    for name, parameter in parameters.items():
        parameter.grad = total.get(name)
    return parallel.average(numbers)


def _full_pass_(
    parameters: Mapping[str, nn.Parameter], tasks: Sequence[Task], train: bool
) -> tuple[dict[str, Tensor], list[Tensor], dict[str, float], float]:
    """Gradients of the full model, what it teaches for each task, its numbers and its loss."""
    taught, numbers, total = [], {}, 0.0
    for task in tasks:
        with torch.set_grad_enabled(train):
            loss, velocity, found = task(1.0)
        if train:
            (loss / len(tasks)).backward()
        taught.append(velocity.detach())
        total += loss.item() / len(tasks)
        add_mean_(numbers, found, len(tasks))
    return take_gradients_(parameters), taught, numbers, total


def _sub_pass_(
    parameters: Mapping[str, nn.Parameter], tasks: Sequence[Task], width: float, taught: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, float], float]:
    """Gradients of a sub-width that learns its task and the full model's velocities, its numbers and its loss."""
    numbers: dict[str, float] = {}
    total = 0.0
    for task, target in zip(tasks, taught, strict=True):
        loss, velocity, found = task(width)
        distill = (velocity - target).square().mean()
        ((loss + distill) / len(tasks)).backward()
        total += (loss + distill).item() / len(tasks)
        add_mean_(numbers, {f"{name}@{width}": value for name, value in found.items()}, len(tasks))
        add_mean_(numbers, {f"distill@{width}": distill}, len(tasks))
    return take_gradients_(parameters), numbers, total


def add_mean_(numbers: dict[str, float], found: Mapping[str, Tensor], count: int) -> None:
    """Adds one of `count` parts of a mean."""
    for name, value in found.items():
        numbers[name] = numbers.get(name, 0.0) + value.item() / count


def take_gradients_(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Moves the gradients off the parameters."""
    gradients = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            gradients[name], parameter.grad = parameter.grad, None
    return gradients


def freeze_(model: ElasticDiT, width: float) -> None:
    """Takes the gradient off what the plain model of a width reads of the shared weights."""
    full = dict(model.full.named_parameters())
    for name, shape in model.shapes_at(width).items():
        gradient = full[name].grad
        if gradient is not None and not is_own(name):
            gradient.mul_(1 - used_by(name, gradient.shape, shape).to(gradient))


def used_by(name: str, shape: torch.Size, narrow: torch.Size) -> Tensor:
    """1 where a narrower model whose parameter has the shape `narrow` reads one of the shape given, else 0."""
    with torch.enable_grad():
        whole = torch.zeros(shape, requires_grad=True)
        (used,) = torch.autograd.grad(slice_parameter(name, whole, narrow).sum(), whole)
    return used
