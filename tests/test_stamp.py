"""Stamped artifacts against plainly converted ones, operation for operation, and against the network by numbers."""

import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from onnx.numpy_helper import to_array

from edgegen.emit import coreml, executorch, onnx
from edgegen.emit.coreml_stamp import Templates
from edgegen.emit.coreml_template import make_template
from edgegen.emit.onnx_stamp import stamped
from edgegen.emit.template_error import TemplateError
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.model.config import DiTConfig
from edgegen.model.dit import DiT
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Form, TensorSpec
from edgegen.rewrite.segments import Segment, run_segments, structure
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.runtime.executorch import open_executorch
from edgegen.runtime.mil_file import Constant, read_program
from edgegen.runtime.onnx import open_onnx
from edgegen.runtime.onnx_file import read_model

SMALL = DiTConfig(
    hidden=48,
    head_dim=12,
    depths=(2, 5, 1),
    ffn_ratios=(2, 2, 2),
    blocks=4,
    cross_kv_heads=2,
    text_dim=32,
    pooled_text=True,
    in_channels=4,
    grid=(8, 8),
)


def component_of(config: DiTConfig, form: Form, latent: tuple[int, int] = (16, 16)):
    torch.manual_seed(0)
    model = DiT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.uniform_(-0.5, 0.5)  # in whole conversions, values that coincide drop operations
    return transformer_component(model, latent, 16, form)


def value_digests(path) -> tuple[Counter, list[str]]:
    """A digest of each operation, over its type, its constants' bytes and, by theirs, all it is computed from."""
    program = read_program(path)
    known = {info.name: f"input {info.name} {info.shape} {info.dtype}" for info in program.inputs}

    def digest_of(bound) -> str:
        if isinstance(bound, str) and bound not in program.constants:
            return known[bound]
        constant = bound if isinstance(bound, Constant) else program.constants[bound]
        value = constant.array()
        data = value.encode() if isinstance(value, str) else value.tobytes()
        return hashlib.sha256(f"{constant.info.dtype} {constant.info.shape}".encode() + data).hexdigest()

    counts: Counter = Counter()
    for record in program.operations:
        inputs = sorted((key, [digest_of(bound) for bound in bounds]) for key, bounds in record.inputs.items())
        found = hashlib.sha256(repr((record.type, inputs)).encode()).hexdigest()
        counts[found] += 1
        for index, info in enumerate(record.outputs):
            known[info.name] = f"{found} {index} {info.shape} {info.dtype}"
    return counts, [known[info.name] for info in program.outputs]


@pytest.mark.parametrize("config", [SMALL, DiTConfig(**{**vars(SMALL), "depths": (4,), "ffn_ratios": (2,)})])
def test_a_stamped_program_is_the_plainly_converted_one_operation_for_operation(config, tmp_path):
    component = component_of(config, Form("split", query_chunk=24))
    coreml.write(component, tmp_path / "stamped.mlpackage")
    coreml.save_whole(component, tmp_path / "plain.mlpackage", "iOS17", {}, "")
    stamped, plain = (value_digests(tmp_path / f"{name}.mlpackage") for name in ("stamped", "plain"))
    assert sum(plain[0].values()) > 100
    assert stamped == plain


SPLIT = [Form("split", operations=name) for name in ("composed", "joined", "grouped")]


@pytest.mark.parametrize("form", [*SPLIT, Form("batched")])
def test_segments_compute_what_the_whole_does(form):
    component = component_of(SMALL, form)
    feed = {spec.name: torch.randn(spec.shape) for spec in component.inputs}
    with torch.no_grad():
        made = run_segments(component.segments, feed)["velocity"]
        assert torch.equal(made, component.module(*feed.values()))
    names = [s.full(name) for s in component.segments for name, _ in s.module.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in component.module.named_parameters())


def test_structure_tells_apart_what_converts_differently():
    segments = {s.name: s for s in component_of(SMALL, Form("split")).segments}
    same, other = (structure(segments[name].module) for name in ("down.0", "down.1")), segments["middle.0"]
    assert len(set(same)) == 1
    assert structure(other.module) != structure(segments["middle.4"].module)  # which joins an earlier block's output
    before = structure(other.module)
    other.module.attn.rope_q.cos = other.module.attn.rope_q.cos * 0.5  # its own, no longer the one layers share
    assert structure(other.module) != before


