"""Runs that begin with weights that are there, and wide models grown from narrow ones."""

from dataclasses import replace

import pytest
import torch
from conftest import decibels, random_inputs, scrambled, small_config
from test_train import CONFIG, FAST, captioned

from edgegen.errors import InputError
from edgegen.model.elastic import ElasticDiT, elastic_state, load_elastic_, materialize
from edgegen.train.stages.grow import moved_heads, open_start, own_parameters, widen
from edgegen.train.stages.loop import train_elastic
from edgegen.train.stages.results import elastic_result

WIDE = small_config(cross_kv_heads=1, widths=(0.25, 0.5, 1.0))


def grown(wide, seed: int = 1):
    """A narrow model whose every weight matters, and the supernet grown from it."""
    narrow = scrambled(replace(wide.at(0.5), widths=(1.0,))).full
    model = ElasticDiT(wide)
    with torch.no_grad():
        load_elastic_(model, widen(wide.at(0.5), narrow.state_dict(), wide, seed))
    return narrow, model


def test_a_grown_model_computes_what_the_narrow_one_did():
    narrow, model = grown(WIDE)
    inputs = random_inputs(WIDE)
    with torch.no_grad():
        wanted = narrow(*inputs)
        assert torch.equal(materialize(model, 0.5)(*inputs), wanted)
        assert decibels(wanted, model(1.0, *inputs)) > 100
        assert decibels(wanted, model(0.25, *inputs)) < 60  # a slice narrower than what was trained is another function


def test_heads_that_read_another_key_head_get_a_stand_in():
    narrow, wide = small_config(hidden=64, widths=(1.0,)), small_config(hidden=128, widths=(0.5, 1.0))
    assert moved_heads(narrow, wide) == [(4, 8), (5, 9), (6, 10), (7, 11)]  # 8 and 16 heads, two key heads
    plain = scrambled(narrow).full
    grown = ElasticDiT(wide)
    with torch.no_grad():
        load_elastic_(grown, widen(narrow, plain.state_dict(), wide, 0))
        inputs = random_inputs(narrow)
        assert torch.equal(grown(0.5, *inputs), plain(*inputs))
        cross, theirs = grown.full.up[0].cross, plain.up[0].cross
        text, mask, x = inputs[2], inputs[3], torch.randn(2, 16, 64)
        wanted = theirs.o.weight[:, 32:] @ heads(theirs, x, text, mask)[..., 32:].mT
        found = cross.o.weight[:64, 64:96] @ heads(cross, torch.cat([x, x], -1), text, mask)[..., 64:96].mT
    assert decibels(wanted, found) > 100


def heads(cross, x, text, mask):
    """What the heads (B, N, D) of a cross-attention give before its output projection."""
    given = []
    handle = cross.o.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    cross(x, text, mask)
    handle.remove()
    return given[0]


