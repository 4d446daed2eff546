"""Quantized weights in a Core AI program: packed constants that the runtime unfolds, and no float copy of them.

A palette becomes `lut_to_dense` of int8 centroids, then `blockwise_shift_scale` by the palette's one scale: the form
of Apple's own palettizer. A scale that float16 does not hold goes into the table instead, rounded as Core ML's is.
Integers become `blockwise_shift_scale` with a scale an output, int4 a scale a group of inputs. Beside them, constants
of no more than four values, such as the quarter turns of rotary positions, become palettes without loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from edgegen.emit.coreai_constant import array_of, constant
from edgegen.errors import EdgegenError, InputError
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.palette import Palette, pack
from edgegen.quantize.stored import StoredWeight, StoredWeights

LUT_BITS = (1, 2, 4, 6, 8)
UNNAMED = "-"  # the file of a location without one
WEIGHT = "edgegen.weight"  # marks a constant with the name of its parameter until the program is saved
FEW_BITS = 2  # of an index into the values of a constant that has few
LEAST = 1024  # numbers of such a constant: a smaller one saves less than its palette takes
KINDS = {"int8": "si8", "float16": "f16", "float32": "f32"}


def check(weights: StoredWeights) -> None:
    """Refuses what Core AI has no form for."""
    for name, weight in weights.items():
        if isinstance(weight, Palette) and weight.bits not in LUT_BITS:
            raise InputError(
                f"{name} has a palette of {weight.bits} bits; Core AI packs {', '.join(map(str, LUT_BITS))}.",
                "Quantize with other --candidates, or leave coreai out with --backend.",
            )


def store_(program: Any, weights: StoredWeights, precision: str) -> None:
    """Names the constants of a converted AIProgram, and stores those of `weights` as they were quantized.

    A quantized weight whose constant is missing, or has other values, is an error.
    """
    module = program._module._mlir_module
    marked = {str(op.attributes[WEIGHT].value): op for op in operations(module) if WEIGHT in op.attributes}
    lacking = [name for name in weights if name not in marked]
    if lacking:
        raise EdgegenError(
            f"the Core AI program has no constant of {lacking[0]}, nor of {len(lacking) - 1} others.",
            "Another version of coreai-torch may convert weights differently.",
        )
    with module.context:
        for name, op in marked.items():
            replace_(op, name, weights.get(name), precision)
        for op in constants(module, precision) if weights else ():
            pack_few_(op, precision)


def operations(module: Any) -> Iterator[Any]:
    """Every operation in the graphs of an MLIR module; the list is taken first, so that it may be changed."""
    for graph in list(module.body.operations):
        for region in graph.regions:
            for block in region.blocks:
                yield from list(block.operations)


def replace_(op: Any, name: str, weight: StoredWeight | None, precision: str) -> None:
    """One constant becomes the same under its name, or the stored form of its weight."""
    from coreai._compiler.dialects import coreai
    from coreai._compiler.ir import InsertionPoint

    with InsertionPoint(op), place(name):
        if weight is None:
            made = coreai.ConstantOp(value=op.attributes["value"]).result
        else:
            check_values(name, op, weight, precision)
            made = unfolding(weight, tuple(op.results[0].type.shape), precision)
    op.results[0].replace_all_uses_with(made)
    op.operation.erase()


def constants(module: Any, precision: str) -> list[Any]:
    """The float constants without a name that are large enough to pack."""
    found = [op for op in operations(module) if op.operation.name == "coreai.constant" and is_unnamed(op)]
    return [op for op in found if is_large(op.results[0].type, KINDS[precision])]


def is_unnamed(op: Any) -> bool:
    """Whether a constant is no parameter of ours."""
    from coreai.authoring import DebugInfo

    return DebugInfo._from_mlir(op.location).filename in (None, "", UNNAMED)


def is_large(tensor: Any, kind: str) -> bool:
    """Whether a type is of floats, and of numbers that are worth packing."""
    return str(tensor.element_type) == kind and math.prod(tensor.shape) >= LEAST


def pack_few_(op: Any, precision: str) -> None:
    """A constant of few values becomes a palette of just those; others stay."""
    from coreai._compiler.ir import InsertionPoint

    dense = array_of(op)
    values, indices = np.unique(dense, return_inverse=True)
    if values.size > 2**FEW_BITS:
        return
    table = np.pad(values, (0, 2**FEW_BITS - values.size), "edge")
    packed = pack(torch.from_numpy(indices.astype(np.uint8)), FEW_BITS)
    with InsertionPoint(op), op.location:
        palette = Palette(torch.from_numpy(table), None, packed, FEW_BITS, dense.shape)
        op.results[0].replace_all_uses_with(looked_up(palette, table, dense.shape))
    op.operation.erase()


def place(name: str) -> Any:
    """The location of a weight and all its parts: of locations, the file outlives a save and reads back."""
    from coreai.authoring import DebugInfo

    return DebugInfo.file(name, 0)._to_mlir()


def check_values(name: str, op: Any, weight: StoredWeight, precision: str) -> None:
    """The converter's constant must hold what the stored weight says, element by element."""
    expected = weight.dense().numpy().astype(precision)
    found = array_of(op)
    if found.size != expected.size or not np.array_equal(found.reshape(expected.shape), expected):
        raise EdgegenError(f"the Core AI constant of {name} is not the quantized weight.", "This is a bug of edgegen.")


def unfolding(weight: StoredWeight, shape: tuple[int, ...], precision: str) -> Any:
    """The value of a stored weight, made of packed constants."""
    if isinstance(weight, IntegerWeight):
        return scaled(integers(weight, shape), weight.scales.float().numpy(), precision)
    if weight.scale is None or float(np.dtype(precision).type(weight.scale)) != weight.scale:
        return looked_up(weight, weight.centroids().numpy().astype(precision), shape)
    return scaled(looked_up(weight, weight.values.numpy(), shape), np.array([[weight.scale]]), precision)


def looked_up(weight: Palette, table: np.ndarray, shape: tuple[int, ...]) -> Any:
    """`lut_to_dense` of a table (2**bits,) by the palette's packed indices."""
    from coreai._compiler.dialects import coreai

    indices = constant(weight.indices.numpy(), f"ui{weight.bits}", shape)
    lut = constant(table, KINDS[table.dtype.name], (*(1,) * len(shape), table.size, 1))
    return coreai.lut_to_dense(indices, lut, constant(np.int16(0), "si16", ()))


def integers(weight: IntegerWeight, shape: tuple[int, ...]) -> Any:
    """Integers as they are, two to a byte if they have 4 bits."""
    packed = weight.values if weight.bits == 8 else pack((weight.values & 15).byte(), 4)
    return constant(packed.numpy(), f"si{weight.bits}", shape)


def scaled(values: Any, scales: np.ndarray, precision: str) -> Any:
    """`blockwise_shift_scale` of integers by scales (1, 1), (out, 1) or (out, groups), in a precision."""
    from coreai._compiler.dialects import coreai

    shape = (*scales.shape, *(1,) * (values.type.rank - 2))
    scale = constant(scales.astype(precision), KINDS[precision], shape)
    zero = constant(np.zeros(shape, np.int8), str(values.type.element_type), shape)
    shift = constant(np.zeros(shape, precision), KINDS[precision], shape)
    return coreai.blockwise_shift_scale(values, scale, zero, shift)