class Folding(torch.nn.Module):
    """A product behind a convolution, which coremltools folds into the convolution's weight."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(12, 12, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * 0.5


def test_a_weight_that_the_converter_changes_is_refused():
    segment = Segment("folding", "", Folding(), ("x",), ("y",))
    with pytest.raises(TemplateError, match="conv.weight"):
        make_template(segment, [TensorSpec("x", (1, 12, 1, 32))], "iOS17")


def test_equal_structures_are_converted_once():
    templates, segments = Templates("iOS17"), component_of(SMALL, Form("split")).segments
    inputs = [TensorSpec("x", (1, 48, 1, 16)), TensorSpec("m", (1, 288, 1, 1))]
    inputs += [TensorSpec("text", (1, 32, 1, 16)), TensorSpec("bias", (1, 16, 1, 1))]
    blocks = [s for s in segments if s.name.startswith("middle") and len(s.inputs) == 4]
    assert len({id(templates.of(block, inputs)) for block in blocks}) == 1 < len(blocks)


@pytest.mark.parametrize("stamped", [True, False])
def test_weights_beside_a_graph_are_read_and_covered_by_its_digest(stamped, tmp_path, monkeypatch):
    """As for more than 2 GB, here from the first byte on; of a graph that is exported in one piece too."""
    small = dataclasses.replace(SMALL, depths=(4,), ffn_ratios=(2,))
    component = component_of(small, Form("batched", operations="fused"))
    component = component if stamped else dataclasses.replace(component, segments=())
    monkeypatch.setattr(onnx, "LARGEST", 0)
    path, data = tmp_path / "transformer.onnx", tmp_path / "transformer.onnx.data"
    onnx.write(component, path)
    feed = {spec.name: torch.randn(spec.shape) for spec in component.inputs}
    made = open_onnx(path)({name: value.numpy() for name, value in feed.items()})["velocity"]
    with torch.no_grad():
        assert np.abs(component.module(*feed.values()).numpy() - made).max() < 1e-4
    read_model(path)
    before, size = digest(path)
    assert size == path.stat().st_size + data.stat().st_size
    changed = bytearray(data.read_bytes())
    changed[-1] ^= 1
    data.write_bytes(changed)
    assert digest(path)[0] != before
    data.write_bytes(changed[:-64])
    with pytest.raises(InputError, match="transformer.onnx.data"):
        read_model(path)


def test_stamped_graphs_and_delegates_compute_what_the_network_does(tmp_path):
    small = dataclasses.replace(SMALL, depths=(4,), ffn_ratios=(2,), long_skips=False)
    for name, emit, open_file, form in (
        ("transformer.onnx", onnx.write, lambda path, *names: open_onnx(path), Form("batched", operations="fused")),
        ("transformer.pte", executorch.write, open_executorch, Form("batched")),
    ):
        component = component_of(small, form)
        emit(component, tmp_path / name)
        inputs, outputs = ([spec.name for spec in specs] for specs in (component.inputs, component.outputs))
        feed = {spec.name: torch.randn(spec.shape) for spec in component.inputs}
        made = open_file(tmp_path / name, inputs, outputs)({name: x.numpy() for name, x in feed.items()})["velocity"]
        with torch.no_grad():
            assert np.abs(component.module(*feed.values()).numpy() - made).max() < 1e-4


@pytest.mark.parametrize(("operations", "most"), [("joined", 0.75), ("grouped", 0.5)])
def test_fewer_operations_are_the_same_numbers(tmp_path, operations, most):
    """By the evaluator in fp32, where only an error of the emission would be left; `most` einsums of the default's."""
    config = dataclasses.replace(SMALL, depths=(1, 1, 1), blocks=8)  # the outer layers are sparse
    counts, made = {}, {}
    for name in ("composed", operations):
        component = component_of(config, Form("split", query_chunk=24, operations=name))
        coreml.write(component, tmp_path / f"{name}.mlpackage")
        program = CoreMLProgram.load(tmp_path / f"{name}.mlpackage")
        feed = {spec.name: torch.randn(spec.shape, generator=torch.manual_seed(1)) for spec in component.inputs}
        made[name] = program.run({name: x.numpy() for name, x in feed.items()}, fp16=False)["velocity"]
        counts[name] = program.operation_counts()
    size = np.abs(made["composed"]).max()
    assert size > 1 and np.abs(made[operations] - made["composed"]).max() < 1e-5 * size
    with torch.no_grad():  # its weights are not rounded to fp16
        assert np.abs(made[operations] - component.module(*feed.values()).numpy()).max() < 1e-2 * size
    composed, fewer = counts["composed"], counts[operations]
    assert fewer["einsum"] <= most * composed["einsum"] and fewer.total() < composed.total()
    assert fewer["transpose"] > composed["transpose"]  # what it costs


def node_digests(model) -> tuple[Counter, list[str]]:
    """A digest of each node, over its type, attributes, constants' bytes and, by theirs, all it is computed from. What
    a reshape is asked for counts as what it gives: the exporter writes -1 for a size in some places.
    """
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    known = {value.name: value.name for value in model.graph.input} | {"": ""}
    for tensor in model.graph.initializer:
        values = to_array(tensor)
        known[tensor.name] = hashlib.sha256(f"{values.dtype} {values.shape}".encode() + values.tobytes()).hexdigest()
    counts: Counter = Counter()
    for node in model.graph.node:
        inputs = [known[name] for name in node.input]
        if node.op_type == "Reshape":
            inputs[1] = repr(shapes[node.output[0]])
        attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
        found = hashlib.sha256(repr((node.op_type, attributes, inputs)).encode()).hexdigest()
        counts[found] += 1
        known |= {name: f"{found} {index}" for index, name in enumerate(node.output)}
    return counts, [known[value.name] for value in model.graph.output]


def test_a_stamped_graph_is_the_plainly_exported_one_operation_for_operation():
    small = dataclasses.replace(SMALL, depths=(4,), ffn_ratios=(2,))
    component = component_of(small, Form("batched", operations="fused"))
    made, plain = node_digests(stamped(component)), node_digests(onnx.whole(component))
    assert sum(plain[0].values()) > 100
    assert made == plain
