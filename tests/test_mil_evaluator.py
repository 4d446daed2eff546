"""The MIL evaluator as a whole: rounding, ranges, refusals, reading, and networks against PyTorch."""

import math

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil.frontend.milproto.load import load as load_milproto
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from mil_packages import IOS17, evaluate, integers, normal, psnr, save
from torch import nn

from edgegen.errors import EdgegenError, InputError
from edgegen.runtime import coreml, mil_ops
from edgegen.runtime.coreml import CoreMLProgram

# --- rounding and range --------------------------------------------------------------------------------------------


def two_steps(x):
    third = mb.mul(x=x, y=np.float16(1 / 3), name="third")
    return {"y": mb.mul(x=third, y=np.float16(3.0), name="back")}


def test_every_result_is_rounded_to_fp16(tmp_path):
    x = np.arange(1, 101, dtype=np.float16)
    program = CoreMLProgram.load(save(tmp_path / "a.mlpackage", {"x": x}, two_steps))
    rounded, kept = program.run({"x": x})["y"], program.run({"x": x}, fp16=False)["y"]
    assert rounded.dtype == np.float16 and kept.dtype == np.float32
    third = (x.astype(np.float32) * np.float32(np.float16(1 / 3))).astype(np.float16)
    np.testing.assert_array_equal(rounded, (third.astype(np.float32) * 3).astype(np.float16))
    np.testing.assert_array_equal(kept, x.astype(np.float32) * np.float32(np.float16(1 / 3)) * 3)
    assert (rounded.astype(np.float32) != kept).mean() > 0.5


def test_fp16_casts_round_only_with_fp16(tmp_path):
    x = normal(50)
    build = lambda x: {"y": mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32")}  # noqa: E731
    program = CoreMLProgram.load(save(tmp_path / "a.mlpackage", {"x": x}, build))
    np.testing.assert_array_equal(program.run({"x": x})["y"], x.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(program.run({"x": x}, fp16=False)["y"], x)


def overflowing(x):
    scaled = mb.mul(x=x, y=np.float16(300.0), name="scaled")
    square = mb.square(x=scaled, name="squared")
    return {"y": mb.sub(x=square, y=square, name="gone")}


def test_overflow_is_infinite_and_named(tmp_path):
    x = np.array([0.5, 1.0, 2.0], np.float16)
    program = CoreMLProgram.load(save(tmp_path / "a.mlpackage", {"x": x}, overflowing))
    report = program.ranges({"x": x})
    assert report.first_nonfinite == "squared"
    assert report.max_abs["scaled"] == 600.0
    assert report.max_abs["squared"] == 360000.0  # before rounding: by how much it is too large
    assert list(report.above()) == ["squared", "y"]  # y is inf - inf
    assert "squared" in report.summary() and "square" in report.summary()
    np.testing.assert_array_equal(report.outputs["y"], np.array([0, np.nan, np.nan], np.float16))

    report = program.ranges({"x": x}, fp16=False)
    assert report.first_nonfinite is None and report.above() == {"squared": 360000.0}
    np.testing.assert_array_equal(report.outputs["y"], np.zeros(3, np.float32))


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_package(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.mlpackage"
    inputs = {"x": normal(2, 3), "i": integers(0, 3, 2)}
    return save(path, inputs, lambda x, i: {"y": mb.gather(x=mb.relu(x=x, name="kept"), indices=i, axis=1)})


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"x": normal(2, 3)}, ["'i'", "missing", "int32", "(2,)"]),
        ({"x": normal(3, 2), "i": integers(0, 3, 2)}, ["'x'", "(3, 2)", "(2, 3)"]),
        ({"x": normal(2), "i": integers(0, 3, 2)}, ["'x'", "(2,)", "(2, 3)"]),
        ({"x": normal(2, 3), "i": np.zeros(2, np.int64)}, ["'i'", "int64", "int32"]),
        ({"x": normal(2, 3).astype(np.float64), "i": integers(0, 3, 2)}, ["'x'", "float64", "float32"]),
        ({"x": normal(2, 3), "i": integers(0, 3, 2), "z": normal(1)}, ["'z'", "x, i"]),
    ],
)
def test_bad_feed_is_named(small_package, feed, words):
    with pytest.raises(InputError) as caught:
        CoreMLProgram.load(small_package).run(feed)
    assert all(word in str(caught.value) for word in words)


