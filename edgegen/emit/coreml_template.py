"""One segment of a network as coremltools converts it, with the places where its weights go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from edgegen.emit.coreml_convert import convert
from edgegen.emit.fingerprint import fingerprinted, key, keys_of
from edgegen.emit.template_error import TemplateError
from edgegen.rewrite.component import TensorSpec
from edgegen.rewrite.segments import Segment


@dataclass(frozen=True)
class Template:
    """A converted segment: MIL operations in order, the parameter that each constant among them holds, and the values
    of the other constants that lie in the weight file. `model` is the converter's own description, without a program.
    """

    operations: tuple[Any, ...]  # MIL_pb2.Operation
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    specs: tuple[TensorSpec, ...]  # of the outputs
    parameters: dict[int, str]  # by the operation's place
    constants: dict[int, np.ndarray]
    opset: str
    model: Any = field(repr=False)  # Model_pb2.Model


def make_template(segment: Segment, inputs: Sequence[TensorSpec], target: str) -> Template:
    """Converts a segment of a network with weights that no other constant has."""
    module = fingerprinted(segment.module)
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(s.zeros() for s in inputs), strict=False)
    names = program.graph_signature.user_inputs
    outputs = [TensorSpec(f"out_{i}", shape) for i, shape in enumerate(output_shapes(program))]
    specs = [TensorSpec(name, s.shape, s.dtype) for name, s in zip(names, inputs, strict=True)]
    model = convert(program, specs, outputs, target, apart=True, unfolded=segment.unfolded)
    return read_template(model, module, specs, outputs)


def output_shapes(program: Any) -> list[tuple[int, ...]]:
    """Shapes of what an exported program returns."""
    node = next(iter(reversed(program.graph.nodes)))
    return [tuple(int(size) for size in value.meta["val"].shape) for value in node.args[0]]


def read_template(
    model: Any, module: torch.nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Template:
    """Finds the parameters of a fingerprinted module among the constants of its program."""
    spec = model.get_spec()
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    parameters, constants = find_constants(block.operations, constant_values(model), keys_of(module))
    check_constants(module, parameters, constants)
    operations = tuple(block.operations)
    del spec.mlProgram.functions["main"]
    return Template(
        operations,
        tuple(s.name for s in inputs),
        tuple(block.outputs),
        tuple(outputs),
        parameters,
        constants,
        function.opset,
        spec,
    )


def constant_values(model: Any) -> dict[str, Any]:
    """The values of a converted program's constants by name."""
    block = model._mil_program.functions["main"]
    return {op.outputs[0].name: op.outputs[0].val for op in block.find_ops(op_type="const")}


def find_constants(
    operations: Sequence[Any], values: dict[str, Any], names: dict[tuple[int, bytes], str]
) -> tuple[dict[int, str], dict[int, np.ndarray]]:
    """The parameter of every constant that holds one, and the values of other constants in the weight file."""
    parameters, constants = {}, {}
    for place, operation in enumerate(operations):
        if operation.type != "const":
            continue
        value = np.asarray(values[operation.outputs[0].name])
        name = names.get(key(value)) if value.dtype.kind == "f" else None
        if name is not None:
            parameters[place] = name
        elif is_in_file(operation):
            constants[place] = np.ascontiguousarray(value)
    return parameters, constants


def is_in_file(operation: Any) -> bool:
    """Whether a constant lies in the weight file."""
    return operation.attributes["val"].WhichOneof("value") == "blobFileValue"


def check_constants(module: torch.nn.Module, parameters: dict[int, str], constants: dict[int, np.ndarray]) -> None:
    """Refuses a program that lacks a parameter, or holds numbers that could be computed from one: all others are those
    of a buffer, or one literal over and over.
    """
    lacking = {name for name, _ in module.named_parameters()} - set(parameters.values())
    if lacking:
        raise TemplateError(f"no constant holds {sorted(lacking)[0]}, nor {len(lacking) - 1} others.")
    known = {key(buffer.numpy()) for buffer in module.buffers()}
    for values in constants.values():
        if values.dtype.kind == "f" and key(values) not in known and (values != values.flat[0]).any():
            raise TemplateError(f"a constant of {values.shape} is computed from parameters.")
