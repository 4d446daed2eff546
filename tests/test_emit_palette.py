"""Quantized weights in artifacts: what is stored, what runtimes make of it, and that it computes the same network."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import decibels, random_inputs, scrambled, small_config
from torch import nn

from edgegen.emit import coreml, executorch, palette_onnx
from edgegen.emit import onnx as emit_onnx
from edgegen.errors import EdgegenError, InputError
from edgegen.model.blocks import timestep_features
from edgegen.model.dit import DiT
from edgegen.model.elastic import materialize
from edgegen.quantize.integers import round_to_nearest
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import palettize
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.runtime.executorch import open_executorch
from edgegen.runtime.onnx import open_onnx, session_options

TOKENS, LATENT = 7, (8, 8)
CONFIG = small_config(hidden=32, depths=(1, 2, 1), widths=(1.0,), grid=(4, 4))
BITS = (4, 8, 2, 1)  # in turn, weight by weight


def plain() -> DiT:
    return materialize(scrambled(CONFIG), 1.0)


def quantized(method: str = "palette", bits: tuple[int, ...] = BITS, int8: bool = True):
    """A model whose every projection and convolution is quantized, and its stored weights by name."""
    model, weights = plain(), {}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for number, (name, layer) in enumerate(layers):
        weight = layer.weight.detach()
        if method == "palette":
            made = palettize(weight, bits[number % len(bits)], int8)
        elif method == "int4-group" and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            made = round_to_nearest(weight, 4, 32)
        else:
            made = round_to_nearest(weight, 8)
        weights[f"{name}.weight"] = made
        layer.weight = nn.Parameter(made.dense(), requires_grad=False)
    return model, weights


def feed_of(model: DiT, form: Form) -> tuple[Component, dict[str, np.ndarray], np.ndarray]:
    """A component, inputs by name, and the velocity of the fake-quantized model."""
    latent, t, text, mask, pooled = random_inputs(CONFIG, batch=1, tokens=TOKENS)
    component = transformer_component(model, LATENT, TOKENS, form)
    with torch.no_grad():
        reference = model(latent, t, text, mask, pooled).numpy()
    tensors = (
        latent,
        timestep_features(t, CONFIG.time_features)[:, :, None, None],
        text.transpose(1, 2)[:, :, None],
        mask[:, :, None, None],
        pooled[:, :, None, None],
    )
    feed = {s.name: x.contiguous().numpy() for s, x in zip(component.inputs, tensors, strict=True)}
    return component, feed, reference


def run_core_ml(path: Path, component: Component, feed: dict) -> np.ndarray:
    dtypes = {spec.name: spec.dtype for spec in coreml.signature(component)[0]}
    return CoreMLProgram.load(path).run({n: x.astype(dtypes[n]) for n, x in feed.items()}, fp16=True)["velocity"]


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# Core ML


def test_core_ml_holds_one_table_a_weight_and_no_float_copy(tmp_path):
    """And is as large as the float16 package without those weights, plus indices and palettes, within 3 %."""
    model, weights = quantized()
    weights = {name: weights[name] for name in quantizable(model)}
    component, feed, reference = feed_of(model, Form("split"))
    path, dense = tmp_path / "transformer.mlpackage", tmp_path / "dense.mlpackage"
    coreml.write(component, path, "iOS17", weights)
    program = CoreMLProgram.load(path)
    assert program.operation_counts()["constexpr_lut_to_dense"] == len(weights) > 10
    constants = {constant.name for constant in program.constants()}
    tables = {info.name for op in program.operations() if op.type == "constexpr_lut_to_dense" for info in op.outputs}
    assert tables == {f"p_{name.replace('.', '_')}_to_fp16" for name in weights} and not tables & constants
    assert decibels(reference, run_core_ml(path, component, feed)) >= 45
    coreml.write(component, dense, "iOS17")
    elements = sum(np.prod(weight.shape) for weight in weights.values())
    expected = size_of(dense) - 2 * elements + sum(weight.nbytes for weight in weights.values())
    assert size_of(path) <= 1.03 * expected


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("palette", "iOS18", "constexpr_lut_to_dense"),
        ("int8", "iOS17", "constexpr_affine_dequantize"),
        ("int4-group", "iOS18", "constexpr_blockwise_shift_scale"),
    ],
)
def test_core_ml_computes_every_stored_form(method, target, operation, tmp_path):
    model, weights = quantized(method, bits=(3, 4, 6))
    component, feed, reference = feed_of(model, Form("split"))
    path = tmp_path / "transformer.mlpackage"
    coreml.write(component, path, target, weights)
    assert CoreMLProgram.load(path).operation_counts()[operation] > 0
    assert decibels(reference, run_core_ml(path, component, feed)) >= 45


def test_core_ml_refuses_what_a_release_cannot_hold(tmp_path):
    component = feed_of(plain(), Form("split"))[0]
    for method, bits, says in (("palette", (3,), "3 bits"), ("int4-group", (4,), "int4 groups")):
        with pytest.raises(InputError, match=says) as caught:
            coreml.write(component, tmp_path / "x.mlpackage", "iOS17", quantized(method, bits)[1])
        assert "iOS18" in caught.value.remedy
    assert not list(tmp_path.iterdir())


# ONNX


@pytest.mark.parametrize("method", ["palette", "int8", "int4-group"])
def test_onnx_weights_fuse_on_load_and_weigh_what_is_said(method, tmp_path):
    """Every product with a quantized weight becomes MatMulNBits, no float copy is folded, both activations hold."""
    model, weights = quantized(method)
    path, optimized = tmp_path / "transformer.onnx", tmp_path / "optimized.onnx"
    floors = {"float32": 60, "int8": 38}
    for activations, floor in floors.items():
        component, feed, reference = feed_of(model, Form("batched", operations="fused"))
        emit_onnx.write(component, path, weights, activations)
        assert session_options(onnx.load(str(path))) == palette_onnx.ACTIVATION_OPTIONS[activations]
        assert decibels(reference, open_onnx(path)(feed)["velocity"]) >= floor
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimized), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(optimized).graph
    counts = collections.Counter(node.op_type for node in graph.node)
    linears = sum(isinstance(m, nn.Linear) for m in component.module.modules())
    assert counts["MatMulNBits"] == linears > 20
    assert counts["Gather"] == counts["Cast"] == 0
    assert counts["DequantizeLinear"] == len(weights) - linears == counts["Conv"]
    held = sum(palette_onnx.tensor_bytes(tensor) for tensor in graph.initializer)
    assert 0 <= held - palette_onnx.resident_bytes(path) <= 8192  # shapes and such that ONNX Runtime adds


def test_onnx_file_holds_packed_indices(tmp_path):
    """1, 2, 4 and 8 bits take what they say; names are the checkpoint's."""
    model, weights = quantized()
    component = feed_of(model, Form("batched", operations="fused"))[0]
    path = tmp_path / "transformer.onnx"
    emit_onnx.write(component, path, weights)
    stored = {t.name: t for t in onnx.load(path).graph.initializer}
    for name, weight in weights.items():
        assert name not in stored
        tensor = stored[f"{name}.values" if weight.bits == 8 else f"{name}.indices"]
        assert len(tensor.raw_data) == weight.indices.numel()