def test_index_out_of_range_names_the_operation(small_package):
    with pytest.raises(coreml.EvaluationError, match="gather"):
        CoreMLProgram.load(small_package).run({"x": normal(2, 3), "i": np.array([0, 7], np.int32)})


def test_unknown_operation_is_named(small_package, monkeypatch):
    monkeypatch.delitem(mil_ops.OPERATIONS, "relu")
    program = CoreMLProgram.load(small_package)
    assert program.operation_counts() == {"relu": 1, "gather": 1}  # a linter can still read it
    with pytest.raises(coreml.UnsupportedOperationError, match="relu 'kept'.*mil_ops") as caught:
        program.run({"x": normal(2, 3), "i": integers(0, 3, 2)})
    assert isinstance(caught.value, EdgegenError)


def test_operation_without_implementation_is_named(tmp_path):
    x = normal(1, 2, 4, 4)
    matrix = np.array([[1, 0, 0, 0, 1, 0]], np.float32)
    settings = {
        "output_height": 4, "output_width": 4, "sampling_mode": "bilinear", "padding_mode": "constant",
        "padding_value": 0.0, "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True,
    }  # fmt: skip
    build = lambda x: {"y": mb.affine(x=x, transform_matrix=matrix, **settings)}  # noqa: E731
    with pytest.raises(coreml.UnsupportedOperationError, match="affine"):
        evaluate(tmp_path / "a.mlpackage", {"x": x}, build)


def test_wrong_declaration_is_caught(small_package, monkeypatch):
    """A result of another shape than the program declares is an error of the evaluator or of the file."""
    wrong = mil_ops.Implementation(("x",), lambda call: lambda x: x[:1], exact=True)
    monkeypatch.setitem(mil_ops.OPERATIONS, "relu", wrong)
    with pytest.raises(coreml.EvaluationError, match=r"relu 'kept' gave shape \(1, 3\).*declares \(2, 3\)"):
        CoreMLProgram.load(small_package).run({"x": normal(2, 3), "i": integers(0, 3, 2)})


