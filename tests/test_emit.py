"""What the artifacts contain and what they compute, on a small network through every back end."""

import collections
from pathlib import Path

import coremltools
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import decibels, random_inputs, scrambled, small_config

from edgegen.emit import coreml, executorch
from edgegen.emit import onnx as emit_onnx
from edgegen.files import digest
from edgegen.model.blocks import timestep_features
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import materialize
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form, TensorSpec
from edgegen.runtime.coreml import CoreMLProgram

TOKENS = 7


@pytest.fixture(scope="module")
def config() -> DiTConfig:
    return small_config(widths=(1.0,), grid=(8, 8))


@pytest.fixture(scope="module")
def model(config):
    return materialize(scrambled(config), 1.0)


def component_and_feed(model, form: str) -> tuple[Component, dict[str, np.ndarray], np.ndarray]:
    """A component, inputs by name, and the trained model's velocity on them."""
    latent, t, text, mask, pooled = random_inputs(model.config, batch=1, tokens=TOKENS)
    component = transformer_component(model, (16, 16), TOKENS, Form(form))
    with torch.no_grad():
        reference = model(latent, t, text, mask, pooled).numpy()
    tensors = (
        latent,
        timestep_features(t, model.config.time_features)[:, :, None, None],
        text.transpose(1, 2)[:, :, None],
        mask[:, :, None, None],
        pooled[:, :, None, None],
    )
    names = [spec.name for spec in component.inputs]
    return component, dict(zip(names, (x.contiguous().numpy() for x in tensors), strict=True)), reference


@pytest.fixture(scope="module")
def core_ml(model, tmp_path_factory):
    """The saved program, its inputs in float16 and the reference."""
    component, feed, reference = component_and_feed(model, "split")
    path = tmp_path_factory.mktemp("coreml") / "transformer.mlpackage"
    coreml.write(component, path)
    dtypes = {spec.name: spec.dtype for spec in coreml.signature(component)[0]}
    return CoreMLProgram.load(path), {n: x.astype(dtypes[n]) for n, x in feed.items()}, reference


def attention_layers(config: DiTConfig) -> int:
    return 2 * sum(config.depths)  # self- and cross-attention of every block


def test_core_ml_keeps_every_einsum_and_reshapes_little(core_ml, config):
    """No einsum decomposed into matmul; at most one transpose and two reshapes per attention layer."""
    counts, layers = core_ml[0].operation_counts(), attention_layers(config)
    heads, chunks = config.heads, 1
    sparse = config.depths[0] + config.depths[2]
    pairs = sparse * heads * (config.blocks + chunks) + (config.depths[1] + sum(config.depths)) * heads * chunks
    assert counts["einsum"] == 2 * pairs
    assert counts["matmul"] == 0
    assert 0 < counts["transpose"] <= layers
    assert 0 < counts["reshape"] <= 2 * layers


def test_core_ml_holds_no_fp32_tensor(core_ml):
    """A stray Python float would put an fp32 constant into the fp16 program and send its operation to the CPU."""
    dtypes = collections.Counter(info.dtype for op in core_ml[0].operations() for info in op.outputs)
    assert dtypes and not any("32" in name and "int" not in name for name in dtypes)


def test_core_ml_computes_the_model(core_ml):
    program, feed, reference = core_ml
    exact, rounded = program.run(feed, fp16=False)["velocity"], program.run(feed, fp16=True)["velocity"]
    assert decibels(reference, exact) >= 60  # weights and inputs are fp16 even when activations are not
    assert decibels(reference, rounded) >= 45
    assert not np.array_equal(exact, rounded)


def test_core_ml_weights_keep_their_names(core_ml, model):
    """coremltools writes `down.0.attn.q.weight` as `p_down_0_attn_q_weight_to_fp16`."""
    held = {tensor.name for tensor in core_ml[0].constants()}
    projections = [name for name, p in model.named_parameters() if p.ndim > 1 and name.endswith("weight")]
    assert len(projections) > 40
    assert {f"p_{name.replace('.', '_')}_to_fp16" for name in projections} <= held


def test_onnx_computes_the_model_and_names_its_tensors(model, tmp_path):
    component, feed, reference = component_and_feed(model, "batched")
    path = tmp_path / "transformer.onnx"
    emit_onnx.write(component, path)
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == [s.name for s in component.inputs]
    assert [list(d.dim_value for d in o.type.tensor_type.shape.dim) for o in graph.output] == [list(reference.shape)]
    session = onnxruntime.InferenceSession(str(path))
    assert decibels(reference, session.run(["velocity"], feed)[0]) >= 100
    assert {name for name, _ in model.named_parameters()} <= {tensor.name for tensor in graph.initializer}
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()  # no stack traces of this machine


def test_executorch_computes_the_model_inside_xnnpack(model, tmp_path):
    from executorch.runtime import Runtime

    component, feed, reference = component_and_feed(model, "batched")
    path = tmp_path / "transformer.pte"
    left = executorch.write(component, path)
    assert len(left) <= 8, left  # a handful of layout copies around the network, nothing inside it
    method = Runtime.get().load_program(str(path)).load_method("forward")
    (velocity,) = method.execute([torch.from_numpy(feed[spec.name]) for spec in component.inputs])
    assert decibels(reference, velocity) >= 80


def test_core_ml_packages_are_the_same_bytes_each_time(tmp_path):
    spec = TensorSpec("latent", (1, 4, 8, 8)), TensorSpec("image", (1, 2, 8, 8))
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)).eval()
    for name in ("once", "again"):
        coreml.write(Component("decoder", module, spec[:1], spec[1:], "split"), tmp_path / f"{name}.mlpackage")
    once, again = (tmp_path / f"{name}.mlpackage" for name in ("once", "again"))
    assert digest(once) == digest(again) and digest(once)[1] > 0
    assert [info.name for info in CoreMLProgram.load(once).outputs] == ["image"]
    coremltools.models.MLModel(str(once), skip_model_load=True)  # which writes the package's list of files again
    assert digest(once) == digest(again)
