"""Text to picture with any networks: tokens, condition, Euler steps, decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgegen.errors import EdgegenError
from edgegen.model.sampler import euler, guide, initial_noise
from edgegen.pipeline.networks import Condition, Networks, conditions

GuidedVelocity = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Step:
    """One step of a trajectory: latents (1, C, h, w)."""

    index: int  # from 1
    count: int
    sigma: float  # before the step
    latent: np.ndarray  # after the step
    predicted: np.ndarray  # the x0 it aims at


def velocity_of(networks: Networks, condition: Condition, empty: Condition | None, guidance: float) -> GuidedVelocity:
    """The guided velocity; one pass where guidance is 1, two otherwise."""

    def velocity(latent: np.ndarray, sigma: float) -> np.ndarray:
        conditional = networks.velocity(latent, sigma, condition)
        if empty is None:
            return conditional
        return guide(conditional, networks.velocity(latent, sigma, empty), guidance)

    return velocity


def denoise(
    networks: Networks,
    prompt: str,
    shape: Sequence[int],
    sigmas: Sequence[float],
    guidance: float,
    seed: int,
    on_truncated: Callable[[], None] = lambda: None,
) -> Iterator[Step]:
    """The steps from noise to a latent of `shape` (1, C, h, w); calls `on_truncated` for a prompt that was cut."""
    prompts = [prompt] if guidance == 1 else [prompt, ""]
    encoded, truncated = conditions(networks, prompts)
    if truncated[0]:
        on_truncated()
    velocity = velocity_of(networks, encoded[0], encoded[1] if guidance != 1 else None, guidance)
    count = len(sigmas) - 1
    for index, (latent, predicted) in enumerate(euler(velocity, initial_noise(shape, seed), sigmas), 1):
        if not np.isfinite(latent).all():
            raise EdgegenError(
                f"the latent is not finite after step {index} of {count}.",
                "Check the weights it was made of, or lower the guidance.",
            )
        yield Step(index, count, sigmas[index - 1], latent, predicted)


def draw(
    networks: Networks, prompt: str, shape: Sequence[int], sigmas: Sequence[float], guidance: float, seed: int
) -> np.ndarray:
    """The picture (1, 3, H, W) in [0, 1] of a prompt."""
    *_, last = denoise(networks, prompt, shape, sigmas, guidance, seed)
    return networks.decode(last.latent)


def to_image(picture: np.ndarray) -> Image.Image:
    """An 8-bit RGB image of a picture (1, 3, H, W) in [0, 1]."""
    pixels = np.rint(np.clip(picture[0], 0, 1) * 255).astype(np.uint8)  # (3, H, W)
    return Image.fromarray(pixels.transpose(1, 2, 0))
