"""Reads the program of an .aimodel in a process of its own, and sends what it says as one frame of arrays.

usage: python -m edgegen.runtime.coreai_reader PATH

`program` holds JSON: inputs, outputs, arguments of every graph and constants as [{name, shape, dtype}], operations as
[{type, name, inputs, outputs}], and the names of the values that are returned.
The other arrays are the values of constants of no more than READ_LIMIT numbers.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from typing import Any

import numpy as np

from edgegen.emit.coreai_constant import array_of, numpy_name
from edgegen.emit.palette_coreai import UNNAMED, operations
from edgegen.runtime.frames import write_arrays

READ_LIMIT = 2**16  # as in lint.py
PREFIXES = ("coreai.decomposable.", "coreai.")
PARTS = {  # of a weight, in the order in which these take them
    "coreai.lut_to_dense": ("indices", "palette", "axis"),
    "coreai.blockwise_shift_scale": ("values", "scale", "zero", "shift"),
}
MAIN = "main"


class Reader:
    """What was found in a program so far, and the names of its values."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.taken: Counter[str] = Counter()
        self.constants: list[dict] = []
        self.operations: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}

    def read(self, module: Any) -> dict[str, np.ndarray]:
        """The frame of an MLIR module."""
        main = next(graph for graph in module.body.operations if graph.sym_name.value == MAIN)
        arguments = [
            self.add_argument(graph, index) for graph in module.body.operations for index in range(len(graph.arg_attrs))
        ]
        for operation in operations(module):
            self.add(operation)
        body = main.regions[0].blocks[0]
        last = list(body.operations)[-1]
        program = {
            "inputs": [self.describe(value) for value in body.arguments],
            "outputs": [
                self.describe(value) | {"name": argument_name(main.res_attrs, index) or self.names[value]}
                for index, value in enumerate(last.operands)
            ],
            "arguments": arguments,
            "returned": [self.names[value] for value in last.operands],
            "constants": self.constants,
            "operations": self.operations,
        }
        return self.arrays | {"program": np.frombuffer(json.dumps(program).encode(), np.uint8)}

    def add_argument(self, graph: Any, index: int) -> dict:
        """Names an argument of a graph: of main as the caller knows it, of others with the graph's name."""
        argument = graph.regions[0].blocks[0].arguments[index]
        name, of = argument_name(graph.arg_attrs, index) or str(index), graph.sym_name.value
        self.names[argument] = self.unused(name if of == MAIN else f"{of}.{name}")
        return self.describe(argument)

    def add(self, operation: Any) -> None:
        """Keeps a constant or an operation, and names what it makes."""
        kind = operation.operation.name
        for prefix in PREFIXES:
            kind = kind.removeprefix(prefix)
        if kind == "constant":
            self.add_constant(operation)
        elif kind != "output":
            name = self.operation_name(operation, kind)
            for index, result in enumerate(operation.results):
                self.names[result] = name if index == 0 else f"{name}#{index}"
            self.operations.append(
                {
                    "type": kind,
                    "name": name,
                    "inputs": [self.describe(value) for value in operation.operands],
                    "outputs": [self.describe(value) for value in operation.results],
                }
            )

    def add_constant(self, operation: Any) -> None:
        """Keeps what a constant is, and its value if that is small; packed integers are never read."""
        result = operation.results[0]
        self.names[result] = self.unused(weight_name(operation) or f"constant.{len(self.constants)}")
        info = self.describe(result)
        self.constants.append(info)
        if math.prod(info["shape"]) <= READ_LIMIT and info["dtype"] not in ("uint1", "uint2", "uint4", "uint6", "int4"):
            self.arrays[info["name"]] = array_of(operation)

    def operation_name(self, operation: Any, kind: str) -> str:
        """An operation is called after the layer whose weight it takes or the weight it unfolds, or is numbered."""
        named = (self.names[value] for value in operation.operands)
        weight = next((name.removesuffix(".weight") for name in named if name.endswith(".weight")), None)
        return self.unused(weight_name(operation) or weight or f"{kind}.{len(self.operations)}")

    def unused(self, name: str) -> str:
        """The name, or with a number where another value has it."""
        self.taken[name] += 1
        return name if self.taken[name] == 1 else f"{name}~{self.taken[name]}"

    def describe(self, value: Any) -> dict:
        """Name, shape and type of a value; tokens and the like have no shape."""
        tensor = value.type
        if not hasattr(tensor, "shape"):
            return {"name": self.names[value], "shape": [], "dtype": str(tensor)}
        shape = [tensor.shape[axis] if not tensor.is_dynamic_dim(axis) else None for axis in range(tensor.rank)]
        return {"name": self.names[value], "shape": shape, "dtype": numpy_name(str(tensor.element_type))}


def argument_name(attributes: Any, index: int) -> str | None:
    """The name of an argument or result of a graph."""
    held = attributes[index] if attributes is not None and index < len(attributes) else {}
    return held["coreai.name"].value if "coreai.name" in held else None


def weight_name(operation: Any) -> str | None:
    """The weight that an operation makes, or that it is a part of by what takes it, where edgegen wrote the program."""
    from coreai.authoring import DebugInfo

    name = DebugInfo._from_mlir(operation.location).filename
    if not name or name == UNNAMED:
        return None
    use = next(iter(operation.results[0].uses), None)
    parts = PARTS.get(use.owner.operation.name, ()) if use is not None else ()
    return f"{name}.{parts[use.operand_number]}" if use is not None and parts else name


def main() -> None:
    """Keeps stdout for the answer."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(sys.argv[1]).program
    write_arrays(answer, Reader().read(program._module._mlir_module))


if __name__ == "__main__":
    main()
