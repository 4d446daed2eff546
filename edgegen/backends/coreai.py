"""Core AI: programs for iOS and macOS 27 and later, run by Apple's own runtime wherever its packages install."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import Backend, RuntimeMemory, Signature, dense_bytes
from edgegen.backends.health import Ability, BackendHealth
from edgegen.callbacks import ArrayFunction
from edgegen.errors import InputError

if TYPE_CHECKING:
    from edgegen.graph.operations import Program
    from edgegen.lint import Finding
    from edgegen.quantize.stored import StoredWeights
    from edgegen.rewrite.component import Component
    from edgegen.target import BackendTarget

PROGRAM = "main.mlirb"  # of an asset: operations and weights in one file
PALETTE_BITS = 4
RELEASES = ("iOS27",)
OS_RUNTIME = 27  # macOS that has Core AI


def check(weights: StoredWeights, target: BackendTarget) -> None:
    """Refuses palettes that it does not pack, and a machine without Apple's packages."""
    from edgegen.emit import coreai, palette_coreai

    coreai.require()
    palette_coreai.check(weights)


def write(component: Component, path: Path, target: BackendTarget, weights: StoredWeights) -> None:
    from edgegen.emit import coreai

    coreai.write(component, path, weights, target.precision)


def signature(component: Component, target: BackendTarget) -> Signature:
    from edgegen.emit import coreai

    return coreai.signature(component, target.precision)


def predicted_bytes(parameters: int, weights: StoredWeights, target: BackendTarget) -> int:
    return dense_bytes(parameters, weights, target)[0] + sum(weight.nbytes for weight in weights.values())


def resident_bytes(path: Path, quantized: bool) -> int:
    """The program's file, whose weights stay as stored."""
    return (path / PROGRAM).stat().st_size


def open_asset(path: Path, inputs: Sequence[str], outputs: Sequence[str], native: bool) -> ArrayFunction:
    from edgegen.runtime.coreai import open_coreai

    return open_coreai(path)


def read_graph(path: Path) -> Program:
    from edgegen.graph.read_coreai import read_coreai

    return read_coreai(path)


def lint(path: Path) -> list[Finding]:
    from edgegen.lint import COREAI_RULES, lint_program
    from edgegen.runtime.coreai_program import CoreAIProgram

    return lint_program(CoreAIProgram.load(path), path.name, resident_bytes(path, False), COREAI_RULES)


def evaluator() -> str:
    return f"coreai-core {importlib.metadata.version('coreai-core')}"


def examine() -> BackendHealth:
    from edgegen.emit.coreai import require

    try:
        require()
    except InputError as error:
        missing = Ability(False, f"{error.message} {error.remedy}")
        return BackendHealth("coreai", missing, missing, missing)
    works = Ability(True, "Core AI's runtime, CPU")
    run = Ability(runs_here(), "Core AI" if runs_here() else "on macOS and iOS 27; here its runtime proves numbers")
    return BackendHealth("coreai", Ability(True, "coreai-torch"), works, run)


def runs_here() -> bool:
    """On macOS 27 and later, whose own Core AI the packages then use."""
    from edgegen.emit.coreai import macos

    return macos() >= OS_RUNTIME


def warm() -> None:
    """Nothing: the runtime lives in a process of its own."""


BACKEND = Backend(
    name="coreai",
    title="Core AI",
    suffix=".aimodel",
    packages=("coreai-core", "coreai-torch"),
    precisions=("float16", "float32"),
    activations=("float16",),
    forms=("split", "batched"),
    speed_rank=3,
    unit="npu",
    compute="float16",
    compute_unit="all",
    memory=RuntimeMemory(packed_copies=1.0, opening_copies=0.0, operation_bytes=0.0, base_bytes=0.0),  # counted
    check=check,
    write=write,
    signature=signature,
    predicted_bytes=predicted_bytes,
    resident_bytes=resident_bytes,
    palette_bits=lambda target: PALETTE_BITS,
    open=open_asset,
    read_graph=read_graph,
    evaluator=evaluator,
    examine=examine,
    runs_here=runs_here,
    warm=warm,
    lint=lint,
    releases=RELEASES,
    release=RELEASES[0],
    chips=r"[AM]\d",
)
