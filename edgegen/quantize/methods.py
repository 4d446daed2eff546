"""The ways to quantize: palettes after a bit plan, int8 an output, int4 in groups of inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.errors import InputError, unknown
from edgegen.model.quantization import METHODS
from edgegen.quantize.integers import round_to_nearest
from edgegen.quantize.palette import palettize
from edgegen.quantize.stored import StoredWeight

GROUP = 32  # inputs that share an int4 scale: what XNNPACK and ONNX Runtime have kernels for


def check_method(method: str) -> None:
    """Refuses a method that does not exist."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)


def integer_plan(weights: Mapping[str, Tensor], method: str, group: int = GROUP) -> dict[str, int]:
    """The bits of each weight where the method leaves no choice: int4 only where groups divide the inputs of a layer
    that is a matrix; what remains of the network, convolutions and odd widths, is int8.
    """
    if group < 2:
        raise InputError(f"a group of {group} inputs is too small.", f"Use {GROUP}.")
    int4 = method == "int4-group"
    return {
        name: 4 if int4 and weight.ndim == 2 and weight.shape[1] % group == 0 else 8 for name, weight in weights.items()
    }


def quantize_weight(name: str, weight: Tensor, bits: int, method: str, group: int = GROUP) -> StoredWeight:
    """One weight in the form of a method; NaN and infinite values are an error that names it."""
    if method == "palette":
        return palettize(weight, bits, name=name)
    return round_to_nearest(weight, bits, group if bits == 4 else 0, name)


def quantize_weights(
    weights: Mapping[str, Tensor],
    plan: Mapping[str, int],
    method: str,
    group: int = GROUP,
    advance: Advance = lambda done, of: None,
) -> dict[str, StoredWeight]:
    """The weights of a plan, in the plan's order."""
    made: dict[str, StoredWeight] = {}
    for name, bits in plan.items():
        made[name] = quantize_weight(name, weights[name], bits, method, group)
        advance(len(made), len(plan))
    return made
