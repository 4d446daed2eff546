"""A Core ML program put together from converted segments: each distinct one is converted once and stamped with the
weights of every place where it stands.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgegen.emit.coreml_convert import half_specs
from edgegen.emit.coreml_template import Template, make_template
from edgegen.emit.palette_coreml import compressed, constant_name
from edgegen.errors import EdgegenError
from edgegen.quantize.stored import StoredWeights
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, structure


class Templates:
    """The converted segments of a target, one for each structure and shape of inputs."""

    def __init__(self, target: str):
        self.target = target
        self.made: dict[tuple[str, tuple[tuple[int, ...], ...]], Template] = {}

    def of(self, segment: Segment, inputs: Sequence[TensorSpec]) -> Template:
        """The template of a segment, converted at its first use."""
        found = structure(segment.module), tuple(spec.shape for spec in inputs)
        if found not in self.made:
            self.made[found] = make_template(segment, inputs, self.target)
        return self.made[found]


class Constants:
    """Writes constants to the weight file of a package, each value once, and gives the operations that hold them."""

    def __init__(self, folder: str, version: int, target: str):
        import coremltools as ct
        from coremltools.converters.mil.backend.mil.load import MILProtoExporter
        from coremltools.converters.mil.mil import Function, Program

        program = Program()
        program.add_function("main", Function({}, opset_version=getattr(ct.target, target)))
        program.functions["main"].set_outputs([])
        self.block = program.functions["main"]
        self.exporter, self.target = MILProtoExporter(program, folder, version), target
        self.written: dict[tuple, Any] = {}
        self.exporter.create_file_value = self.file_value

    def file_value(self, var: Any) -> Any:
        """The reference to a value in the weight file, written unless the same bytes are there."""
        from coremltools.converters.mil.backend.mil.load import MILProtoExporter

        values = np.ascontiguousarray(var.val)
        found = values.dtype.str, str(var.dtype), values.shape, hashlib.sha256(values.data).digest()
        if found not in self.written:
            self.written[found] = MILProtoExporter.create_file_value(self.exporter, var)
        return self.written[found]

    def dense(self, values: np.ndarray, name: str) -> Any:
        """The operation of a constant."""
        from coremltools.converters.mil.mil import Builder as mb

        with self.block:
            var = mb.const(val=values, name=name)
        return self.taken(self.exporter.translate_const(var.op), var)

    def stored(self, weight: Any, shape: tuple[int, ...], name: str) -> Any:
        """The operation of a quantized weight."""
        with self.block:
            var = compressed(None, name, shape, weight, self.target)
        return self.taken(self.exporter.translate_constexpr(var.op), var)

    def taken(self, operation: Any, var: Any) -> Any:
        """An operation once its builder's copy is dropped, which would keep the weight in memory."""
        made = [var.op, *(value.op for value in var.op.inputs.values() if value.op is not None)]
        with self.block:
            self.block.remove_ops(made)
        return operation


class Stamp:
    """A function that grows by segments. `names` gives the value of the program that a value of the network is."""

    def __init__(self, block: Any, constants: Constants):
        self.block, self.constants = block, constants
        self.names: dict[str, str] = {}
        self.shared: dict[tuple, str] = {}  # constants that are no weights, by content

    def add_(self, segment: Segment, template: Template, weights: StoredWeights) -> None:
        """Appends the operations of a segment under its name, with its weights."""
        tag = segment.name.replace(".", "_")
        names = dict(zip(template.inputs, (self.names[name] for name in segment.inputs), strict=True))
        made = {name: output.replace(".", "_") for name, output in zip(template.outputs, segment.outputs, strict=True)}
        for place, operation in enumerate(template.operations):
            if place in template.parameters:
                name = template.parameters[place]
                full = segment.full(name)
                self.weight_(operation, full, segment.value(name), weights.get(full), names)
            elif place in template.constants:
                self.constant_(operation, template.constants[place], tag, names)
            else:
                self.operation_(operation, tag, names, made)
        self.names |= {output: made[name] for name, output in zip(template.outputs, segment.outputs, strict=True)}

    def weight_(self, operation: Any, full: str, parameter: Tensor, stored: Any, names: dict[str, str]) -> None:
        """A constant with the values of a parameter of this segment, or their stored form."""
        shape = tuple(size.constant.size for size in operation.outputs[0].type.tensorType.dimensions)
        name = constant_name(full)
        names[operation.outputs[0].name] = name
        values = parameter.detach().half().numpy().reshape(shape)
        if stored is None:
            self.block.operations.append(self.constants.dense(values, name))
            return
        check_values(full, values, stored)
        self.block.operations.append(self.constants.stored(stored, shape, name))

    def constant_(self, operation: Any, values: np.ndarray, tag: str, names: dict[str, str]) -> None:
        """A constant of the structure, once a program."""
        output = operation.outputs[0].name
        found = values.dtype.str, values.shape, hashlib.sha256(values.data).digest()
        if found not in self.shared:
            self.shared[found] = f"{tag}_{output}"
            self.block.operations.append(self.constants.dense(values, self.shared[found]))
        names[output] = self.shared[found]

    def operation_(self, operation: Any, tag: str, names: dict[str, str], made: Mapping[str, str]) -> None:
        """An operation as it is, under this segment's names."""
        stamped = self.block.operations.add()
        stamped.CopyFrom(operation)
        for output in stamped.outputs:
            names[output.name] = output.name = made.get(output.name) or f"{tag}_{output.name}"
        for argument in stamped.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = names[binding.name]
        label = stamped.attributes["name"].immediateValue.tensor.strings
        label.values[0] = f"{tag}_{label.values[0]}"


