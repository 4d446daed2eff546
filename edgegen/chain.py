"""A network in several programs, as a manifest lists them: transformer_1, transformer_2 and so on, run in that order.

A program reads inputs of the network and what programs before it gave, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgegen.errors import InputError, brief
from edgegen.rewrite.component import TensorSpec

if TYPE_CHECKING:
    from edgegen.manifest import Artifact

CUT = ("transformer",)  # networks that are written in several programs
NUMBERED = re.compile(rf"({'|'.join(CUT)})_([1-9][0-9]?)")

Specs = tuple[TensorSpec, ...]


def network_of(program: str) -> str:
    """The network that a program is, or is a chunk of: transformer_2 -> transformer."""
    found = NUMBERED.fullmatch(program)
    return found[1] if found else program


def signature(programs: Sequence[Artifact]) -> tuple[Specs, Specs]:
    """Inputs and outputs of a network whose programs run in order."""
    inputs: dict[str, TensorSpec] = {}
    given: set[str] = set()
    for program in programs:
        inputs |= {spec.name: spec for spec in program.inputs if spec.name not in given | inputs.keys()}
        given |= {spec.name for spec in program.outputs}
    return tuple(inputs.values()), programs[-1].outputs


def check_chain(programs: Sequence[Artifact], where: str, limit: int) -> None:
    """Refuses programs that are out of order or of which one reads what nothing before it gave in that shape; `limit`
    is the number of elements that a value may have.
    """
    network = programs[0].network
    wanted = [f"{network}_{number}" for number in range(1, len(programs) + 1)]
    found = [program.name for program in programs]
    if len(found) < 2 or found != wanted:
        raise InputError(f"{where}: {brief(found)} are no chunks of a {network} in order, from 1 and at least 2.")
    inputs, _ = signature(programs)
    known = {spec.name: spec for spec in inputs}
    for program in programs:
        names = [spec.name for spec in program.inputs]
        if len(set(names)) < len(names):
            raise InputError(f"{where}.{program.name}: of {brief(names)}, one is read twice.")
        for spec in program.inputs:
            check_reads(spec, known[spec.name], f"{where}.{program.name}.{spec.name}")
        for spec in program.outputs:
            check_gives(spec, known, f"{where}.{program.name}.{spec.name}", limit)
            known[spec.name] = spec


def check_reads(spec: TensorSpec, given: TensorSpec, where: str) -> None:
    """Refuses an input that is not what it is given."""
    if (spec.shape, spec.dtype) != (given.shape, given.dtype):
        told, had = (f"{brief(list(s.shape))} {s.dtype}" for s in (spec, given))
        raise InputError(f"{where} takes {told}; it is given {had}.")


def check_gives(spec: TensorSpec, known: dict[str, TensorSpec], where: str, limit: int) -> None:
    """Refuses an output under a name that is taken, or of a size that cannot be meant."""
    if spec.name in known:
        raise InputError(f"{where} is given twice.")
    if math.prod(spec.shape) > limit or spec.dtype == "int32":
        raise InputError(f"{where} is {brief(list(spec.shape))} {spec.dtype}; the limit is {limit} numbers.")
