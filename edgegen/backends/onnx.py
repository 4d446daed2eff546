"""ONNX: fp32 graphs for ONNX Runtime on CPUs, on every system."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import (
    Backend,
    ProfileRequest,
    RuntimeMemory,
    Specs,
    dense_bytes,
    same_signature,
)
from edgegen.backends.health import BackendHealth, attempt, importing
from edgegen.callbacks import ArrayFunction
from edgegen.files import data_beside

if TYPE_CHECKING:
    from edgegen.graph.operations import Program
    from edgegen.graph.timed import TimedOperation
    from edgegen.quantize.stored import StoredWeights
    from edgegen.rewrite.component import Component
    from edgegen.target import BackendTarget


def check(weights: StoredWeights, target: BackendTarget) -> None:
    from edgegen.emit import palette_onnx

    palette_onnx.check(weights)


def write(component: Component, path: Path, target: BackendTarget, weights: StoredWeights) -> None:
    from edgegen.emit import onnx

    onnx.write(component, path, weights, target.activations)


def options(target: BackendTarget, weights: StoredWeights) -> dict[str, str]:
    """The session options of quantized weights, which the file holds too."""
    from edgegen.emit.palette_onnx import ACTIVATION_OPTIONS

    return ACTIVATION_OPTIONS[target.activations] if weights else {}


def known_options() -> Collection[Mapping[str, str]]:
    from edgegen.emit.palette_onnx import ACTIVATION_OPTIONS

    return ACTIVATION_OPTIONS.values()


def check_file(path: Path, inputs: Specs, outputs: Specs) -> None:
    from edgegen.runtime.onnx_file import check_signature, read_model

    check_signature(path, read_model(path), inputs, outputs)


def predicted_bytes(parameters: int, weights: StoredWeights, target: BackendTarget) -> int:
    return dense_bytes(parameters, weights, target)[0] + sum(weight.nbytes for weight in weights.values())


def resident_bytes(path: Path, quantized: bool) -> int:
    """The file, whose weights the runtime holds once; of quantized ones, what they unfold to."""
    if not quantized:
        beside = data_beside(path)
        return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    from edgegen.emit.palette_onnx import resident_bytes

    return resident_bytes(path)


def open_file(path: Path, inputs: Sequence[str], outputs: Sequence[str], native: bool) -> ArrayFunction:
    from edgegen.runtime.onnx import open_onnx

    return open_onnx(path)


def read_graph(path: Path) -> Program:
    from edgegen.graph.read_onnx import read_onnx

    return read_onnx(path)


def profile(request: ProfileRequest) -> list[TimedOperation]:
    from edgegen.graph.profile_onnx import profile_onnx

    return profile_onnx(request.path, request.feed, request.threads, request.count)


def evaluator() -> str:
    return f"onnxruntime {importlib.metadata.version('onnxruntime')}"


def warm() -> None:
    from edgegen.runtime.onnx import import_onnxruntime

    import_onnxruntime()


def examine() -> BackendHealth:
    run = attempt(warm, "ONNX Runtime, CPU")
    return BackendHealth("onnx", attempt(importing("onnx", "onnxscript"), "onnx, onnxscript"), run, run)


def export_copies(target: BackendTarget, parameters: int) -> float:
    """A protobuf is built, written and read by the checker: 18.8 bytes a parameter measured at 72M and 133M; weights
    beside it are written as they come: 9.1 GB at the peak with 1.6B.
    """
    from edgegen.emit.onnx import LARGEST

    return 4.8 if 4 * parameters <= LARGEST else 1.5


BACKEND = Backend(
    name="onnx",
    title="ONNX Runtime",
    suffix=".onnx",
    packages=("onnx", "onnxscript", "onnxruntime"),
    precisions=("float32",),
    activations=("float32", "int8"),
    forms=("split", "batched"),
    speed_rank=0,
    unit="cpu",
    compute="float32",
    compute_unit="cpu",
    memory=RuntimeMemory(packed_copies=1.65, opening_copies=0.0, operation_bytes=13.5e3, base_bytes=24.5e6),
    check=check,
    write=write,
    signature=same_signature,
    predicted_bytes=predicted_bytes,
    resident_bytes=resident_bytes,
    palette_bits=lambda target: 8,  # palettes unfold to their int8 table
    open=open_file,
    read_graph=read_graph,
    evaluator=evaluator,
    examine=examine,
    runs_here=lambda: True,
    warm=warm,
    options=options,
    known_options=known_options,
    export_copies=export_copies,
    check_file=check_file,
    profile=profile,
)
