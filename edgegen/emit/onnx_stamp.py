"""An ONNX graph put together from exported segments: each distinct one is exported once and stamped with the weights
of every place where it stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgegen.emit.onnx_template import KEPT_METADATA, Template, make_template, scopes_of
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, structure

INSIDE = 1024  # bytes of a weight below which it stays in the graph's own file
ALIGNMENT = 4096  # of weights in a file that is mapped


class Stamp:
    """A graph that grows by segments. `names` gives the value of the graph that a value of the network is."""

    def __init__(self, graph: onnx.GraphProto, names: dict[str, str], store: Store):
        self.graph, self.names, self.store = graph, names, store
        self.shared: dict[tuple, str] = {}  # constants that are no weights, by content
        self.computed: dict[tuple, list[str]] = {}  # outputs of nodes, by all that they are computed from

    def add_(self, segment: Segment, template: Template, outputs: Mapping[str, str]) -> None:
        """Appends the nodes of a segment under its name, with its weights; `outputs` gives names of the network's."""
        source = template.model.graph
        names = {value.name: self.names[name] for value, name in zip(source.input, segment.inputs, strict=True)}
        made = zip(source.output, segment.outputs, strict=True)
        names |= {value.name: outputs.get(name, name) for value, name in made}
        self.initializers_(segment, template, names)
        for node in source.node:
            self.node_(node, segment, names)
        for value in (*source.value_info, *source.output):
            if names[value.name].startswith(f"{segment.name}.") or (
                names[value.name] in segment.outputs and names[value.name] not in outputs
            ):
                self.graph.value_info.add().CopyFrom(value)
                self.graph.value_info[-1].name = names[value.name]
        self.names |= {name: names[value.name] for value, name in zip(source.output, segment.outputs, strict=True)}

    def initializers_(self, segment: Segment, template: Template, names: dict[str, str]) -> None:
        """The constants of a segment: its weights under their names in the network, others once a graph."""
        for tensor in template.model.graph.initializer:
            if tensor.name in template.parameters:
                name, transposed = template.parameters[tensor.name]
                names[tensor.name] = segment.full(name)
                values = segment.value(name).numpy()
                values = np.ascontiguousarray(values.T if transposed else values)
                self.graph.initializer.append(self.store(values, segment.full(name)))
            else:
                names[tensor.name] = self.constant(tensor, f"{segment.name}.{tensor.name}")

    def constant(self, tensor: onnx.TensorProto, name: str) -> str:
        """The name of a constant, which is added unless an equal one is there."""
        found = tensor.data_type, tuple(tensor.dims), hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
        if found not in self.shared:
            self.shared[found] = name
            self.graph.initializer.add().CopyFrom(tensor)
            self.graph.initializer[-1].name = name
        return self.shared[found]

    def node_(self, node: onnx.NodeProto, segment: Segment, names: dict[str, str]) -> None:
        """A node under this segment's names, unless one that computes the same is there."""
        inputs = [names[name] if name else "" for name in node.input]
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        found = node.op_type, node.domain, attributes, tuple(inputs)
        outputs = [names.get(name) or (f"{segment.name}.{name}" if name else "") for name in node.output]
        made = self.computed.setdefault(found, outputs)
        names |= dict(zip(node.output, made, strict=True))
        if made is not outputs:
            return
        stamped = self.graph.node.add()
        stamped.CopyFrom(node)
        stamped.name = f"{segment.name}.{node.name}"
        stamped.input[:], stamped.output[:] = inputs, outputs
        for entry in stamped.metadata_props:
            if entry.key == KEPT_METADATA and segment.prefix:
                first, *rest, last = scopes_of(node)
                entry.value = str([first, segment.prefix, *map(segment.full, rest), last])


Store = Callable[[np.ndarray, str], onnx.TensorProto]  # values and a name to an initializer


class Beside:
    """Weights in a file beside the graph's, written as they come: a protobuf holds 2 GB."""

    def __init__(self, path: Path):
        self.path, self.file, self.end = path, path.open("wb"), 0

    def __call__(self, values: np.ndarray, name: str) -> onnx.TensorProto:
        """An initializer that says where its values are."""
        if values.nbytes < INSIDE:
            return numpy_helper.from_array(values, name)
        tensor = onnx.TensorProto(name=name, dims=values.shape, data_type=onnx.TensorProto.FLOAT)
        self._put_(tensor, values.data)
        return tensor

    def take_(self, tensor: onnx.TensorProto) -> None:
        """Moves the values of an initializer to the file, unless they are few."""
        if len(tensor.raw_data) >= INSIDE:
            self._put_(tensor, tensor.raw_data)
            tensor.ClearField("raw_data")

    def _put_(self, tensor: onnx.TensorProto, data: bytes | memoryview) -> None:
        self.end += self.file.write(b"\0" * (-self.end % ALIGNMENT))
        start, length = self.end, self.file.write(data)
        self.end += length
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def stamped(component: Component, store: Store = numpy_helper.from_array) -> onnx.ModelProto:
    """The model of a component in segments; `store` makes an initializer of each weight."""
    templates: dict[tuple, Template] = {}
    specs: dict[str, TensorSpec] = {spec.name: spec for spec in component.inputs}
    model = onnx.ModelProto()
    stamp = Stamp(model.graph, {spec.name: spec.name for spec in component.inputs}, store)
    outputs = {spec.name: spec.name for spec in component.outputs}
    for segment in component.segments:
        given = [specs[name] for name in segment.inputs]
        found = structure(segment.module), tuple(spec.shape for spec in given)
        if found not in templates:
            templates[found] = make_template(segment, given)
        stamp.add_(segment, templates[found], outputs)
        specs |= dict(zip(segment.outputs, templates[found].specs, strict=True))
    describe_(model, [template.model for template in templates.values()], component)
    return model


def describe_(model: onnx.ModelProto, parts: Sequence[onnx.ModelProto], component: Component) -> None:
    """Version, opsets and interface of a model, as the exporter gave them to its parts."""
    first = parts[0]
    model.ir_version, model.producer_name, model.producer_version = (
        first.ir_version,
        first.producer_name,
        first.producer_version,
    )
    opsets = {entry.domain: entry.version for part in parts for entry in part.opset_import}
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items())
    functions = {(f.domain, f.name): f for part in parts for f in part.functions}
    model.functions.extend(functions.values())
    model.graph.name = first.graph.name
    kinds = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    for specs, values in ((component.inputs, model.graph.input), (component.outputs, model.graph.output)):
        values.extend(onnx.helper.make_tensor_value_info(s.name, kinds[s.dtype], s.shape) for s in specs)
