"""What the program of an .aimodel says, for inspection and lint; Apple's code reads it, in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.errors import InputError
from edgegen.runtime.coreai import environment
from edgegen.runtime.frames import read_arrays
from edgegen.runtime.mil_file import TensorInfo

READ_SECONDS = 600
CONSTANT_MAKERS = ("lut_to_dense", "blockwise_shift_scale", "transpose", "reshape", "cast")  # constants, of constants
PALETTE = "constexpr_lut_to_dense"  # Core ML's name of a weight from a palette, which the lint knows
SHARED = {  # operations that Core ML has too: its name, and its names of what they take
    "conv2d": ("conv", ("x", "weight", "strides", "dilations", "groups")),
    "transpose": ("transpose", ("x", "perm")),
    "reshape": ("reshape", ("x", "shape")),
    "softmax": ("softmax", ("x", "axis")),
    "batch_matmul": ("matmul", ("x", "y")),
    "broadcasting_batch_matmul": ("matmul", ("x", "y")),
    "lut_to_dense": (PALETTE, ("indices", "lut")),
    "gather_nd": ("gather_nd", ("x", "indices")),
    "gather_along_axis": ("gather_along_axis", ("x", "indices")),
    "sort": ("topk", ("x",)),
    "argsort": ("topk", ("x",)),
}


@dataclass(frozen=True)
class CoreAIOperation:
    """One operation: `type` and the names of its inputs are Core ML's where it has them, `own_type` is Core AI's.

    `constants` names what it takes of constants.
    """

    type: str
    own_type: str
    name: str
    inputs: dict[str, tuple[TensorInfo, ...]]
    outputs: tuple[TensorInfo, ...]
    constants: frozenset[str]
    values: dict[str, np.ndarray] = field(repr=False, compare=False)

    def value(self, parameter: str, default: Any = None) -> Any:
        """The value of a small constant that it takes; `default` if there is none."""
        return self.values.get(parameter, default)


class CoreAIProgram:
    """The program of one .aimodel: `inputs` and `outputs` are TensorInfo, in its order."""

    def __init__(self, program: dict, arrays: dict[str, np.ndarray]):
        self.inputs, self.outputs = tensors(program["inputs"]), tensors(program["outputs"])
        self._constants = {info.name: info for info in tensors(program["constants"])}
        self.arguments = tensors(program["arguments"])  # of every graph, those of composite operations included
        self.returned = tuple(program["returned"])  # the values behind `outputs`
        self._operations, self._arrays = program["operations"], arrays

    @classmethod
    def load(cls, path: str | Path) -> CoreAIProgram:
        """Reads a program; InputError if `path` holds none, or Apple's packages are not here."""
        from edgegen.emit.coreai import require

        require()
        command = [sys.executable, "-m", "edgegen.runtime.coreai_reader", str(Path(path).absolute())]
        with tempfile.TemporaryDirectory(prefix="edgegen-coreai-") as folder:
            done = subprocess.run(command, capture_output=True, env=environment(folder), timeout=READ_SECONDS)
        arrays = read_arrays(io.BytesIO(done.stdout))
        if done.returncode or arrays is None:
            raise InputError(f"{path} is no Core AI asset that can be read.", "Export the bundle again.")
        return cls(json.loads(arrays.pop("program").tobytes()), arrays)

    def operation_counts(self) -> Counter[str]:
        """How many operations of each type the program has, by Core AI's names, constants excluded."""
        return Counter(record["type"] for record in self._operations)

    def constants(self) -> Iterator[TensorInfo]:
        """What the program declares about each of its constants."""
        return iter(self._constants.values())

    def constant(self, name: str) -> np.ndarray:
        """The value of a constant of no more than 65,536 numbers; InputError for others."""
        if name not in self._arrays:
            raise InputError(f"'{name}' is not a small constant of this program.")
        return self._arrays[name]

    def operations(self) -> Iterator[CoreAIOperation]:
        """Every operation in program order, those of composite operations first."""
        constant = set(self._constants)
        for record in self._operations:
            operation = self.translated(record, constant)
            if record["type"] in CONSTANT_MAKERS and all(i["name"] in constant for i in record["inputs"]):
                constant |= {info.name for info in operation.outputs}
            yield operation

    def translated(self, record: dict, constant: set[str]) -> CoreAIOperation:
        """A record under Core ML's names."""
        infos = tensors(record["inputs"])
        kind, parameters = SHARED.get(record["type"], (record["type"], ()))
        names = [*parameters, *(f"input{index}" for index in range(len(parameters), len(infos)))]
        inputs: dict[str, tuple[TensorInfo, ...]] = {n: (info,) for n, info in zip(names, infos, strict=False)}
        held = frozenset(name for name, (info,) in inputs.items() if info.name in constant)
        values = {name: self._arrays[info.name] for name, (info,) in inputs.items() if info.name in self._arrays}
        if kind == "matmul":
            kind = product_kind(inputs["y"][0], held)
        return CoreAIOperation(kind, record["type"], record["name"], inputs, tensors(record["outputs"]), held, values)


def product_kind(y: TensorInfo, constants: frozenset[str]) -> str:
    """A product with a constant is a linear layer; of computed tensors, one of one head is what an einsum becomes."""
    if constants & {"x", "y"}:
        return "linear"
    return "einsum" if all(size == 1 for size in y.shape[:-2]) else "matmul"


def tensors(records: list[dict]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(record["name"], tuple(record["shape"]), record["dtype"]) for record in records)
