"""A quantized weight, whichever way it is stored, and the weights of a quantized checkpoint by name."""

from __future__ import annotations

from collections.abc import Mapping

from edgegen.model.checkpoint import Checkpoint
from edgegen.model.quantization import QuantizedState
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.palette import Palette

StoredWeight = Palette | IntegerWeight
StoredWeights = Mapping[str, StoredWeight]


def stored_kind(method: str) -> type[Palette] | type[IntegerWeight]:
    """The class of a method's weights."""
    return Palette if method == "palette" else IntegerWeight


def stored_weights(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    """The quantized weights of a checkpoint's transformer; none where it is not quantized."""
    state = checkpoint.states["transformer"]
    if not isinstance(state, QuantizedState):
        return {}
    kind = stored_kind(state.quantization.method)
    return {
        name: kind.from_tensors(name, state.tensors(name), bits, state.shapes[name])
        for name, bits in state.quantization.plan.items()
    }
