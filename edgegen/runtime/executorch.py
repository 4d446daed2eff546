"""Runs a .pte file with ExecuTorch's own runtime."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgegen.callbacks import ArrayFunction
from edgegen.errors import InputError, brief

if TYPE_CHECKING:
    from edgegen.rewrite.component import TensorSpec

# root offset, "ET12", "eh00", length of the header, of the program, and where segments begin (extended_header.h)
HEADER = struct.Struct("<I4s4sIQQ")
SCALARS = {3: "int32", 5: "float16", 6: "float32"}  # ScalarType's codes, numpy's names
AGAIN = "Export the bundle again."


def open_executorch(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> ArrayFunction:
    """A function from inputs by name to outputs by name; a program knows only their order."""
    method = load_program(path).load_method("forward")

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = method.execute([torch.from_numpy(np.ascontiguousarray(feed[name])) for name in inputs])
        return {name: value.numpy().copy() for name, value in zip(outputs, made, strict=True)}  # memory is reused

    return run


def load_program(path: Path) -> Any:
    """The program, its flatbuffer verified before anything in it is followed."""
    from executorch.runtime import Runtime, Verification

    return Runtime.get().load_program(path, verification=Verification.InternalConsistency)


def check_program(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuses a program that is broken, or whose inputs and outputs are not those that the manifest says."""
    check_header(path)
    program = load_program(path)
    if "forward" not in program.method_names:
        raise InputError(f"{path} has no method forward.", AGAIN)
    told = program.metadata("forward")
    for what, count, meta, wanted in (
        ("inputs", told.num_inputs(), told.input_tensor_meta, inputs),
        ("outputs", told.num_outputs(), told.output_tensor_meta, outputs),
    ):
        found = [(tuple(meta(i).sizes()), SCALARS.get(int(meta(i).dtype()))) for i in range(count)]
        expected = [(tuple(spec.shape), spec.dtype) for spec in wanted]
        if found != expected:
            raise InputError(f"{path}: its {what} are {brief(found)}, not as the manifest says.", AGAIN)


def check_header(path: Path) -> None:
    """Refuses what is no program, or is shorter than its own header says."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise InputError(f"{path} is no ExecuTorch program.", AGAIN)
    _, identifier, magic, _, program, segments = HEADER.unpack(head)
    size = path.stat().st_size
    if identifier[:2] != b"ET" or magic[:2] != b"eh" or program > size or segments > size:
        raise InputError(f"{path} is no whole ExecuTorch program.", AGAIN)
