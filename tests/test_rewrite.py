"""Both deployable forms equal the trained model, over ladder steps, widths, batches, grids and text lengths."""

from dataclasses import replace

import pytest
import torch
from conftest import decibels, random_inputs, scrambled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.errors import InputError
from edgegen.model.attention import block_bias
from edgegen.model.autoencoder import AutoencoderConfig, Decoder
from edgegen.model.blocks import timestep_features
from edgegen.model.config import ladder
from edgegen.model.dit import DiT
from edgegen.model.elastic import materialize
from edgegen.model.text import EncoderConfig, TextConfig, TextEncoders
from edgegen.rewrite.bna import block_groups
from edgegen.rewrite.build import decoder_component, text_component, transformer_component
from edgegen.rewrite.component import Form
from edgegen.rewrite.dit import DeployedDiT

FORMS = (
    *(Form("split", operations=operations) for operations in ("composed", "joined", "grouped")),
    *(Form("batched", operations=operations) for operations in ("composed", "fused")),
)
FLOOR_DB = 100.0


def deployed_inputs(config, latent, t, text, mask, pooled):
    """The same inputs in the component's layout."""
    inputs = [
        latent,
        timestep_features(t, config.time_features)[:, :, None, None],
        text.transpose(1, 2)[:, :, None],
        mask[:, :, None, None],
    ]
    return inputs if pooled is None else [*inputs, pooled[:, :, None, None]]


def parity(model: DiT, form: Form, inputs) -> float:
    """PSNR in dB of a form against the trained model on inputs of any batch and grid."""
    deployed = DeployedDiT(model, tuple(inputs[0].shape[-2:]), form)
    with torch.no_grad():
        return decibels(model(*inputs), deployed(*deployed_inputs(model.config, *inputs)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", "ABCD")
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_ladder_steps_and_widths(step, width, form):
    config = ladder(step, small_config(depths=(2, 3, 2)))
    model = materialize(scrambled(config), width)
    assert parity(model, form, random_inputs(config, batch=2)) >= FLOOR_DB


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    batch=st.sampled_from([1, 2]),
    rows=st.sampled_from([2, 4, 6, 8]),
    columns=st.sampled_from([4, 8, 12]),
    tokens=st.sampled_from([1, 2, 7, 77, 256]),
    blocks=st.sampled_from([1, 2, 4, 8]),
    radius=st.integers(0, 3),
    chunk=st.sampled_from([1, 5, 16, 512]),
    group=st.sampled_from([0, 1, 2, 4]),
    pooled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_shapes(form, batch, rows, columns, tokens, blocks, radius, chunk, group, pooled, seed):
    config = small_config(blocks=blocks, radius=radius, queries_per_kv=group, pooled_text=pooled, widths=(1.0,))
    model = materialize(scrambled(config, seed), 1.0)
    inputs = random_inputs(config, batch, (rows, columns), tokens, seed)
    assert parity(model, replace(form, query_chunk=chunk), inputs) >= FLOOR_DB


def test_blocks_that_do_not_divide_the_grid_are_refused_with_the_nearest_that_fits():
    model = materialize(scrambled(small_config(blocks=8)), 1.0)
    with pytest.raises(InputError, match="6x6 tokens does not fit.*nearest that fits is"):
        DeployedDiT(model, (12, 12), Form("split"))


@pytest.mark.parametrize("blocks, radius", [(1, 0), (4, 0), (4, 1), (4, 3), (8, 1), (8, 2), (8, 4), (16, 1)])
def test_block_groups_give_every_query_the_keys_near_it_once(blocks, radius):
    """A group of blocks gathers for each query what the mask over all tokens leaves open, and nothing else."""
    tokens, size = 32, 32 // blocks
    numbers = torch.arange(tokens)[None, :, None]
    open_keys = block_bias(tokens, blocks, radius)[0, 0] == 0  # (S, S)
    seen = []
    for group in block_groups(tokens, blocks, radius):
        for queries, keys in zip(group.queries(numbers)[..., 0], group.windows(numbers)[..., 0], strict=True):
            seen += queries.tolist()
            assert len(queries) % size == 0 and len(set(keys.tolist())) == len(keys)
            assert all(open_keys[query].nonzero()[:, 0].tolist() == sorted(keys.tolist()) for query in queries)
    assert seen == list(range(tokens))


def test_few_tokens_are_masked_and_many_are_cut():
    """Both ways of the local branch are taken by the sizes that this file compares with the trained model."""
    config = small_config(widths=(1.0,))
    model = materialize(scrambled(config), 1.0)
    for form in (form for form in FORMS if form.attention == "batched"):
        masked = [DeployedDiT(model, (2 * n, 2 * n), form).down[0].attn.near is not None for n in (8, 16)]
        assert masked == [True, False]
        assert parity(model, form, random_inputs(config, batch=2, grid=(16, 16))) >= FLOOR_DB


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_keeps_its_name(form):
    model = materialize(scrambled(small_config()), 0.5)
    deployed = dict(DeployedDiT(model, (16, 16), form).named_parameters())
    assert set(dict(model.named_parameters())) == set(deployed)
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1:  # projections are shared, not copied or reordered
            assert torch.equal(deployed[name].flatten(), parameter.flatten())


def random_text(present=("word", "byte")) -> TextEncoders:
    torch.manual_seed(0)
    parts = {"word": EncoderConfig(50, 8, 32, 2, 4, 2), "byte": EncoderConfig(60, 12, 24, 1, 3, 2)}
    return TextEncoders(TextConfig(**{n: parts[n] if n in present else None for n in parts}, width=20)).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("present", [("word", "byte"), ("word",), ("byte",)])
def test_text_encoders(form, present):
    text = random_text(present)
    component = text_component(text, 8, 12, form)
    ids = []
    for spec in component.inputs:
        row = torch.randint(1, 50, spec.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(1))
        row[:, spec.shape[1] // 2 :] = 0
        ids.append(row)
    word, byte = (ids.pop(0) if name in present else None for name in ("word", "byte"))
    given_ids = [x for x in (word, byte) if x is not None]
    with torch.no_grad():
        tokens, mask, pooled = text(word, byte)
        out = component.module(*given_ids)
    assert decibels(tokens.transpose(1, 2)[:, :, None], out[0]) >= FLOOR_DB
    assert torch.equal(mask[:, :, None, None], out[1])
    assert decibels(pooled[:, :, None, None], out[2]) >= FLOOR_DB
    assert [tuple(o.shape) for o in out] == [s.shape for s in component.outputs]


def test_decoder_component_clips_and_reports_the_picture_size():
    decoder = Decoder(AutoencoderConfig()).eval()
    component = decoder_component(decoder, (4, 6), Form("split"))
    latent = torch.randn(1, 8, 4, 6) * 5
    with torch.no_grad():
        image = component.module(latent)
        assert decibels(decoder(latent).clamp(0, 1), image) >= FLOOR_DB
    assert component.outputs[0].shape == tuple(image.shape) == (1, 3, 32, 48)


def test_transformer_component_signature():
    config = small_config()
    component = transformer_component(materialize(scrambled(config), 0.5), (16, 24), 9, Form("split"))
    assert [s.name for s in component.inputs] == ["latent", "timestep_features", "text", "text_mask", "pooled_text"]
    with torch.no_grad():
        assert tuple(component.module(*component.example()).shape) == component.outputs[0].shape == (1, 4, 16, 24)
