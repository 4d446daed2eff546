"""Numbers of drawing and of measuring, as edgegen computes them.

float32 values are given by their bits, in hexadecimal: "3f800000" is 1. float64 values are JSON numbers, which read
back to the same value.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np

from edgegen.bench.measure import NOISE_LIMIT
from edgegen.bench.statistics import summarize
from edgegen.model.sampler import euler, flow_sigmas, guide, initial_noise
from edgegen.pipeline.draw import to_image
from edgegen.pipeline.networks import features

SEEDS = [*range(40), 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**53 + 1, 2**62, 2**63 - 1]
NOISE_SHAPE = (1, 8, 16, 16)
LONG_NOISE = 2**18  # long enough that the tail and every wedge of the ziggurat are drawn from
SHIFTS, STEPS = (1.0, 3.0, 1.15, 0.5), (1, 2, 4, 7, 28, 1000)
FEATURE_SIZES, FEATURE_SIGMAS = (16, 256), (0.0, 1.0, 0.9, 0.75, 0.5, 0.1, 1e-3, 0.3333333333333333)


def bits(values: np.ndarray) -> list[str]:
    """float32 values by their bits."""
    assert values.dtype == np.float32
    return [f"{value:08x}" for value in values.ravel().view(np.uint32).tolist()]


def sha256(values: np.ndarray) -> str:
    """Of the values' bytes, little end first."""
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def noise_vectors() -> dict[str, Any]:
    """Seeds (as text: some do not fit a double) with their first values and the sha256 of all."""
    cases = [(seed, NOISE_SHAPE) for seed in SEEDS] + [(1, (LONG_NOISE,)), (2**63 - 1, (LONG_NOISE,))]
    return {"cases": [noise_case(seed, shape) for seed, shape in cases]}


def noise_case(seed: int, shape: tuple[int, ...]) -> dict[str, Any]:
    noise = initial_noise(shape, seed)
    return {"seed": str(seed), "count": noise.size, "first": bits(noise.ravel()[:8]), "sha256": sha256(noise)}


def sigma_vectors() -> dict[str, Any]:
    """Steps and shift with their steps + 1 noise levels; of 1000 steps the sha256 of the float64 bytes."""
    return {"cases": [sigma_case(steps, shift) for steps in STEPS for shift in SHIFTS]}


def sigma_case(steps: int, shift: float) -> dict[str, Any]:
    sigmas = flow_sigmas(steps, shift)
    told = {"sigmas": sigmas} if steps <= 28 else {}
    return {"steps": steps, "shift": shift, "sha256": sha256(np.array(sigmas)), **told}


def feature_vectors() -> dict[str, Any]:
    """The transformer's `timestep_features` of a sigma, which is rounded to float32 first."""
    return {
        "scale": 1000.0,
        "max_period": 10000.0,
        "cases": [
            {"sigma": sigma, "size": size, "features": bits(features(sigma, size))}
            for size in FEATURE_SIZES
            for sigma in FEATURE_SIGMAS
        ],
    }


def guidance_vectors() -> dict[str, Any]:
    """unconditional + guidance * (conditional - unconditional), in float32 after every operation."""
    conditional, unconditional = initial_noise((16,), 1), initial_noise((16,), 2)
    return {
        "cases": [
            {
                "guidance": g,
                "conditional": bits(conditional),
                "unconditional": bits(unconditional),
                "guided": bits(guide(conditional, unconditional, g)),
            }
            for g in (0.0, 1.0, 2.5, 4.1, 7.5)
        ]
    }


def euler_vectors() -> dict[str, Any]:
    """Steps from noise with given velocities: the latent after each and the x0 it aims at."""
    return {"cases": [euler_case(steps, shift) for steps, shift in ((1, 1.0), (4, 3.0), (7, 1.15))]}


def euler_case(steps: int, shift: float) -> dict[str, Any]:
    noise, sigmas = initial_noise((8,), steps), flow_sigmas(steps, shift)
    velocities = [initial_noise((8,), 100 + step) for step in range(steps)]
    given = iter(velocities)
    walked = list(euler(lambda latent, sigma: next(given), noise, sigmas))
    return {
        "sigmas": sigmas,
        "noise": bits(noise),
        "velocities": [bits(v) for v in velocities],
        "latents": [bits(latent) for latent, _ in walked],
        "predicted": [bits(x0) for _, x0 in walked],
    }


def pixel_vectors() -> dict[str, Any]:
    """Values of a decoded picture and their 8-bit pixels: cut to [0, 1], times 255 in float32, halves to even."""
    values = np.concatenate(
        [
            np.array([-1, 0, 1, 2, -0.0, 0.5], np.float32),
            (np.arange(12) + np.float32(0.5)) / 255,
            np.random.default_rng(3).random(60, np.float32),
        ]
    ).astype(np.float32)
    picture = np.stack([values] * 3)[None, :, None, :]  # (1, 3, 1, W)
    return {"values": bits(values), "pixels": [red for red, _, _ in to_image(picture).get_flattened_data()]}


def statistics_vectors() -> dict[str, Any]:
    """Milliseconds of runs with edgegen's summary (compare to 1e-9 of the value) or, where they are none, an error."""
    chance = np.random.default_rng(4)
    lists = [
        [5.0],
        [5.0, 6.0],
        [3.0, 1.0, 2.0],
        chance.gamma(9, 3, 9).tolist(),
        chance.gamma(9, 3, 20).tolist(),
        chance.gamma(2, 30, 333).tolist(),
        [7.25] * 20,
        [*[10.0] * 19, 900.0],
        [1e-3, 1e6, 2.5],
    ]
    return {
        "noise_limit": NOISE_LIMIT,
        "cases": [{"runs": runs, "summary": asdict(summarize(runs))} for runs in lists],
        "refused": [[], [0.0], [-1.0], [1.0, 0.0, 2.0]],
    }
