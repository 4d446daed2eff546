"""K-DMD: distribution matching with guidance from a few-step teacher, arXiv 2601.08303 section 5.

Distribution matching (DMD2, arXiv 2405.14867) moves the student's samples along the difference of two scores: the
teacher's, and the critic's, which follows the student. Scores enter as predicted x0; as velocities the sign would flip.

Shapes: B batch, C latent channels, h x w latent grid, N tokens, D channels. A latent x_t = (1 - t) x0 + t noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgegen.model.flow import Velocity, flow_loss, noised


def per_sample(values: Tensor | float, like: Tensor) -> Tensor:
    """Noise levels, one (a number) or one each (B,), to be multiplied with latents (B, C, h, w)."""
    levels = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return levels.reshape(-1, *[1] * (like.dim() - 1))


def predicted_x0(x_t: Tensor, t: Tensor | float, velocity: Tensor) -> Tensor:
    """x0 = x_t - t v."""
    return x_t - per_sample(t, x_t) * velocity


def levels(x: Tensor, sigma: float) -> Tensor:
    """The timesteps (B,) of a batch that is all at one noise level."""
    return torch.full((len(x),), sigma, device=x.device)


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: away from the unconditional velocity; 1 leaves the conditional one."""
    return unconditional + guidance * (conditional - unconditional)


def dmd_gradient(x0: Tensor, critic_x0: Tensor, teacher_x0: Tensor) -> Tensor:
    """The direction away from the teacher's distribution: (critic - teacher) / mean |x0 - teacher| of each sample.

    All are (B, C, h, w) predictions of x0. Where the mean is zero the gradient is zero, not NaN.
    """
    size = (x0 - teacher_x0).abs().mean(dim=tuple(range(1, x0.dim())), keepdim=True)
    return torch.nan_to_num((critic_x0 - teacher_x0) / size, nan=0.0, posinf=0.0, neginf=0.0).detach()


def dmd_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """1/2 mean (x0 - stopgrad(x0 - g))^2: its gradient with respect to x0 is g over the number of values."""
    return 0.5 * (x0 - (x0 - gradient).detach()).square().mean()


@torch.no_grad()
def trajectory(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], count: int) -> list[Tensor]:
    """A student's own latents (B, C, h, w) at sigmas[0] to sigmas[count]: its Euler steps from noise."""
    x = [noise]
    for sigma, following in zip(sigmas[:count], sigmas[1 : count + 1], strict=True):
        x.append(x[-1] + (following - sigma) * velocity(x[-1], levels(x[-1], sigma)).float())
    return x


def simulate(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], count: int) -> Tensor:
    """The latent (B, C, h, w) at sigmas[count] alone."""
    return trajectory(velocity, noise, sigmas, count)[-1]


@torch.no_grad()
def interval_velocity(velocity: Velocity, x_t: Tensor, start: float, end: float, substeps: int) -> Tensor:
    """The mean velocity (B, C, h, w) from level `start` to `end`, integrated with `substeps` Euler steps.

    One Euler step with it lands where the substeps land.
    """
    x, step = x_t, (end - start) / substeps
    for index in range(substeps):
        x = x + step * velocity(x, levels(x, start + index * step)).float()
    return (x - x_t) / (end - start)


def score_gradient(
    x0: Tensor, noise: Tensor, t: Tensor, critic: Velocity, teacher: Velocity
) -> tuple[Tensor, Tensor, Tensor]:
    """The DMD gradient at x0 noised to t (B,), with the critic's and the teacher's predictions of x0."""
    with torch.no_grad():
        x_t = noised(x0, noise, t)
        critic_x0 = predicted_x0(x_t, t, critic(x_t, t).float())
        teacher_x0 = predicted_x0(x_t, t, teacher(x_t, t).float())
    return dmd_gradient(x0.detach(), critic_x0, teacher_x0), critic_x0, teacher_x0


def critic_loss(critic: Velocity, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Flow matching on the student's samples x0, which carry no gradient."""
    return flow_loss(critic(noised(x0.detach(), noise, t), t).float(), x0.detach(), noise)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features (B, N, D), in units of the teacher's mean square."""
    teacher = teacher.detach().float()
    return (student.float() - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of velocities (B, C, h, w)."""
    return (student.float() - teacher.detach().float()).square().mean()
