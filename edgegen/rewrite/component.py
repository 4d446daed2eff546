"""A component: one network in deployable form, with the names and shapes of what goes in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.rewrite.segments import Segment
from edgegen.schema import OneOf, Range, Size

ATTENTION_FORMS = ("split", "batched")
OPERATION_FORMS = ("composed", "fused", "joined", "grouped")


@dataclass(frozen=True)
class Form:
    """How a network is written for a back end; chosen by the tier's file.

    split: per-head einsums and a loop over BNA blocks, what the Neural Engine runs. batched: heads and blocks as batch
    axes of one matrix product, what CPU runtimes run. With composed operations, norms, rotation and attention are made
    of products and the like; with fused ones each is a single operation, for runtimes that have ONNX's; with joined
    ones the split form's loop over BNA blocks takes those inside the sequence together, for fewer operations; with
    grouped ones it takes all key/value heads together, for fewer still.
    """

    attention: str = "split"
    query_chunk: int = 512  # split: the most queries one einsum takes
    operations: str = "composed"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION_FORMS:
            raise InputError(f"attention form {self.attention!r} is not one of {', '.join(ATTENTION_FORMS)}.")
        if self.operations not in OPERATION_FORMS:
            raise InputError(f"operations {self.operations!r} is not one of {', '.join(OPERATION_FORMS)}.")
        if self.operations == "fused" and self.attention == "split":
            raise InputError(
                "fused operations work on the last axis; the split form has its channels first.",
                "Use operations 'composed' with attention 'split'.",
            )
        if self.operations in ("joined", "grouped") and self.attention != "split":
            raise InputError(
                f"{self.operations} operations are those of the split form; the batched one has no loops.",
                "Use operations 'composed' or 'fused' with attention 'batched'.",
            )
        if self.query_chunk < 1:
            raise InputError(f"query_chunk {self.query_chunk} must be at least 1.")


@dataclass(frozen=True)
class TensorSpec:
    """Name, static shape and NumPy dtype name of an input or output."""

    name: Annotated[str, Size(1, 64)]
    shape: Annotated[tuple[Annotated[int, Range(1, 2**24)], ...], Size(1, 8)]
    dtype: Annotated[str, OneOf(("float32", "float16", "int32"))] = "float32"

    def zeros(self) -> Tensor:
        return torch.from_numpy(np.zeros(self.shape, self.dtype))

    def to_dict(self) -> dict:
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


@dataclass(frozen=True)
class Component:
    """A rewritten module with its signature; inputs are listed in call order.

    Names and layouts, the same on every back end (B = 1):
      text_encoder: word_ids (1, Lw) int32, byte_ids (1, Lb) int32 -> text (1, T, 1, L), text_mask (1, L, 1, 1),
                    pooled_text (1, T, 1, 1)
      transformer:  latent (1, C, h, w), timestep_features (1, F, 1, 1), text, text_mask[, pooled_text]
                    -> velocity (1, C, h, w)
      decoder:      latent (1, C, h, w) -> image (1, 3, H, W) in [0, 1]
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    form: str
    segments: tuple[Segment, ...] = ()  # what the module does, cut into parts; none where it is converted whole

    def example(self) -> tuple[Tensor, ...]:
        """Zeros of every input, for export: programs are static, values do not matter."""
        return tuple(spec.zeros() for spec in self.inputs)
