"""One elastic training step: the full model and one or more sub-widths together, arXiv 2601.08303 section 4.

L = L_fm(full) + s (L_fm(sub) + |v_sub - stopgrad(v_full)|^2). The paper's "adaptive gradient scaling" is not defined
there; s here is the running ratio of the two gradients' norms over the shared slice, clipped to [0.25, 4].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgegen.model.elastic import ElasticDiT, is_own, slice_parameter
from edgegen.train import parallel
from edgegen.train.flow import flow_loss

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


def restricted_norm(gradients: dict[str, Tensor], shapes: dict[str, torch.Size]) -> float:
    """Norm of the shared parameters' gradients, restricted to the slice that a narrower model uses."""
    squares = [slice_parameter(n, gradients[n], shape).square().sum() for n, shape in shapes.items() if n in gradients]
    return float(torch.stack(squares).sum().sqrt())


def elastic_gradients_(
    model: ElasticDiT,
    widths: Sequence[float],
    run: Callable[[float], Tensor],
    x0: Tensor,
    noise: Tensor,
    scale: GradientScale,
    train_full: bool = True,
) -> dict[str, float]:
    """Fills `.grad` of every parameter used by the full model and by the sub-widths given; returns the losses.

    `run(width)` gives the velocity (B, C, h, w) of the model at a width on this batch. Without `train_full` the full
    model only teaches.
    """
    model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(train_full):
        v_full = run(1.0).float()
        loss_full = flow_loss(v_full, x0, noise)
    if train_full:
        loss_full.backward()
    full = take_gradients_(model)
    total, losses = dict(full), {"loss": loss_full.item()}
    for width in widths:
        v_sub = run(width).float()
        loss_flow, loss_distill = flow_loss(v_sub, x0, noise), (v_sub - v_full.detach()).square().mean()
        (loss_flow + loss_distill).backward()
        sub = take_gradients_(model)
        pair = (loss_full.item(), (loss_flow + loss_distill).item())
        if train_full:
            scale.update(*(parallel.average(x) for x in _to_compare(model, width, full, sub, scale.method, pair)))
        s = scale.factor
        for name, gradient in sub.items():
            total[name] = total[name] + s * gradient if name in total else s * gradient
        losses |= {f"loss@{width}": loss_flow.item(), f"distill@{width}": loss_distill.item(), "scale": s}
    for name, parameter in model.named_parameters():
        parameter.grad = total.get(name)
    return losses


def take_gradients_(model: ElasticDiT) -> dict[str, Tensor]:
    """Moves the gradients off the model's parameters."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def _to_compare(
    model: ElasticDiT, width: float, full: dict[str, Tensor], sub: dict[str, Tensor], method: str,
    losses: tuple[float, float],
) -> tuple[float, float]:
    """The two numbers whose ratio the gradient scale follows."""
    if method != "grad_ratio":
        return losses
    shapes = {f"full.{n}": shape for n, shape in model.shapes_at(width).items() if not is_own(n)}
    return restricted_norm(full, shapes), restricted_norm(sub, shapes)