def test_missing_and_damaged_packages(small_package, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        CoreMLProgram.load(tmp_path / "nothing.mlpackage")
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(InputError, match="empty.mlpackage"):
        CoreMLProgram.load(tmp_path / "empty.mlpackage")
    with pytest.raises(InputError, match="no function 'other'"):
        CoreMLProgram.load(small_package, function="other")


def test_lost_weights_are_named(tmp_path):
    path = tmp_path / "a.mlpackage"
    save(path, {"x": normal(1, 64)}, lambda x: {"y": mb.linear(x=x, weight=normal(64, 64))})
    (path / "Data/com.apple.CoreML/weights/weight.bin").unlink()
    with pytest.raises(InputError, match="weight.bin is missing"):
        CoreMLProgram.load(path).run({"x": normal(1, 64)})


# --- whole networks ------------------------------------------------------------------------------------------------


class SmallNet(nn.Module):
    """Convolution, group norm, per-head split einsums, layer norm, an MLP, resizing and a transposed convolution."""

    def __init__(self, width: int = 64, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.stem = nn.Conv2d(4, width, 3, 2, 1)
        self.group = nn.GroupNorm(8, width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(16, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.up = nn.ConvTranspose2d(width, 8, 4, 2, 1)
        self.out = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x, t):
        h = F.silu(self.group(self.stem(x)))  # (n, C, H, W)
        n, c, height, width = h.shape
        q, k, v = (f(h).reshape(n, c, 1, height * width) for f in (self.q, self.k, self.v))  # (n, C, 1, S)
        size, parts = c // self.heads, []
        for i in range(self.heads):
            head = slice(i * size, (i + 1) * size)
            keys = k[:, head].transpose(1, 3)  # (n, S, 1, D)
            scores = torch.einsum("bchq,bkhc->bkhq", q[:, head], keys) * size**-0.5
            parts.append(torch.einsum("bkhq,bchk->bchq", scores.softmax(1), v[:, head]))
        h = h + torch.cat(parts, 1).reshape(n, c, height, width)
        scale, shift = self.modulation(t).chunk(2, -1)
        y = self.norm(h.permute(0, 2, 3, 1)) * (1 + scale[:, None, None]) + shift[:, None, None]
        h = self.depthwise(h + self.mlp(y).permute(0, 3, 1, 2))
        h = self.up(F.interpolate(h, scale_factor=2, mode="nearest"))
        h = F.interpolate(h, size=(24, 24), mode="bilinear", align_corners=False)
        return F.pixel_shuffle(self.out(h), 2).clamp(-1, 1), h.flatten(1).norm(dim=1)


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    net = SmallNet().eval()
    args = (torch.randn(2, 4, 16, 16), torch.randn(2, 16))
    with torch.no_grad():
        reference = [y.numpy() for y in net(*args)]
    program = torch.export.export(net, args).run_decompositions({})
    return program, [a.numpy() for a in args], reference


@pytest.mark.parametrize(
    ("precision", "fp16", "floor"),
    [(ct.precision.FLOAT32, True, 100), (ct.precision.FLOAT16, True, 50), (ct.precision.FLOAT16, False, 60)],
    ids=["fp32", "fp16", "fp16 without rounding"],
)
def test_network_matches_torch(exported, precision, fp16, floor, tmp_path):
    source, args, reference = exported
    model = ct.convert(source, minimum_deployment_target=IOS17, compute_precision=precision, skip_model_load=True)
    model.save(str(tmp_path / "net.mlpackage"))
    program = CoreMLProgram.load(tmp_path / "net.mlpackage")
    outputs = program.run({info.name: a for info, a in zip(program.inputs, args, strict=True)}, fp16=fp16)
    assert program.operation_counts()["einsum"] == 8  # split attention stays einsums
    for info, expected in zip(program.outputs, reference, strict=True):
        assert psnr(expected, outputs[info.name]) >= floor


class Assortment(nn.Module):
    """What text encoders, transformers and decoders do besides: one output for each habit."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1)
        self.pools = nn.ModuleList([nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 2, 1)])
        self.norms = nn.ModuleList([nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4)])

    def forward(self, ids, image):  # (2, 7) int32, (1, 4, 12, 10)
        x = self.embedding(ids)  # (2, 7, 16)
        distance = (torch.arange(7)[:, None] - torch.arange(7)[None]).abs()
        far = 4 + (torch.log(distance.float() / 4 + 1e-6) / math.log(32) * 4).long().clamp(max=7)
        buckets = torch.where(distance < 4, distance, far)  # T5's relative positions
        pooled = x[torch.arange(2), ids.argmax(-1)]  # CLIP's
        assigned = x.clone()
        assigned[:, 1:3] = x[:, 2:4] * 2
        rotated = torch.stack([x[..., ::2], -x[..., 1::2]], -1).flatten(-2)
        causal = F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)
        masked = x.masked_fill(x > 0, -1e4).softmax(-1)
        return (
            self.embedding(buckets).permute(2, 0, 1) + 0 * x[0].mean(), pooled, assigned, rotated, causal, masked,
            self.attention(x, x, x, need_weights=False)[0], self.up(image), *[m(image) for m in self.pools],
            *[m(image) for m in self.norms], F.interpolate(image, size=(17, 9), mode="bilinear"),
            F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=True),
            torch.roll(image, (1, -2), (2, 3)), F.pad(image, (1, 2, 3, 1), mode="reflect"),
            F.pixel_unshuffle(image, 2), F.normalize(image, dim=1),
            x.topk(3, -1)[0], x.cumsum(1), x.var(-1), x.repeat_interleave(3, 1), F.glu(x, -1),
            torch.tril(image), x.logsumexp(-1), torch.remainder(x, 0.7), image.flip(2, 3),
            F.unfold(image, 3, padding=1),
        )  # fmt: skip


@pytest.mark.parametrize("target", [IOS17, ct.target.iOS18], ids=["iOS17", "iOS18"])
def test_exported_habits_match_torch(target, tmp_path):
    torch.manual_seed(0)
    net = Assortment().eval()
    args = (torch.randint(0, 32, (2, 7), dtype=torch.int32), torch.randn(1, 4, 12, 10))
    with torch.no_grad():
        reference = [y.numpy() for y in net(*args)]
    source = torch.export.export(net, args).run_decompositions({})
    settings = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
    ct.convert(source, minimum_deployment_target=target, **settings).save(str(tmp_path / "net.mlpackage"))
    program = CoreMLProgram.load(tmp_path / "net.mlpackage")
    outputs = program.run({info.name: a.numpy() for info, a in zip(program.inputs, args, strict=True)})
    for info, expected in zip(program.outputs, reference, strict=True):
        assert psnr(expected, outputs[info.name]) >= 110, info.name


def test_reading_agrees_with_coremltools(exported, tmp_path):
    """Operations, shapes, dtypes and constants are those that coremltools' own reader finds in the same package."""
    model = ct.convert(exported[0], minimum_deployment_target=IOS17, skip_model_load=True)
    path = str(tmp_path / "net.mlpackage")
    model.save(path)
    spec, folder = model.get_spec(), ct.models.MLModel(path, skip_model_load=True).weights_dir
    loaded = load_milproto(spec, spec.specificationVersion, file_weights_dir=folder)
    theirs = [op for op in loaded.functions["main"].operations if op.op_type != "const"]
    program = CoreMLProgram.load(path)
    mine = list(program.operations())
    assert [op.op_type for op in theirs] == [op.type for op in mine]
    for their, my in zip(theirs, mine, strict=True):
        assert [v.name for v in their.outputs] == [info.name for info in my.outputs]
        assert [tuple(v.shape) for v in their.outputs] == [info.shape for info in my.outputs]
        assert [types.builtin_to_string(v.dtype) for v in their.outputs] == [
            info.dtype.replace("float", "fp") for info in my.outputs
        ]
        for parameter in my.constants:
            np.testing.assert_array_equal(my.value(parameter), their.inputs[parameter].val)


def test_weights_are_decoded_late_and_tensors_dropped(tmp_path):
    """A chain of wide layers never holds more than a few of its weights and activations at once."""
    layers, width = 12, 256
    weights = [normal(width, width).astype(np.float16) / 16 for _ in range(layers)]
    x = normal(4, width).astype(np.float16)

    def build(x):
        for w in weights:
            x = mb.linear(x=x, weight=w)
        return {"y": x}

    program = CoreMLProgram.load(save(tmp_path / "chain.mlpackage", {"x": x}, build))
    schedule, held = program._schedule, []
    live: set[int] = {slot for slot, value in enumerate(schedule._resident) if value is not None}
    for step in schedule._steps:
        live |= {output.slot for output in step.outputs}
        held.append(len(live))
        live -= set(step.free)
    assert max(held) <= 3 + len([v for v in schedule._resident if v is not None])
    expected = x.astype(np.float64)
    for w in weights:
        expected = expected @ w.astype(np.float64).T
    assert psnr(expected, program.run({"x": x})["y"]) > 55
    assert set(program.ranges({"x": x}).types.values()) == {"linear"}  # weights are not activations