def test_everything_that_was_added_learns():
    _, model = grown(WIDE)
    model(1.0, *random_inputs(WIDE)).square().mean().backward()
    still = [name for name, p in model.full.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


def test_only_the_same_network_with_a_multiple_of_the_channels_grows():
    state = scrambled(small_config(widths=(1.0,))).full.state_dict()
    for wide in (small_config(hidden=96, widths=(1.0,)), small_config(hidden=128, blocks=8, widths=(1.0,))):
        with pytest.raises(InputError, match="cannot grow"):
            widen(small_config(widths=(1.0,)), state, wide, 0)


def test_a_run_begins_with_another_run_s_average_and_resumes_without_it(tmp_path):
    narrow = CONFIG.at(0.5)
    train_elastic(captioned(), captioned(), tmp_path / "narrow", narrow, FAST)
    _, learnt = elastic_result(tmp_path / "narrow")
    training = replace(FAST, start=str(tmp_path / "narrow"), start_width=1.0)
    start = open_start(CONFIG, training, tmp_path / "wide")
    first = ElasticDiT(CONFIG)
    with torch.no_grad():
        load_elastic_(first, start)
    half = materialize(first, 0.5).state_dict()
    assert half.keys() == learnt.keys() and all(torch.equal(half[name], learnt[name]) for name in half)
    frozen = replace(training, rate=1e-9, weight_decay=0.0)
    after = train_elastic(captioned(), captioned(), tmp_path / "wide", CONFIG, frozen, start=start)
    assert all(torch.allclose(after[name], start[name], atol=1e-6) for name in start)  # it began there
    assert open_start(CONFIG, frozen, tmp_path / "wide") is None


def test_a_start_of_another_configuration_is_refused(tmp_path):
    train_elastic(captioned(), captioned(), tmp_path / "narrow", CONFIG.at(0.5), FAST)
    with pytest.raises(InputError, match="another hidden, widths"):
        open_start(CONFIG, replace(FAST, start=str(tmp_path / "narrow")), tmp_path / "wide")
    with pytest.raises(InputError, match="width 0.75"):
        open_start(CONFIG, replace(FAST, start=str(tmp_path / "narrow"), start_width=0.75), tmp_path / "wide")
    assert not (tmp_path / "wide").exists()


def test_a_whole_checkpoint_is_where_a_run_begins(tmp_path):
    train_elastic(captioned(), captioned(), tmp_path / "first", CONFIG, FAST)
    config, state = elastic_result(tmp_path / "first")
    start = open_start(config, replace(FAST, start=str(tmp_path / "first")), tmp_path / "second")
    assert start.keys() == elastic_state(ElasticDiT(config)).keys()
    assert all(torch.equal(start[name], state[name]) for name in state)


def test_narrower_widths_that_were_trained_keep_what_they_compute():
    narrow = replace(WIDE.at(0.5), widths=(0.5, 1.0))
    theirs, ours = scrambled(narrow), ElasticDiT(WIDE)
    plain, own_of = theirs.full.state_dict(), {16: own_parameters(narrow, elastic_state(theirs), 0.5)}
    inputs = random_inputs(WIDE)
    with torch.no_grad():
        load_elastic_(ours, widen(narrow, plain, WIDE, 0, own_of))
        for width in (0.25, 0.5):
            assert torch.equal(ours(width, *inputs), theirs(2 * width, *inputs))
        load_elastic_(ours, widen(narrow, plain, WIDE, 0))
        assert not torch.equal(ours(0.25, *inputs), theirs(0.5, *inputs))  # a slice with the norms of another width


def test_a_run_takes_the_trained_widths_of_where_it_starts(tmp_path):
    narrow = replace(WIDE.at(0.5), widths=(0.5, 1.0))
    train_elastic(captioned(), captioned(), tmp_path / "narrow", narrow, FAST)
    _, learnt = elastic_result(tmp_path / "narrow")
    start = open_start(WIDE, replace(FAST, start=str(tmp_path / "narrow"), start_width=1.0), tmp_path / "wide")
    named = {name: tensor for name, tensor in learnt.items() if name.endswith("@0.5")}
    assert named and all(torch.equal(start[name.replace("@0.5", "@0.25")], tensor) for name, tensor in named.items())


def test_only_what_a_frozen_width_does_not_read_learns(tmp_path):
    config = small_config(widths=(0.25, 0.5, 1.0), cross_kv_heads=1)
    training = replace(FAST, frozen_width=0.5, weight_decay=0.0, sub_widths=2, ema=0.5)
    start = {name: tensor.clone() for name, tensor in elastic_state(scrambled(config)).items()}
    after = train_elastic(captioned(), captioned(), tmp_path / "run", config, training, start=start)
    first, last = ElasticDiT(config), ElasticDiT(config)
    with torch.no_grad():
        load_elastic_(first, start)
        load_elastic_(last, after)
    for width in (0.25, 0.5):
        old, new = materialize(first, width).state_dict(), materialize(last, width).state_dict()
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    shapes = last.shapes_at(0.5)
    cut = [name for name, p in last.full.named_parameters() if p.shape != shapes[name]]
    assert cut and all(not torch.equal(start[name], after[name]) for name in cut)


def test_what_cannot_be_frozen_is_refused(tmp_path):
    with pytest.raises(InputError, match="weight_decay"):
        replace(FAST, frozen_width=0.5, weight_decay=0.1)
    unknown = replace(FAST, frozen_width=0.3, weight_decay=0.0)
    with pytest.raises(InputError, match="frozen_width is 0.3; the widths below 1 are 0.5"):
        train_elastic(captioned(), captioned(), tmp_path / "run", CONFIG, unknown)
    assert not (tmp_path / "run").exists()