def test_onnx_refuses_what_it_cannot_pack(tmp_path):
    component = feed_of(plain(), Form("batched", operations="fused"))[0]
    for bits, int8, says in (((3,), True, "3 bits"), ((6,), True, "6 bits"), ((4,), False, "float16 values")):
        with pytest.raises(InputError, match=says):
            emit_onnx.write(component, tmp_path / "x.onnx", quantized(bits=bits, int8=int8)[1])
    assert not list(tmp_path.iterdir())


# ExecuTorch


@pytest.mark.parametrize("method", ["palette", "int4-group"])
def test_executorch_multiplies_integers_inside_xnnpack(method, tmp_path):
    model, weights = quantized(method)
    component, feed, reference = feed_of(model, Form("batched"))
    path, dense = tmp_path / "transformer.pte", tmp_path / "dense.pte"
    exact = executorch.write(component, dense, weights, "float32")  # XNNPACK has no integer weights for these
    names = [spec.name for spec in component.inputs]
    assert decibels(reference, open_executorch(dense, names, ["velocity"])(feed)["velocity"]) >= 60
    left = executorch.write(component, path, weights, "int8")
    assert len(left) <= len(exact) <= 8
    assert decibels(reference, open_executorch(path, names, ["velocity"])(feed)["velocity"]) >= 38
    linear = sum(p.numel() for m in model.modules() if isinstance(m, nn.Linear) for p in [m.weight])
    assert path.stat().st_size < dense.stat().st_size - 2 * linear  # int8 where there was float32, less bookkeeping


def test_executorch_refuses_groups_without_a_kernel(tmp_path):
    model = plain()
    weights = {"down.0.ffn.up.weight": round_to_nearest(model.get_parameter("down.0.ffn.up.weight"), 4, 16)}
    with pytest.raises(InputError, match="groups of 16"):
        executorch.write(feed_of(model, Form("batched"))[0], tmp_path / "x.pte", weights, "int8")


def test_an_artifact_of_other_weights_is_refused(tmp_path):
    """Weights that are not those of the component are noticed before anything is written."""
    _, weights = quantized()
    with pytest.raises(EdgegenError, match="is not the quantized weight"):
        emit_onnx.write(feed_of(plain(), Form("batched", operations="fused"))[0], tmp_path / "x.onnx", weights)
    assert not list(tmp_path.iterdir())


def test_a_group_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="groups of 32 do not divide"):
        round_to_nearest(torch.randn(8, 48), 4, 32)
