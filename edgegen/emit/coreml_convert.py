"""coremltools' conversion of an exported program, in float16, or in float32 where a tier asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgegen.emit.mil_passes import unchecked_passes
from edgegen.rewrite.component import TensorSpec

MERGING_PASSES = {  # of constants with equal ones, or with what is multiplied or added next
    f"common::{name}" for name in ("const_deduplication", "fuse_conv_scale", "fuse_conv_bias")
}


def half_specs(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Floats as float16, so that the Neural Engine casts nothing."""
    return tuple(replace(s, dtype="float16") if s.dtype == "float32" else s for s in specs)


def convert(
    program: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    target: str,
    apart: bool = False,
    precision: str = "float16",
) -> Any:
    """A coremltools model of an exported program; `apart` keeps constants from being merged."""
    import coremltools as ct

    given, made = (half_specs(specs) if precision == "float16" else specs for specs in (inputs, outputs))
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes(MERGING_PASSES if apart else set())
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
