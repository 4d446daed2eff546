"""One segment of a network as ExecuTorch lowers it to XNNPACK, with the places where its weights go.

XNNPACK's program names each constant by the sha256 of its bytes, which lie beside it: a program of other weights is the
same bytes with other names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgegen.emit.fingerprint import fingerprinted
from edgegen.emit.template_error import TemplateError
from edgegen.rewrite.component import TensorSpec
from edgegen.rewrite.segments import Segment

ORDERS: dict[str, Callable[[Tensor], Tensor]] = {  # in which XNNPACK's programs hold a parameter
    "plain": lambda x: x,
    "transposed": lambda x: x.T if x.ndim == 2 else x,
    "channels last": lambda x: x.permute(0, 2, 3, 1) if x.ndim == 4 else x,
}


@dataclass(frozen=True)
class Template:
    """A lowered segment: one delegate, the parameter and its order behind the name of each of its constants, and what
    it is called with: the place of an input, the name of a parameter, or a constant of the structure.
    """

    lowered: Any  # LoweredBackendModule
    parameters: dict[str, tuple[str, str]]
    arguments: tuple[int | str | Tensor, ...]


def data_of(parameter: Tensor, order: str) -> bytes:
    """The bytes of a parameter in an order."""
    return ORDERS[order](parameter.detach()).contiguous().numpy().tobytes()


def named(data: bytes) -> str:
    """The name of a constant."""
    return hashlib.sha256(data).hexdigest()


def make_template(segment: Segment, inputs: Sequence[TensorSpec]) -> Template:
    """Lowers a segment of a network with weights that no other constant has; TemplateError unless it becomes one
    delegate and nothing else.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    module = fingerprinted(segment.module)
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(s.zeros() for s in inputs), strict=False)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).exported_program()
    call = only_delegate(edge, segment.name)
    lowered = getattr(edge.graph_module, call.args[0].target)
    arguments = tuple(argument_of(edge, node.name, module) for node in call.args[1:])
    return Template(lowered, find_parameters(lowered, module, arguments), arguments)


def only_delegate(program: Any, name: str) -> Any:
    """The call of a program's one delegate; a program that does anything else is refused."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    delegates = [node for node in calls if node.target.__name__ == "executorch_call_delegate"]
    others = {node.target.__name__ for node in calls} - {"executorch_call_delegate", "getitem"}
    if len(delegates) != 1 or others:
        raise TemplateError(f"{name} is not one delegate of XNNPACK: {len(delegates)}, and {sorted(others)}.")
    return delegates[0]


def argument_of(program: Any, name: str, module: torch.nn.Module) -> int | str | Tensor:
    """What an argument of a delegate is."""
    signature = program.graph_signature
    if name in signature.user_inputs:
        return list(signature.user_inputs).index(name)
    if name in signature.inputs_to_parameters:
        found = signature.inputs_to_parameters[name]
        if not torch.equal(program.state_dict[found], module.get_parameter(found)):
            raise TemplateError(f"the constant {found} is computed from parameters.")
        return found
    buffers = dict(module.named_buffers())
    found = signature.inputs_to_buffers.get(name) or signature.inputs_to_lifted_tensor_constants[name]
    if found in buffers:
        return buffers[found]
    value = program.state_dict[found] if found in program.state_dict else program.constants[found]
    if value.numel() > 1 and (value != value.flatten()[0]).any():
        raise TemplateError(f"the constant {found} is computed from parameters.")
    return value


def find_parameters(
    lowered: Any, module: torch.nn.Module, arguments: Sequence[int | str | Tensor]
) -> dict[str, tuple[str, str]]:
    """The parameter behind each constant's name; one that might be computed from a parameter is refused."""
    names = {named(data_of(p, order)): (name, order) for order in ORDERS for name, p in module.named_parameters()}
    known = {named(data_of(buffer, order)) for order in ORDERS for buffer in module.buffers()}
    held = lowered.named_data_store_output.pte_data
    found = {key: names[key] for key in held if key in names}
    passed = {name for name, _ in found.values()} | {a for a in arguments if isinstance(a, str)}
    lacking = {name for name, _ in module.named_parameters()} - passed
    if lacking:
        raise TemplateError(f"no constant holds {sorted(lacking)[0]}, nor {len(lacking) - 1} others.")
    for key, entry in held.items():
        data = lowered.named_data_store_output.buffers[entry.buffer_index]
        if key not in found and key not in known and data[4:] != data[:-4]:  # one number over and over
            raise TemplateError(f"a constant of {len(data)} bytes is computed from parameters.")
    return found
