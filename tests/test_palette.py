"""Palettes: packing, storing, int8 tables, weights that cannot be clustered."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from edgegen.errors import InputError
from edgegen.quantize.layers import LEAST, quantizable
from edgegen.quantize.palette import BITS, Palette, pack, palette_bytes, palettize, unpack


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BITS), st.integers(0, 70), st.integers(0, 1000))
def test_packing_is_a_little_endian_stream_of_bits(bits, count, seed):
    indices = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint8)
    packed = pack(torch.from_numpy(indices), bits)
    stream = np.unpackbits(indices[:, None], axis=1, count=bits, bitorder="little").reshape(-1)
    assert packed.numpy().tobytes() == np.packbits(stream, bitorder="little").tobytes()
    assert (unpack(packed, bits, count).numpy() == indices).all()


@pytest.mark.parametrize("bits", BITS)
def test_large_tensors_are_packed_in_pieces(bits):
    indices = torch.from_numpy(np.random.default_rng(0).integers(0, 2**bits, 2_500_001, dtype=np.uint8))
    assert torch.equal(unpack(pack(indices, bits), bits, indices.numel()), indices)


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_a_palette_survives_a_file(bits, int8, tmp_path):
    weight = normal(37, 11)
    palette = palettize(weight, bits, int8)
    save_file(palette.to_tensors("down.0.q.weight"), tmp_path / "x.safetensors")
    back = Palette.from_tensors("down.0.q.weight", load_file(tmp_path / "x.safetensors"), bits, (37, 11))
    assert torch.equal(back.dense(), palette.dense()) and back.scale == palette.scale
    assert palette.nbytes == back.nbytes == palette_bytes(weight.numel(), bits, int8)
    assert palette.indices.numel() == math.ceil(weight.numel() * bits / 8)
    assert palette.values.dtype == (torch.int8 if int8 else torch.float16)


def error(weight: torch.Tensor, palette: Palette) -> float:
    return float((palette.dense() - weight.half().float()).square().mean())


def test_error_falls_with_bits_and_int8_costs_little():
    weight = normal(256, 128)
    plain = [error(weight, palettize(weight, bits, int8=False)) for bits in BITS]
    snapped = [error(weight, palettize(weight, bits)) for bits in BITS]
    assert plain == sorted(plain, reverse=True) and snapped == sorted(snapped, reverse=True)
    losses = [10 * math.log10(s / p) for s, p in zip(snapped, plain, strict=True)]
    assert min(losses) >= 0 and losses[BITS.index(4)] < 0.05 and losses[BITS.index(6)] < 0.5


def test_int8_values_times_scale_are_the_table_exactly():
    palette = palettize(normal(64, 64), 4)
    table = palette.values.numpy().astype(np.float32) * np.float32(palette.scale)
    assert (palette.centroids().numpy() == table).all()
    assert (np.diff(palette.values.numpy()) >= 0).all() and np.abs(palette.values.numpy()).max() <= 127


def test_every_element_takes_its_nearest_value():
    weight = normal(50, 40)
    for int8 in (True, False):
        palette = palettize(weight, 3, int8)
        nearest = (weight.half().float()[..., None] - palette.centroids()).abs().min(-1).values
        assert torch.allclose((palette.dense() - weight.half().float()).abs(), nearest, atol=1e-7)


@pytest.mark.parametrize("int8", [True, False])
def test_few_values_pad_the_palette(int8):
    for weight in (torch.full((40, 60), 0.25), torch.zeros(40, 60), torch.tensor([[0.5, -0.25, 1.0]] * 9)):
        palette = palettize(weight, 4, int8)
        assert palette.values.numel() == 16
        assert torch.allclose(palette.dense(), weight, rtol=5e-3, atol=1e-6)
        assert int8 or torch.equal(palette.dense(), weight)


def test_what_cannot_be_clustered_is_refused_by_name():
    for bad, word in ((float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (1e6, "fp16 ends at")):
        weight = normal(8, 8)
        weight[3, 3] = bad
        with pytest.raises(InputError, match=f"up.1.ffn.up.weight.*{word}"):
            palettize(weight, 4, name="up.1.ffn.up.weight")
    with pytest.raises(InputError, match="patch.weight is empty"):
        palettize(torch.empty(0, 3), 4, name="patch.weight")
    with pytest.raises(InputError, match="5 bits is none of 1, 2, 3, 4, 6, 8"):
        palettize(normal(8, 8), 5)


def test_importance_per_input_channel_lowers_the_error_there():
    weight, importance = normal(200, 64), torch.ones(64)
    importance[:8] = 1000
    plain, weighted = palettize(weight, 3, False), palettize(weight, 3, False, importance)
    assert error(weight[:, :8], sliced(weighted, 8)) < error(weight[:, :8], sliced(plain, 8))
    assert error(weight, weighted) > error(weight, plain)
    uniform = palettize(weight, 3, False, torch.full((64,), 7.0))
    assert torch.equal(uniform.dense(), plain.dense())


def sliced(palette: Palette, columns: int) -> Palette:
    """The first columns of a palettized matrix."""
    kept = palette.unpack_indices()[:, :columns]
    return Palette(palette.values, palette.scale, pack(kept, palette.bits), palette.bits, tuple(kept.shape))


def test_an_importance_that_cannot_weigh_is_refused():
    weight = normal(8, 4)
    for bad in (torch.zeros(4), torch.tensor([1.0, -1, 1, 1]), torch.tensor([1.0, float("nan"), 1, 1])):
        with pytest.raises(InputError, match="importance"):
            palettize(weight, 2, importance=bad)
    with pytest.raises(InputError, match=r"\(3,\) does not broadcast to q.weight \(8, 4\)"):
        palettize(weight, 2, importance=torch.ones(3), name="q.weight")


def test_damaged_files_are_refused_by_name():
    stored = palettize(normal(10, 10), 4).to_tensors("a.weight")
    with pytest.raises(InputError, match="a.weight has no indices"):
        Palette.from_tensors("a.weight", {k: v for k, v in stored.items() if "indices" not in k}, 4, (10, 10))
    with pytest.raises(InputError, match="a.weight.palette"):
        Palette.from_tensors("a.weight", stored, 3, (10, 10))
    with pytest.raises(InputError, match="a.weight.indices"):
        Palette.from_tensors("a.weight", stored, 4, (10, 11))
    with pytest.raises(InputError, match="not finite"):
        Palette.from_tensors("a.weight", stored | {"a.weight.scale": torch.tensor(float("nan"))}, 4, (10, 10))


def test_large_linear_and_convolution_weights_are_quantizable():
    model = nn.Sequential(
        nn.Linear(64, 32), nn.Linear(63, 32), nn.LayerNorm(4096), nn.Conv2d(64, 32, 2, groups=2), nn.Embedding(100, 100)
    )
    found = quantizable(model)
    assert list(found) == ["0.weight", "3.weight"] and found["0.weight"].numel() == LEAST
    assert list(quantizable(model, least=1)) == ["0.weight", "1.weight", "3.weight"]
