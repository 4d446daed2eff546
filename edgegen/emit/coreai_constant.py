"""Constants of a Core AI program as NumPy arrays, both ways.

Element types are spelled as in the program: f16, f32, si8, ui4, si16, ...
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

NUMPY = {"f16": "float16", "f32": "float32", "f64": "float64", "i1": "bool"}


def numpy_name(kind: str) -> str:
    """NumPy's name of an element type; of packed integers their own, such as uint4."""
    return NUMPY.get(kind) or kind.replace("si", "int").replace("ui", "uint")


def constant(value: np.ndarray | np.generic, kind: str, shape: tuple[int, ...]) -> Any:
    """A constant of a type and shape at the current place; of packed integers `value` holds the bytes."""
    from coreai._compiler._mlir_libs._coreaiIR import _bindings
    from coreai._compiler.dialects import coreai
    from coreai._compiler.ir import Location, RankedTensorType, Type

    here: Any = Location.current

    tensor = RankedTensorType.get(shape, Type.parse(kind))
    value = np.require(np.atleast_1d(value), requirements=["C"])
    make = _bindings.mlir.dialects.coreai.create_elements_attr
    return coreai.ConstantOp(value=make(here, tensor, value)).result


def array_of(operation: Any) -> np.ndarray:
    """The value of a constant operation; of packed integers its bytes."""
    from coreai._compiler._mlir_libs._coreaiIR import _bindings

    tensor = operation.results[0].type
    shape, kind = tuple(tensor.shape), str(tensor.element_type)
    if kind == "i1":
        return np.asarray(operation.attributes["value"], bool).reshape(shape)
    width = int("".join(filter(str.isdigit, kind)))
    data = np.zeros(math.ceil(math.prod(shape) * width / 8), np.uint8)
    _bindings.compiler.copy_constant_value_to_array(constant_op=operation, destination=data)
    return data if width % 8 else data.view(numpy_type(kind)).reshape(shape)


def numpy_type(kind: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if kind == "bf16" else np.dtype(numpy_name(kind))
