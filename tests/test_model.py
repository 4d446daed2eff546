"""The network as trained: sizes, elastic widths, masks, the sampler."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import decibels, random_inputs, scrambled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.errors import InputError
from edgegen.model.attention import attend, block_bias, rope_angles, rotate
from edgegen.model.config import PAPER, PRESETS, DiTConfig, ladder
from edgegen.model.dit import DiT
from edgegen.model.elastic import (
    ElasticDiT,
    elastic_state,
    load_elastic_,
    materialize,
    materialize_state,
    slice_parameter,
)
from edgegen.model.sampler import euler, flow_sigmas


@pytest.mark.parametrize(("width", "millions"), [(0.375, 266.6), (0.5, 437.4), (1.0, 1604.7)])
def test_paper_preset_has_the_published_sizes(width, millions):
    """Table 2 of the paper counts the transformer and the two projections of its text encoders (512 and 2560 wide)."""
    with torch.device("meta"):
        transformer = DiT(PAPER.at(width))
    text = sum(source * PAPER.text_dim + PAPER.text_dim for source in (512, 2560))
    count = sum(p.numel() for p in transformer.parameters()) + text
    assert round(count / 1e6, 1) == millions


def test_ladder_moves_layers_and_keeps_their_number():
    assert [ladder(step).depths for step in "ABCD"] == [(28,), (6, 14, 8), (6, 14, 8), (8, 10, 10)]
    assert [ladder(step).kv_heads for step in "ABCD"] == [1, 1, 1, 16]
    with pytest.raises(InputError, match="'E'"):
        ladder("E")


@settings(max_examples=12, deadline=None)
@given(
    head_dim=st.sampled_from([4, 8, 12]),
    depths=st.tuples(*[st.integers(1, 3)] * 3),
    blocks=st.sampled_from([1, 2, 4]),
    radius=st.integers(0, 2),
    queries_per_kv=st.sampled_from([0, 1, 2]),
    skips=st.booleans(),
    sparse=st.booleans(),
    pooled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_materialized_width_equals_the_elastic_model_to_the_bit(
    head_dim, depths, blocks, radius, queries_per_kv, skips, sparse, pooled, seed
):
    config = small_config(
        hidden=8 * head_dim,
        head_dim=head_dim,
        depths=depths,
        blocks=blocks,
        radius=radius,
        queries_per_kv=queries_per_kv,
        long_skips=skips,
        sparse=sparse,
        pooled_text=pooled,
        widths=(0.25, 0.5, 1.0),
    )
    model, inputs = scrambled(config, seed), random_inputs(config, seed=seed)
    outputs = []
    for width in config.widths:
        outputs.append(model(width, *inputs))
        assert torch.equal(materialize(model, width)(*inputs), outputs[-1])
        state = materialize_state(elastic_state(model), config, width)
        plain = DiT(config.at(width))
        plain.load_state_dict(state)
        assert torch.equal(plain(*inputs), outputs[-1])
    assert not torch.equal(outputs[0], outputs[-1])


def test_concatenated_inputs_are_sliced_part_by_part():
    full = torch.arange(8.0).repeat(4, 1)  # two parts of four columns
    assert slice_parameter("middle.2.skip.weight", full, torch.Size([2, 4]))[0].tolist() == [0, 1, 4, 5]
    assert slice_parameter("down.0.ffn.up.weight", full, torch.Size([2, 4]))[0].tolist() == [0, 1, 2, 3]


def test_a_sub_width_depends_only_on_its_slice():
    """Changing the weights a narrow model does not use changes the full model and not the narrow one."""
    config = small_config()
    model, inputs = scrambled(config), random_inputs(config)
    narrow, full = model(0.5, *inputs), model(1.0, *inputs)
    with torch.no_grad():
        model.full.middle[0].ffn.up.weight[-1].add_(1.0)
        model.full.middle[2].skip.weight[:, -1].add_(1.0)
    assert torch.equal(model(0.5, *inputs), narrow)
    assert not torch.equal(model(1.0, *inputs), full)


def test_supernet_survives_its_checkpoint_names():
    config = small_config()
    model, other, inputs = scrambled(config, 1), ElasticDiT(config, 2), random_inputs(config)
    state = {name: tensor.clone() for name, tensor in elastic_state(model).items()}
    assert "down.0.attn.norm_q.weight@0.5" in state and "down.0.attn.q.weight@0.5" not in state
    load_elastic_(other, state)
    assert torch.equal(other(0.5, *inputs), model(0.5, *inputs))
    del state["down.0.attn.q.weight"]
    with pytest.raises(InputError, match=r"down\.0\.attn\.q\.weight"):
        load_elastic_(other, state)


def test_padding_tokens_do_not_change_the_output():
    config = small_config()
    model = materialize(scrambled(config), 1.0)
    latent, t, text, mask, pooled = random_inputs(config)
    real = int(mask[0].sum())
    padded = text.clone()
    padded[:, real:] = 100.0
    short = model(latent, t, text[:, :real], mask[:, :real], pooled)
    assert decibels(short, model(latent, t, padded, mask, pooled)) > 110


def test_bna_reads_its_neighbours_and_nothing_else():
    allowed = block_bias(tokens=16, blocks=8, radius=1)[0, 0] == 0
    assert allowed[0].nonzero().flatten().tolist() == [0, 1, 2, 3]  # clipped at the start
    assert allowed[6].nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9]
    assert allowed[15].nonzero().flatten().tolist() == [12, 13, 14, 15]
    assert block_bias(16, 8, 7).abs().sum() == 0


@pytest.mark.parametrize("tokens", [3, 1100])  # the plain products and the fused kernel
def test_grouped_attention_equals_attention_over_repeated_keys(tokens):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, tokens, 8, generator=g) for h in (4, 2, 2))
    wide = [x[:, [0, 0, 1, 1]] for x in (k, v)]
    expected = (q @ wide[0].transpose(-1, -2) / 8**0.5).softmax(-1) @ wide[1]
    assert decibels(expected, attend(q, k, v)) > 110


@given(st.integers(0, 9), st.integers(0, 9), st.integers(-3, 3), st.integers(-3, 3))
def test_rotary_scores_depend_on_relative_positions(row, column, down, right):
    """Moving a query and a key together leaves their score as it was."""
    angles = rope_angles((16, 16), 8, 100.0).view(16, 16, 4)
    q, k = torch.linspace(-1, 1, 8), torch.linspace(0.5, -2, 8)

    def score(at: tuple[int, int], to: tuple[int, int]) -> float:
        a, b = (rotate(x[None, None, None], angles[p][None]) for x, p in ((q, at), (k, to)))
        return float((a * b).sum())

    moved = score((3 + down, 3 + right), (row + 3 + down, column + 3 + right))
    assert moved == pytest.approx(score((3, 3), (row + 3, column + 3)), abs=1e-4)


def test_four_steps_at_shift_three_are_the_papers():
    assert flow_sigmas(4, 3.0) == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_euler_is_exact_on_a_straight_path():
    """With one picture in the world the velocity is (x - x0) / sigma and every number of steps ends at x0."""
    x0, noise = np.full((1, 2, 2, 2), 0.3, np.float32), np.random.default_rng(0).normal(size=(1, 2, 2, 2))
    for steps in (1, 3, 7):
        *_, (last, predicted) = euler(lambda x, sigma: (x - x0) / sigma, noise, flow_sigmas(steps, 2.0))
        assert np.allclose(last, x0, atol=1e-5) and np.allclose(predicted, x0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(widths=(0.3, 1.0)), "2.4 heads"),
        (dict(head_dim=6), "multiple of 4"),
        (dict(blocks=7), "8x8 tokens does not fit"),
        (dict(grid=(7, 8)), "nearest that fits is 8x8"),
        (dict(depths=(1, 2)), "1 or 3 entries"),
        (dict(cross_kv_heads=3), "cross_kv_heads 3"),
    ],
)
def test_impossible_shapes_are_refused_with_their_reason(changes, message):
    with pytest.raises(InputError, match=message):
        small_config(**changes)


def test_unknown_setting_is_named():
    with pytest.raises(InputError, match="hiden"):
        DiTConfig.from_dict({"hiden": 3})
    assert DiTConfig.from_dict(PRESETS["emoji"].to_dict()) == PRESETS["emoji"]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 6, 16]))
def test_nearest_grid_fits_and_a_fitting_grid_is_its_own(rows, columns, blocks):
    config = replace(PAPER, blocks=blocks, grid=(blocks * 4, 4))
    near = config.nearest_grid((rows, columns))
    assert config.fits(near)
    assert (near == (rows, columns)) == config.fits((rows, columns))
