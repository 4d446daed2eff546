"""Quantized weights in a Core ML program: one compressed constant a weight, and no float copy of it.

A palette becomes `constexpr_lut_to_dense`, the form of iOS 16 that every system since reads: one table a weight. The
table is float16, so int8 centroids times their scale are rounded once more. int8 becomes
`constexpr_affine_dequantize` with a scale an output; int4 in groups needs `constexpr_blockwise_shift_scale` of iOS 18.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgegen.errors import EdgegenError, InputError
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.palette import Palette
from edgegen.quantize.stored import StoredWeight, StoredWeights

LUT_BITS = {"iOS16": (1, 2, 4, 6, 8), "iOS17": (1, 2, 4, 6, 8), "iOS18": (1, 2, 3, 4, 6, 8)}
BLOCKWISE_SINCE = "iOS18"


def check(weights: StoredWeights, target: str) -> None:
    """Refuses what a deployment target has no form for."""
    for name, weight in weights.items():
        if isinstance(weight, Palette) and weight.bits not in LUT_BITS[target]:
            raise InputError(
                f"{name} has a palette of {weight.bits} bits; Core ML for {target} packs "
                f"{', '.join(map(str, LUT_BITS[target]))}.",
                'Quantize with other --candidates, or set deployment_target = "iOS18" in the tier.',
            )
        if isinstance(weight, IntegerWeight) and weight.scales.shape[1] > 1 and target != BLOCKWISE_SINCE:
            raise InputError(
                f"{name} has int4 groups; Core ML for {target} has no constant with scales in groups.",
                'Set deployment_target = "iOS18" in the tier, or quantize with --method palette.',
            )


def constant_name(name: str) -> str:
    """What coremltools calls the float16 constant of a parameter."""
    return f"p_{name.replace('.', '_')}_to_fp16"


def compress_(program: Any, weights: StoredWeights, target: str) -> None:
    """Replaces the constants of a converted MIL program by their stored form; one that is not there is an error."""
    check(weights, target)
    block = program.functions["main"]
    constants = {op.name: op for op in block.find_ops(op_type="const")}
    lacking = [name for name in weights if constant_name(name) not in constants]
    if lacking:
        raise EdgegenError(
            f"the Core ML program has no constant {constant_name(lacking[0])}, nor {len(lacking) - 1} others.",
            "Another version of coremltools may have renamed weights.",
        )
    with block:
        for name, weight in weights.items():
            replace_(block, constants[constant_name(name)], name, weight, target)


def replace_(block: Any, constant: Any, name: str, weight: StoredWeight, target: str) -> None:
    """One constant of a block becomes a compressed one of the same name and shape."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    dense = constant.outputs[0].val
    check_values(name, dense, weight)
    origins = [
        ScopeInfo(source=source, data=data)
        for source, data in constant.scopes.items()
        if source != ScopeSource.COREMLTOOLS_GRAPH_PASS
    ]
    with mb.scope(*origins):  # where a constant came from in PyTorch: coremltools wants it of every operation
        made = compressed(constant, f"{constant.name}_compressed", dense.shape, weight, target)
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=constant.outputs[0], new_var=made, no_check_var_types=True
    )
    block.remove_ops([constant])
    made.op.name = made.name = constant.name  # the name of the weight it stands for


def check_values(name: str, dense: np.ndarray, weight: StoredWeight) -> None:
    """The converter's constant must hold what the stored weight says, element by element."""
    expected = weight.dense().half().numpy()
    if dense.size != expected.size or not np.array_equal(dense.reshape(expected.shape), expected):
        raise EdgegenError(f"the Core ML constant of {name} is not the quantized weight.", "This is a bug of edgegen.")


def compressed(before: Any, name: str, shape: tuple[int, ...], weight: StoredWeight, target: str) -> Any:
    """The MIL variable of a stored weight, made before an operation or, with None, at the end of the block."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    place = {"before_op": before, "name": name}
    if isinstance(weight, Palette):
        table = weight.centroids().half().numpy()
        if target != BLOCKWISE_SINCE:
            return mb.constexpr_lut_to_dense(
                indices=weight.indices.numpy(), lut=table, shape=np.array(shape, np.uint32), **place
            )
        kind = types.type_mapping.string_to_nptype(f"uint{weight.bits}")
        return mb.constexpr_lut_to_dense(
            indices=weight.unpack_indices().reshape(shape).numpy().astype(kind),
            lut=table.reshape((1,) * len(shape) + (-1, 1)),
            **place,
        )
    scales = weight.scales.numpy()
    if scales.shape[1] == 1 and weight.bits == 8:
        return mb.constexpr_affine_dequantize(
            quantized_data=weight.values.reshape(shape).numpy(),
            axis=0,
            scale=scales[:, 0],
            zero_point=np.int8(0),
            **place,
        )
    kind = types.type_mapping.string_to_nptype(f"int{weight.bits}")
    values = weight.values.reshape(shape).to(torch.int8).numpy().astype(kind)
    spread = scales.reshape(*scales.shape, *(1,) * (len(shape) - 2))
    return mb.constexpr_blockwise_shift_scale(data=values, scale=spread, **place)
