"""An ExecuTorch network put together from lowered segments: one that stands more than once is lowered once and stamped
with the weights of every place, each a delegate of its own; the rest is lowered as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.emit.executorch_template import Template, data_of, make_template, named
from edgegen.emit.template_error import TemplateError
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, structure


class Chain(nn.Module):
    """Segments in order, some of which are delegates already."""

    def __init__(self, component: Component, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.steps = [(segment.inputs, segment.outputs) for segment in component.segments]
        self.given = [spec.name for spec in component.inputs]
        self.made = [spec.name for spec in component.outputs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.given, inputs, strict=True))
        for part, (names, outputs) in zip(self.parts, self.steps, strict=True):
            made = part(*(values[name] for name in names))
            values |= zip(outputs, made if isinstance(made, tuple | list) else (made,), strict=True)
        return tuple(values[name] for name in self.made)


class Delegate(nn.Module):
    """A call of a lowered segment with the parameters of one place."""

    def __init__(self, template: Template, module: nn.Module):
        super().__init__()
        self.lowered = stamped(template, module)
        self.arguments: list[int | str] = []
        parameters = dict(module.named_parameters())
        for place, argument in enumerate(template.arguments):
            if not isinstance(argument, int):
                value = parameters[argument] if isinstance(argument, str) else argument
                self.register_buffer(f"held_{place}", value.detach())
            self.arguments.append(argument if isinstance(argument, int) else f"held_{place}")

    def forward(self, *inputs: Tensor) -> Any:
        given = [inputs[a] if isinstance(a, int) else getattr(self, a) for a in self.arguments]
        return self.lowered(*given)


def stamped(template: Template, module: nn.Module) -> Any:
    """The delegate of a template with the weights of a module of the same structure."""
    from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
    from executorch.exir._serialize.data_serializer import DataEntry
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    source, parameters = template.lowered, dict(module.named_parameters())
    program, store = source.processed_bytes, source.named_data_store_output
    buffers: list[bytes] = []
    entries: dict[str, DataEntry] = {}
    for key, entry in store.pte_data.items():
        data = store.buffers[entry.buffer_index]
        if key in template.parameters:
            name, order = template.parameters[key]
            data = data_of(parameters[name], order)
            program = renamed(program, key, named(data))
        entries[named(data)] = DataEntry(len(buffers), entry.alignment, entry.tensor_layout)
        buffers.append(data)
    return LoweredBackendModule(
        source.original_module,
        source.backend_id,
        program,
        source.compile_specs,
        NamedDataStoreOutput(buffers, entries, {}),
    )


def renamed(program: bytes, old: str, new: str) -> bytes:
    """A program with one constant's name changed everywhere."""
    if program.count(old.encode()) == 0:
        raise TemplateError(f"the program does not name its constant {old[:12]}.")
    return program.replace(old.encode(), new.encode())


def chained(component: Component) -> Chain:
    """A component with a delegate in place of every segment that stands more than once."""
    kinds = [structure(segment.module) for segment in component.segments]
    counts, templates = Counter(kinds), {}
    specs = {spec.name: spec for spec in component.inputs} | value_specs(component)
    parts: list[nn.Module] = []
    for kind, segment in zip(kinds, component.segments, strict=True):
        if counts[kind] > 1 and kind not in templates:
            templates[kind] = template_of(segment, [specs[name] for name in segment.inputs])
        template = templates.get(kind)
        parts.append(segment.module if template is None else Delegate(template, segment.module))
    return Chain(component, parts)


def template_of(segment: Segment, inputs: Sequence[TensorSpec]) -> Template | None:
    """The template of a segment, or None where it cannot be stamped."""
    try:
        return make_template(segment, inputs)
    except TemplateError:
        return None


def value_specs(component: Component) -> dict[str, TensorSpec]:
    """Shapes of all values between segments, found without computing them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    found: dict[str, TensorSpec] = {}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        values = {spec.name: mode.from_tensor(spec.zeros()) for spec in component.inputs}
        for segment in component.segments:
            made = segment.module(*(values[name] for name in segment.inputs))
            values |= zip(segment.outputs, made if isinstance(made, tuple) else (made,), strict=True)
    for name, value in values.items():
        found[name] = TensorSpec(name, tuple(value.shape))
    return found
