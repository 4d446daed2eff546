"""A foreign network recorded, and the cases that its artifacts are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.capture.deploy import Traced, trace
from edgegen.capture.specialize import Recording, leaf_names, output_leaves, specialize
from edgegen.errors import EdgegenError, InputError
from edgegen.foreign.source import Source
from edgegen.foreign.watch import Peaks, watching
from edgegen.verify import Case, psnr

CASES = 3  # fresh inputs a network is judged with
HEAVY = 200_000_000  # parameters from which it is one, and artifacts alone show whether the recording is right
OTHER = 1  # the seed of inputs that are not the example's
REPLAY_DB = 100.0  # of the recording against the module: the same operations in the same order


@dataclass(frozen=True)
class Recorded:
    """A source that was recorded, with the cases its artifacts are judged by."""

    source: Source
    traced: Traced
    cases: tuple[Case, ...]
    largest: float = 0.0  # |value| that a layer of the module took or gave


def record(source: Source) -> Recorded:
    """Records a module and replays the recording on fresh inputs; InputError where it gives anything else. One that is
    heavy is run once, on other inputs than the example's.
    """
    module, heavy = source.module.eval().requires_grad_(False), source.parameters > HEAVY
    if not heavy:
        with running_errors(module), torch.no_grad():
            module(**source.arguments)
    with running_errors(module):
        recording = specialize(module, source.arguments, source.constant)
    cases, traced = [], trace(recording)
    peaks: dict[str, Peaks] = {}
    for seed in [OTHER] if heavy else range(CASES):
        with watching(module, peaks):
            values, results = run_once(source, seed, recording)
        if not heavy:
            with torch.no_grad():
                replayed = recording.graph(*values.values())
            for (name, expected), made in zip(results.items(), replayed, strict=True):
                check_replay(name, expected.numpy(), made.numpy())
        cases.append(Case(arrays(traced.feed(values)), arrays(results)))
    largest = max((max(one.taken, one.given) for one in peaks.values()), default=0.0)
    return Recorded(source, traced, tuple(cases), largest)


def run_once(source: Source, seed: int, recording: Recording) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fresh inputs of a module in the recording's order, and what the module gives for them."""
    arguments = source.inputs(seed)
    with torch.no_grad(), source.running():
        leaves = [leaf for _, leaf in output_leaves(source.module(**arguments))]
    results = dict(zip(recording.outputs, leaves, strict=True))
    for name, result in results.items():
        require_finite(name, result)
    given = dict(leaf_names(arguments))
    return {name: given[name] for name in recording.names}, results


@contextmanager
def running_errors(module: nn.Module) -> Iterator[None]:
    """Inputs that the module itself cannot take are an InputError."""
    try:
        yield
    except EdgegenError:
        raise
    except Exception as error:  # whatever a foreign module raises
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            f"{type(module).__name__} fails on the example inputs: {type(error).__name__}: {line}",
            "Check their shapes, and the size asked for.",
        ) from error


def require_finite(name: str, expected: Tensor) -> None:
    """Refuses a module whose own numbers are none."""
    if not torch.isfinite(expected).all():
        raise EdgegenError(
            f"the module's own {name} is not finite in fp32.", "Check its weights and the example inputs."
        )


def check_replay(name: str, expected: np.ndarray, made: np.ndarray) -> None:
    """A recording that gives other numbers on other inputs has a value of the example baked in."""
    reached = psnr(expected, made)
    if reached < REPLAY_DB:
        raise InputError(
            f"the recording gives {reached:.0f} dB for {name} on other inputs: the module decides by values it reads.",
            "Make the input it depends on constant, or move the decision out of the module.",
        )


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}
