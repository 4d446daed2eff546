"""Core ML: fp16 programs for iPhone, iPad and Mac; off macOS evaluated operation by operation (runtime/coreml.py)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import Backend, RuntimeMemory, Signature, Specs, dense_bytes, three_copies
from edgegen.backends.health import Ability, BackendHealth, attempt, importing
from edgegen.callbacks import ArrayFunction
from edgegen.errors import InputError

if TYPE_CHECKING:
    from edgegen.graph.operations import Program
    from edgegen.lint import Finding
    from edgegen.quantize.stored import StoredWeights
    from edgegen.rewrite.component import Component
    from edgegen.target import BackendTarget

RELEASES, RELEASE = ("iOS16", "iOS17", "iOS18"), "iOS17"
PALETTE_BITS = 4


def check(weights: StoredWeights, target: BackendTarget) -> None:
    from edgegen.emit import palette_coreml

    if weights and target.precision != "float16":
        raise InputError(
            f"quantized weights need Core ML's precision float16, the tier has {target.precision}.",
            "Export the checkpoint they were made of, or change the tier.",
        )
    palette_coreml.check(weights, target.deployment_target or RELEASE)


def write(component: Component, path: Path, target: BackendTarget, weights: StoredWeights) -> None:
    from edgegen.emit import coreml

    coreml.write(component, path, target.deployment_target or RELEASE, weights, target.precision)


def write_chunks(
    components: Sequence[Component], paths: Sequence[Path], target: BackendTarget, weights: StoredWeights
) -> Iterator[Path]:
    from edgegen.emit import coreml

    return coreml.write_all(components, paths, target.deployment_target or RELEASE, weights, target.precision)


def signature(component: Component, target: BackendTarget) -> Signature:
    from edgegen.emit import coreml

    return coreml.signature(component, target.precision)


def check_file(path: Path, inputs: Specs, outputs: Specs) -> None:
    from edgegen.runtime.mil_check import check_program
    from edgegen.runtime.mil_file import read_program

    check_program(read_program(path), inputs, outputs)


def predicted_bytes(parameters: int, weights: StoredWeights, target: BackendTarget) -> int:
    return dense_bytes(parameters, weights, target)[0] + sum(weight.nbytes for weight in weights.values())


def resident_bytes(path: Path, quantized: bool) -> int:
    """The weight files, which stay as stored."""
    return sum(file.stat().st_size for file in path.rglob("weights/*") if file.is_file())


def open_program(path: Path, inputs: Sequence[str], outputs: Sequence[str], native: bool) -> ArrayFunction:
    """Evaluated operation by operation in fp16; on macOS, if `native`, run by Core ML itself, which our tests cannot
    exercise.
    """
    from edgegen.runtime.coreml import CoreMLProgram

    program = CoreMLProgram.load(path)
    return program.predict if native and runs_here() else program.run


def read_graph(path: Path) -> Program:
    from edgegen.graph.read_coreml import read_coreml

    return read_coreml(path)


def lint(path: Path) -> list[Finding]:
    from edgegen.lint import lint

    return lint(path)


def evaluator() -> str:
    return "MIL program evaluated in fp16"


def examine() -> BackendHealth:
    verify = attempt(importing("edgegen.runtime.coreml"), "MIL evaluator, fp16")
    run = Ability(runs_here(), "Core ML" if runs_here() else "on macOS and iOS; here the program is evaluated")
    return BackendHealth("coreml", attempt(importing("coremltools.converters.mil"), "coremltools"), verify, run)


def runs_here() -> bool:
    return sys.platform == "darwin"


def warm() -> None:
    import coremltools  # noqa: F401


def export_copies(target: BackendTarget, parameters: int) -> float:
    """Segments are stamped and weights written as they come: 7.6 bytes a parameter measured at 1.6B, of which the
    original takes 4; a float32 program is converted whole.
    """
    return 1.8 if target.precision == "float16" else three_copies(target, parameters)


BACKEND = Backend(
    name="coreml",
    title="Core ML",
    suffix=".mlpackage",
    packages=("coremltools",),
    precisions=("float16", "float32"),  # float32: twice the bytes, and on the GPU or CPU, for what fp16 cannot hold
    activations=("float16",),
    forms=("split", "batched"),
    speed_rank=2,
    unit="npu",
    compute="float16",
    compute_unit="all",
    memory=RuntimeMemory(packed_copies=1.0, opening_copies=0.0, operation_bytes=0.0, base_bytes=0.0),  # counted
    check=check,
    check_file=check_file,
    write=write,
    write_chunks=write_chunks,
    signature=signature,
    predicted_bytes=predicted_bytes,
    resident_bytes=resident_bytes,
    palette_bits=lambda target: PALETTE_BITS,
    open=open_program,
    read_graph=read_graph,
    evaluator=evaluator,
    examine=examine,
    runs_here=runs_here,
    warm=warm,
    lint=lint,
    export_copies=export_copies,
    releases=RELEASES,
    release=RELEASE,
    chips=r"[AM]\d",
)
