"""Core ML: a fp16 ML program for iOS 17, written on any system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgegen.emit.mlpackage import settle_
from edgegen.emit.palette_coreml import check, compress_
from edgegen.emit.program import exported
from edgegen.errors import InputError
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component, TensorSpec

TARGETS = ("iOS16", "iOS17", "iOS18")


def signature(component: Component) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the program has them: floats are float16, so that the Neural Engine casts nothing."""

    def half(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(s, dtype="float16") if s.dtype == "float32" else s for s in specs)

    return half(component.inputs), half(component.outputs)


def write(component: Component, path: Path, target: str = "iOS17", weights: StoredWeights | None = None) -> None:
    """Converts a component and saves it as an .mlpackage; fp16 activations, and fp16 weights but for those in
    `weights`, which are stored as they were quantized (palette_coreml.py).
    """
    if target not in TARGETS:
        raise InputError(f"Core ML target {target!r} is not one of {', '.join(TARGETS)}.")
    check(weights or {}, target)
    inputs, outputs = signature(component)
    with quiet():
        import coremltools as ct

        model = ct.convert(
            exported(component).run_decompositions({}),
            inputs=[ct.TensorType(name=s.name, shape=s.shape, dtype=np.dtype(s.dtype).type) for s in inputs],
            outputs=[ct.TensorType(name=s.name, dtype=np.dtype(s.dtype).type) for s in outputs],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16,
            skip_model_load=True,
        )
        if weights:
            compress_(model._mil_program, weights, target)
            model = ct.convert(
                model._mil_program,
                convert_to="mlprogram",
                pass_pipeline=ct.PassPipeline.EMPTY,
                minimum_deployment_target=getattr(ct.target, target),
                skip_model_load=True,
            )
        model.short_description = f"edgegen {component.name}, {component.form} form"
        model.save(str(path))
        settle_(path)
