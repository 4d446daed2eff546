"""coremltools' conversion of an exported program, in float16, or in float32 where a tier asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgegen.emit.mil_passes import unchecked_passes
from edgegen.rewrite.component import TensorSpec

MERGING_PASSES = {"common::const_deduplication"}  # of constants with equal values
FOLDING_PASSES = {"common::fuse_conv_scale", "common::fuse_conv_bias"}  # of products and sums into weights before them


def half_specs(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Floats as float16, so that the Neural Engine casts nothing."""
    return tuple(replace(s, dtype="float16") if s.dtype == "float32" else s for s in specs)


def convert(
    program: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    target: str,
    apart: bool = False,
    unfolded: bool = False,
    precision: str = "float16",
) -> Any:
    """A coremltools model of an exported program; `apart` keeps constants of equal values from being merged,
    `unfolded` products and sums from being folded into weights.
    """
    import coremltools as ct

    given, made = (half_specs(specs) if precision == "float16" else specs for specs in (inputs, outputs))
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes((MERGING_PASSES if apart else set()) | (FOLDING_PASSES if unfolded else set()))
    with unchecked_passes():
        return ct.convert(
            program.run_decompositions({}),
            inputs=[ct.TensorType(name=s.name, shape=s.shape, dtype=np.dtype(s.dtype).type) for s in given],
            outputs=[ct.TensorType(name=s.name, dtype=np.dtype(s.dtype).type) for s in made],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16 if precision == "float16" else ct.precision.FLOAT32,
            pass_pipeline=pipeline,
            skip_model_load=True,
        )
