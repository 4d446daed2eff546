"""Looks over a Core ML program that may come from anywhere, before anything in it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgegen.errors import InputError, brief
from edgegen.runtime.mil_file import Constant, ProgramFile, TensorInfo

if TYPE_CHECKING:
    from edgegen.rewrite.component import TensorSpec

ELEMENTS = 2**31  # of one value
AGAIN = "Export the bundle again."


def check_program(file: ProgramFile, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuses other inputs and outputs than the manifest says, sizes that cannot be meant, and weights that are not
    where the program says.
    """
    for what, found, wanted in (("inputs", file.inputs, inputs), ("outputs", file.outputs, outputs)):
        told = {info.name: (info.shape, info.dtype) for info in found}
        expected = {spec.name: (tuple(spec.shape), spec.dtype) for spec in wanted}
        if told != expected:
            wrong = sorted(name for name in told.keys() | expected.keys() if told.get(name) != expected.get(name))
            raise InputError(f"{file.path}: of its {what}, {brief(wrong)} are not as the manifest says.", AGAIN)
    for info in file.values.values():
        check_size(file, info)
    for constant in constants(file):
        constant.check()


def check_size(file: ProgramFile, info: TensorInfo) -> None:
    """Refuses a value of more elements than memory holds."""
    sizes = [size for size in info.shape if size is not None]
    if any(size < 0 for size in sizes) or math.prod(sizes) > ELEMENTS:
        raise InputError(f"{file.path}: {brief(info.name)} would be {brief(sizes)}.", AGAIN)


def constants(file: ProgramFile) -> Iterator[Constant]:
    """The constants of a program, those without a name too."""
    yield from file.constants.values()
    for record in file.operations:
        for bound in record.inputs.values():
            yield from (binding for binding in bound if not isinstance(binding, str))
