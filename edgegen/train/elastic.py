"""One elastic training step: the full model and one sub-width together, arXiv 2601.08303 section 4.

L = L_fm(full) + s (L_fm(sub) + |v_sub - stopgrad(v_full)|^2). The paper's "adaptive gradient scaling" is not defined
there; s here is the running ratio of the two gradients' norms over the shared slice, clipped to [0.25, 4].
"""

from __future__ import annotations

from collections.abc import Callable
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
        return min(max(self.value, SCALE_RANGE[0]), SCALE_RANGE[1])


def restricted_norm(gradients: dict[str, Tensor], shapes: dict[str, torch.Size]) -> float:
    """Norm of the shared parameters' gradients, restricted to the slice that a narrower model uses."""
    squares = [slice_parameter(n, gradients[n], shape).square().sum() for n, shape in shapes.items() if n in gradients]
    return float(torch.stack(squares).sum().sqrt())


def elastic_gradients_(
    model: ElasticDiT,
    width: float,
    run: Callable[[float], Tensor],
    x0: Tensor,
    noise: Tensor,
    scale: GradientScale,
) -> dict[str, float]:
    """Fills `.grad` of every parameter used by the full model and by `width`; returns the losses.

    `run(width)` gives the velocity (B, C, h, w) of the model at a width on this batch.
    """
    model.zero_grad(set_to_none=True)
    v_full = run(1.0).float()
    loss_full = flow_loss(v_full, x0, noise)
    loss_full.backward()
    full = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.zero_grad(set_to_none=True)
    v_sub = run(width).float()
    loss_flow = flow_loss(v_sub, x0, noise)
    loss_distill = (v_sub - v_full.detach()).square().mean()
    (loss_flow + loss_distill).backward()

    losses = (loss_full.item(), (loss_flow + loss_distill).item())
    s = scale.update(*(parallel.average(x) for x in _to_compare(model, width, full, scale.method, losses)))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(s)
            if name in full:
                parameter.grad.add_(full[name])
        elif name in full:
            parameter.grad = full[name]
    return {"loss": loss_full.item(), f"loss@{width}": loss_flow.item(), f"distill@{width}": loss_distill.item(),
            "scale": s}


def _to_compare(
    model: ElasticDiT, width: float, full: dict[str, Tensor], method: str, losses: tuple[float, float]
) -> tuple[float, float]:
    """The two numbers whose ratio the gradient scale follows."""
    if method != "grad_ratio":
        return losses
    shapes = {f"full.{n}": shape for n, shape in model.shapes_at(width).items() if not is_own(n)}
    sub = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return restricted_norm(full, shapes), restricted_norm(sub, shapes)
