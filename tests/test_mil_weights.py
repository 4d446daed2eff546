"""Compressed weights: what the MIL evaluator decompresses is what coremltools decompresses, bit for bit."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.optimize import coreml as cto
from mil_packages import IOS17, IOS18, rng, save

from edgegen.runtime.coreml import CoreMLProgram
from edgegen.runtime.mil_file import unpack_bits


def weight_model(path, target) -> str:
    """A package whose outputs are its two weights, of a linear (64, 48) and a 1x1 convolution (32, 64)."""
    local = np.random.default_rng(7)
    linear = local.standard_normal((64, 48)).astype(np.float16)
    conv = local.standard_normal((32, 64, 1, 1)).astype(np.float16)
    inputs = {"x": np.eye(48, dtype=np.float16), "z": np.eye(64, dtype=np.float16).reshape(1, 64, 1, 64)}
    return save(
        path,
        inputs,
        lambda x, z: {
            "linear": mb.linear(x=x, weight=linear),
            "conv": mb.conv(x=z, weight=conv, pad_type="valid"),
        },
        target,
    )


def stored_weights(path, fp16: bool) -> tuple[np.ndarray, np.ndarray]:
    """The weights as the evaluator decompresses them: the identity times each."""
    feed = {"x": np.eye(48, dtype=np.float16), "z": np.eye(64, dtype=np.float16).reshape(1, 64, 1, 64)}
    outputs = CoreMLProgram.load(path).run(feed, fp16=fp16)
    return outputs["linear"].T, outputs["conv"].reshape(32, 64)


def coremltools_weights(model) -> tuple[np.ndarray, np.ndarray]:
    """The same weights as coremltools decompresses them."""
    dense = cto.decompress_weights(model)
    found = {tuple(w.val.shape): w.val for w in cto.get_weights_metadata(dense, weight_threshold=0).values()}
    return found[(64, 48)], found[(32, 64, 1, 1)].reshape(32, 64)


def palettize(**settings):
    config = cto.OpPalettizerConfig(weight_threshold=0, **settings)
    return lambda model: cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))


def quantize(**settings):
    config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0, **settings)
    return lambda model: cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))


def affine(model):
    config = cto.OpLinearQuantizerConfig(mode="linear", dtype="int8", weight_threshold=0)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))


def prune(then=None, **joint):
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=0)

    def apply(model):
        model = cto.prune_weights(model, cto.OptimizationConfig(global_config=config))
        if then is None:
            return model
        kind, settings = then
        optimization = cto.OptimizationConfig(global_config=kind(weight_threshold=0, **settings))
        function = cto.palettize_weights if kind is cto.OpPalettizerConfig else cto.linear_quantize_weights
        return function(model, optimization, joint_compression=True)

    return apply


COMPRESSIONS = [
    *[(f"lut{bits}", IOS17, palettize(nbits=bits, mode="uniform"), {"constexpr_lut_to_dense"})
      for bits in (1, 2, 4, 6, 8)],
    ("lut4 kmeans", IOS17, palettize(nbits=4, mode="kmeans"), {"constexpr_lut_to_dense"}),
    ("affine int8", IOS17, affine, {"constexpr_affine_dequantize"}),
    ("symmetric int8", IOS17, quantize(dtype="int8"), {"constexpr_affine_dequantize"}),
    ("sparse", IOS17, prune(), {"constexpr_sparse_to_dense"}),
    *[(f"ios18 lut{bits}", IOS18, palettize(nbits=bits, mode="uniform"), {"constexpr_lut_to_dense"})
      for bits in (1, 2, 3, 4, 6, 8)],
    ("ios18 grouped lut", IOS18,
     palettize(nbits=4, mode="uniform", granularity="per_grouped_channel", group_size=8), {"constexpr_lut_to_dense"}),
    ("ios18 lut with scale", IOS18,
     palettize(nbits=4, mode="kmeans", enable_per_channel_scale=True, granularity="per_grouped_channel", group_size=8),
     {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"}),
    ("ios18 vector lut", IOS18, palettize(nbits=4, mode="kmeans", cluster_dim=2), {"constexpr_lut_to_dense"}),
    ("ios18 int4 blocks", IOS18, quantize(dtype="int4", granularity="per_block", block_size=16),
     {"constexpr_blockwise_shift_scale"}),
    ("ios18 int8 channels", IOS18, quantize(dtype="int8", granularity="per_channel"),
     {"constexpr_blockwise_shift_scale"}),
    ("ios18 uint4", IOS18, quantize(dtype="uint4", granularity="per_channel"), {"constexpr_blockwise_shift_scale"}),
    ("ios18 sparse", IOS18, prune(), {"constexpr_sparse_to_dense"}),
    ("ios18 sparse lut", IOS18, prune((cto.OpPalettizerConfig, {"nbits": 4, "mode": "uniform"})),
     {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"}),
    ("ios18 sparse int8", IOS18, prune((cto.OpLinearQuantizerConfig, {"mode": "linear_symmetric", "dtype": "int8"})),
     {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def weight_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    paths = {target: weight_model(folder / f"{target.name}.mlpackage", target) for target in (IOS17, IOS18)}
    return {target: ct.models.MLModel(path, skip_model_load=True) for target, path in paths.items()}


@pytest.mark.parametrize(
    ("target", "compress", "operations"), [c[1:] for c in COMPRESSIONS], ids=[c[0] for c in COMPRESSIONS]
)
def test_compressed_weights_match_coremltools(target, compress, operations, weight_models, tmp_path):
    model = compress(weight_models[target])
    path = str(tmp_path / "compressed.mlpackage")
    model.save(path)
    assert operations <= set(CoreMLProgram.load(path).operation_counts())
    for mine, theirs in zip(stored_weights(path, fp16=True), coremltools_weights(model), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_unrounded_dequantisation_differs_from_fp16(weight_models, tmp_path):
    """scale * code has more digits than fp16: only the fp16 run rounds it."""
    path = str(tmp_path / "int8.mlpackage")
    affine(weight_models[IOS17]).save(path)
    rounded, exact = stored_weights(path, fp16=True)[0], stored_weights(path, fp16=False)[0]
    assert exact.dtype == np.float32 and rounded.dtype == np.float16
    assert (rounded.astype(np.float32) != exact).any()
    np.testing.assert_array_equal(rounded, exact.astype(np.float16))


def test_packed_integers_match_bit_arithmetic():
    """Values of every width come back from a bit string written least significant bit first."""
    for bits in (1, 2, 3, 4, 6, 8):
        for count in (1, 7, 8, 29):
            values = rng.integers(0, 2**bits, count)
            text = "".join(format(v, f"0{bits}b")[::-1] for v in values)
            packed = np.array([int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)], np.uint8)
            np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)
