"""ExecuTorch: programs lowered to XNNPACK, fp32 on CPUs, for Android and iOS."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
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

if TYPE_CHECKING:
    from edgegen.graph.operations import Program
    from edgegen.graph.timed import TimedOperation
    from edgegen.quantize.stored import StoredWeights
    from edgegen.rewrite.component import Component
    from edgegen.target import BackendTarget


def check(weights: StoredWeights, target: BackendTarget) -> None:
    from edgegen.emit import palette_executorch

    palette_executorch.check(weights, target.activations)


def write(component: Component, path: Path, target: BackendTarget, weights: StoredWeights) -> None:
    from edgegen.emit import executorch

    executorch.write(component, path, weights, target.activations)


def check_file(path: Path, inputs: Specs, outputs: Specs) -> None:
    from edgegen.runtime.executorch import check_program

    check_program(path, inputs, outputs)


def predicted_bytes(parameters: int, weights: StoredWeights, target: BackendTarget) -> int:
    """Quantized weights are int8 with int8 activations, and dense otherwise."""
    dense, stored = dense_bytes(parameters, weights if target.activations == "int8" else {}, target)
    return dense + sum(stored.values())


def resident_bytes(path: Path, quantized: bool) -> int:
    """The file, whose weights XNNPACK holds once, in an order of its own."""
    return path.stat().st_size


def open_file(path: Path, inputs: Sequence[str], outputs: Sequence[str], native: bool) -> ArrayFunction:
    from edgegen.runtime.executorch import open_executorch

    return open_executorch(path, inputs, outputs)


def read_graph(path: Path) -> Program:
    from edgegen.graph.read_executorch import read_executorch

    return read_executorch(path)


def profile(request: ProfileRequest) -> list[TimedOperation]:
    from edgegen.graph.profile_executorch import profile_executorch

    return profile_executorch(
        request.path, [request.feed[name] for name in request.inputs], request.count, request.modules()
    )


def evaluator() -> str:
    return f"executorch {importlib.metadata.version('executorch')}"


def warm() -> None:
    from executorch.runtime import Runtime

    Runtime.get()


def set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib  # type: ignore[import-not-found]

    portable_lib._unsafe_reset_threadpool(threads)  # safe here: no program is loaded yet


def examine() -> BackendHealth:
    partitioner = "executorch.backends.xnnpack.partition.xnnpack_partitioner"
    convert = attempt(importing("executorch.exir", partitioner), "XNNPACK partitioner")
    run = attempt(find_xnnpack, "XNNPACK, CPU")
    return BackendHealth("executorch", convert, run, run)


def find_xnnpack() -> None:
    """Raises unless ExecuTorch's runtime here has XNNPACK."""
    from executorch.runtime import Runtime

    names = Runtime.get().backend_registry.registered_backend_names
    if "XnnpackBackend" not in names:
        raise RuntimeError(f"no XnnpackBackend among {', '.join(names)}")


def export_copies(target: BackendTarget, parameters: int) -> float:
    """13.4 bytes a parameter measured, at 72M and at 133M."""
    return 3.4


BACKEND = Backend(
    name="executorch",
    title="ExecuTorch",
    suffix=".pte",
    packages=("executorch",),
    precisions=("float32",),
    activations=("float32", "int8"),
    forms=("split", "batched"),
    speed_rank=1,
    unit="cpu",
    compute="float32",
    compute_unit="cpu",
    memory=RuntimeMemory(packed_copies=1.0, opening_copies=0.7, operation_bytes=3e3, base_bytes=1.5e6),
    check=check,
    check_file=check_file,
    write=write,
    signature=same_signature,
    predicted_bytes=predicted_bytes,
    resident_bytes=resident_bytes,
    export_copies=export_copies,
    palette_bits=lambda target: 8 if target.activations == "int8" else 32,
    open=open_file,
    read_graph=read_graph,
    evaluator=evaluator,
    examine=examine,
    runs_here=lambda: True,
    warm=warm,
    set_threads=set_threads,
    profile=profile,
)
