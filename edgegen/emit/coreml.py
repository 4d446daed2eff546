"""Core ML: a fp16 ML program for iOS 17, written on any system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgegen.emit.coreml_convert import convert, half_specs
from edgegen.emit.coreml_stamp import Templates, save_stamped
from edgegen.emit.lean import lean_capture
from edgegen.emit.mlpackage import settle_
from edgegen.emit.palette_coreml import check, compress_
from edgegen.emit.program import exported
from edgegen.errors import InputError
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component, TensorSpec

TARGETS = ("iOS16", "iOS17", "iOS18")


def signature(
    component: Component, precision: str = "float16"
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the program has them: floats are float16, so that the Neural Engine casts nothing."""
    if precision == "float32":
        return component.inputs, component.outputs
    return half_specs(component.inputs), half_specs(component.outputs)


def write(
    component: Component,
    path: Path,
    target: str = "iOS17",
    weights: StoredWeights | None = None,
    precision: str = "float16",
) -> None:
    """Converts a component and saves it as an .mlpackage; fp16 activations, and fp16 weights but for those in
    `weights`, which are stored as they were quantized (palette_coreml.py). One in segments is stamped, with the same
    operations as a result (coreml_stamp.py). With `precision` float32 everything is that, which the Neural Engine
    does not run.
    """
    for _ in write_all([component], [path], target, weights, precision):
        pass


def write_all(
    components: Sequence[Component],
    paths: Sequence[Path],
    target: str = "iOS17",
    weights: StoredWeights | None = None,
    precision: str = "float16",
) -> Iterator[Path]:
    """Writes components as `write` does each, and yields each path when it is whole; a segment that several have is
    converted once.
    """
    if target not in TARGETS:
        raise InputError(f"Core ML target {target!r} is not one of {', '.join(TARGETS)}.")
    check(weights or {}, target)
    templates = Templates(target)
    for component, path in zip(components, paths, strict=True):
        description = f"edgegen {component.name}, {component.form} form"
        with quiet(), lean_capture():
            if component.segments and precision == "float16":
                save_stamped(component, path, templates, weights or {}, description)
            else:
                save_whole(component, path, target, weights or {}, description, precision)
            settle_(path)
        yield path


def save_whole(
    component: Component,
    path: Path,
    target: str,
    weights: StoredWeights,
    description: str,
    precision: str = "float16",
) -> None:
    """Converts a component in one piece."""
    import coremltools as ct

    model = convert(exported(component), component.inputs, component.outputs, target, precision=precision)
    if weights:
        compress_(model._mil_program, weights, target)
        model = ct.convert(
            model._mil_program,
            convert_to="mlprogram",
            pass_pipeline=ct.PassPipeline.EMPTY,
            minimum_deployment_target=getattr(ct.target, target),
            skip_model_load=True,
        )
    model.short_description = description
    model.save(str(path))
