"""The Neural Engine's rules, checked in a saved Core ML or Core AI program.

A program that breaks one still runs, on the GPU or CPU, or slowly; each finding names the operation and what to do.
Sources: apple/coreai-models neural_engine_rules.md, apple/ml-stable-diffusion attention.py, hollance/neural-engine,
microsoft/onnxruntime #19543.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgegen.runtime.coreai_program import CoreAIOperation, CoreAIProgram
from edgegen.runtime.coreml import CoreMLProgram, OperationInfo
from edgegen.runtime.mil_file import TensorInfo

Operation = OperationInfo | CoreAIOperation
Program = CoreMLProgram | CoreAIProgram
UNFOLDINGS = ("constexpr_blockwise_shift_scale", "blockwise_shift_scale")  # of what a palette gave
ENGINE_DTYPES = ("float16", "int8", "uint8", "int16", "uint16", "bool")
BYTES = {"float16": 2, "float32": 4, "int32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}
GATHERS = ("gather", "gather_nd", "gather_along_axis", "topk")
MAX_FP16 = 65504.0
MAX_SIDE, MAX_CHANNELS, MAX_QUERIES = 16384, 65536, 512
MAX_WEIGHTS = 3 * 10**9  # bytes of one model
ALIGNMENT = 64  # bytes of the last axis
READ_LIMIT = 2**16  # larger constants are weights, whose range fp16 storage already bounds


@dataclass(frozen=True)
class Finding:
    """A rule that an operation breaks."""

    rule: str
    operation: str  # its name in the program, or that of an input or output
    what: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """A rule of one operation: `check` tells what is wrong, or None."""

    id: str
    remedy: str
    check: Callable[[Operation], str | None]


def lint(path: Path) -> list[Finding]:
    """Every finding in an .mlpackage."""
    weights = sum(file.stat().st_size for file in Path(path).rglob("weights/*") if file.is_file())
    return lint_program(CoreMLProgram.load(path), Path(path).name, weights, RULES)


def lint_program(program: Program, name: str, weight_bytes: int, rules: Sequence[Rule]) -> list[Finding]:
    """Every finding in a program: of its inputs and outputs, its operations, its constants, its size."""
    found = [*lint_signature(program), *lint_operations(program, rules), *lint_constants(program)]
    if weight_bytes > MAX_WEIGHTS:
        what = f"{weight_bytes / 1e9:.1f} GB of weights"
        found.append(Finding("ANE013", name, what, "Split the model in two (--chunks 2), or palettize it."))
    return found


def lint_signature(program: Program) -> Iterator[Finding]:
    """Inputs and outputs: the engine pads the last axis to 64 bytes and copies what is not aligned."""
    for info in (*program.inputs, *program.outputs):
        width = (info.shape[-1] or 0) * BYTES.get(info.dtype, 4) if info.shape else 0
        if width % ALIGNMENT:
            yield Finding(
                "ANE002",
                info.name,
                f"the last axis of {shape_of(info)} {info.dtype} has {width} bytes",
                f"Make it a multiple of {ALIGNMENT} bytes (32 fp16 numbers), or accept a padded copy.",
            )


def lint_operations(program: Program, rules: Sequence[Rule]) -> Iterator[Finding]:
    """Every rule on every operation."""
    palettized: set[str] = set()
    for operation in program.operations():
        taken = {info.name for infos in operation.inputs.values() for info in infos}
        if operation.type.startswith("constexpr_lut") or (operation.type in UNFOLDINGS and taken & palettized):
            palettized |= {info.name for info in operation.outputs}
        for rule in rules:
            what = rule.check(operation)
            if what:
                yield Finding(rule.id, operation.name, what, rule.remedy)
        if operation.type == "conv" and operation.inputs["weight"][0].name in palettized:
            strides = [int(s) for s in np.ravel(operation.value("strides", [1]))]
            if max(strides) > 2:
                yield Finding(
                    "ANE014",
                    operation.name,
                    f"a palettized conv with strides {strides}",
                    "Keep this weight in fp16, or use stride 2 twice.",
                )


def lint_constants(program: Program) -> Iterator[Finding]:
    """Small constants: nothing infinite or beyond fp16."""
    for info in program.constants():
        if not info.dtype.startswith("float") or math.prod(size or 0 for size in info.shape) > READ_LIMIT:
            continue
        value = np.asarray(program.constant(info.name), np.float64)
        largest = float(np.abs(value).max()) if value.size else 0.0
        if not largest <= MAX_FP16:
            yield Finding(
                "ANE009",
                info.name,
                f"a constant of {largest:g}",
                "Keep constants within fp16, masks at -1e4 and not at -inf.",
            )


def shape_of(info: TensorInfo) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in info.shape) + ")"


def rank_above(most: int) -> Callable[[Operation], str | None]:
    """Finds tensors of more axes than `most`."""

    def check_rank(operation: Operation) -> str | None:
        for info in operation.outputs:
            if len(info.shape) > most:
                return f"{operation.type} makes {shape_of(info)}, of rank {len(info.shape)}"
        return None

    return check_rank


def check_dtype(operation: Operation) -> str | None:
    for info in operation.outputs:
        if info.dtype in BYTES and info.dtype not in ENGINE_DTYPES:
            return f"{operation.type} makes {info.dtype}"
    return None


def check_static(operation: Operation) -> str | None:
    for info in operation.outputs:
        if any(size is None for size in info.shape):
            return f"{operation.type} makes {shape_of(info)}"
    return None


def check_linear(operation: Operation) -> str | None:
    return "linear" if operation.type == "linear" else None


def check_attention(operation: Operation) -> str | None:
    if operation.type == "scaled_dot_product_attention":
        return "fused attention"
    both_computed = operation.type == "matmul" and not operation.constants & {"x", "y"}
    return "a matmul of two computed tensors" if both_computed else None


def check_softmax(operation: Operation) -> str | None:
    if operation.type != "softmax":
        return None
    shape = operation.outputs[0].shape
    axis = int(operation.value("axis", -1)) % len(shape)
    return f"softmax over axis {axis} of {shape_of(operation.outputs[0])}" if axis != 1 else None


def check_innermost(operation: Operation) -> str | None:
    if operation.type == "transpose":
        order = [int(axis) for axis in np.ravel(operation.value("perm"))]
        return f"transpose {order}" if order[-1] % len(order) != len(order) - 1 else None
    if operation.type == "reshape":
        before, after = operation.inputs["x"][0].shape, operation.outputs[0].shape
        if before[-1:] != after[-1:]:
            return f"reshape {shape_of(operation.inputs['x'][0])} to {shape_of(operation.outputs[0])}"
    return None


def check_queries(operation: Operation) -> str | None:
    shape = operation.outputs[0].shape if operation.outputs else ()
    if operation.type == "softmax" and len(shape) == 4 and (shape[-1] or 0) > MAX_QUERIES:
        return f"attention of {shape[-1]} queries at once"
    return None


def check_sides(operation: Operation) -> str | None:
    for info in operation.outputs:
        sizes = [size or 0 for size in info.shape]
        if len(sizes) == 4 and (sizes[1] > MAX_CHANNELS or max(sizes[2:]) > MAX_SIDE):
            return f"{operation.type} makes {shape_of(info)}"
    return None


def check_gather(operation: Operation) -> str | None:
    return operation.type if operation.type in GATHERS else None


RULES = (
    Rule("ANE001", "Keep to rank 4, best (B, C, 1, S).", rank_above(4)),
    Rule("ANE003", "Keep to fp16 and small integers; a Python float literal makes an fp32 constant.", check_dtype),
    Rule("ANE004", "Export static shapes.", check_static),
    Rule("ANE005", "Write it as a 1x1 convolution on (B, C, 1, S).", check_linear),
    Rule("ANE006", "Write attention per head: einsum bchq,bkhc->bkhq and bkhq,bchk->bchq.", check_attention),
    Rule("ANE007", "Put the keys on axis 1 and take the softmax there.", check_softmax),
    Rule("ANE008", "Avoid moving the innermost axis: each time memory is copied.", check_innermost),
    Rule("ANE010", f"Cut the queries into chunks of {MAX_QUERIES} (query_chunk in the tier).", check_queries),
    Rule("ANE011", f"Keep width and height to {MAX_SIDE}, channels to {MAX_CHANNELS}.", check_sides),
    Rule("ANE012", "Do this outside the network, or accept that it runs on the CPU.", check_gather),
)
COREAI_RULES = (Rule("ANE001", "Keep to rank 5, best (B, C, 1, S).", rank_above(5)), *RULES[1:])