def check_values(name: str, values: np.ndarray, stored: Any) -> None:
    """The module's weight must be what is stored for it, element by element."""
    expected = stored.dense().half().numpy()
    if values.size != expected.size or not np.array_equal(values.reshape(expected.shape), expected):
        raise EdgegenError(f"the weight {name} is not its quantized form.", "This is a bug of edgegen.")


def save_stamped(
    component: Component, path: Path, templates: Templates, weights: StoredWeights, description: str
) -> None:
    """Writes a component in segments as an .mlpackage."""
    from coremltools.models.utils import _create_mlpackage

    with tempfile.TemporaryDirectory() as folder:
        model = stamped(component.segments, component.inputs, component.outputs, templates, weights, folder)
        model.description.metadata.shortDescription = description
        _create_mlpackage(model, folder, str(path))


def stamped(
    segments: Sequence[Segment],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    templates: Templates,
    weights: StoredWeights,
    folder: str,
) -> Any:
    """The model (Model_pb2) of segments that run in order; its weights go to a file in `folder`."""
    specs = {spec.name: spec for spec in inputs}
    model = blank(templates.of(segments[0], [specs[name] for name in segments[0].inputs]))
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    stamp = Stamp(block, Constants(folder, model.specificationVersion, templates.target))
    stamp.names = {spec.name: spec.name for spec in inputs}
    for segment in segments:
        template = templates.of(segment, [specs[name] for name in segment.inputs])
        stamp.add_(segment, template, weights)
        specs |= dict(zip(segment.outputs, template.specs, strict=True))
    block.outputs.extend(stamp.names[spec.name] for spec in outputs)
    describe_(model, function, half_specs(inputs), half_specs(outputs))
    return model


def blank(template: Template) -> Any:
    """The converter's own description of a model with an empty function."""
    import coremltools as ct

    model = ct.proto.Model_pb2.Model()
    model.CopyFrom(template.model)
    function = model.mlProgram.functions["main"]
    function.opset = template.opset
    function.block_specializations[template.opset].Clear()
    return model


def describe_(model: Any, function: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """The interface of a model and of its function."""
    from coremltools.converters.mil.backend.mil.helper import create_valuetype_tensor

    kinds = data_types()
    del model.description.input[:], model.description.output[:]
    for specs, features in ((inputs, model.description.input), (outputs, model.description.output)):
        for spec in specs:
            array = features.add(name=spec.name).type.multiArrayType
            array.shape.extend(spec.shape)
            array.dataType = kinds[spec.dtype][0]
    for spec in inputs:
        function.inputs.add(name=spec.name, type=create_valuetype_tensor(spec.shape, kinds[spec.dtype][1]))


def data_types() -> dict[str, tuple[int, int]]:
    """What a description and a program call the types of inputs and outputs."""
    import coremltools as ct

    arrays, program = ct.proto.FeatureTypes_pb2.ArrayFeatureType, ct.proto.MIL_pb2
    return {"float16": (arrays.FLOAT16, program.FLOAT16), "int32": (arrays.INT32, program.INT32)}
