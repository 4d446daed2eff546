"""A checkpoint comes back as it was saved, at every width, and whatever is wrong with one is named."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_checkpoint

from edgegen.errors import InputError
from edgegen.model.checkpoint import load_checkpoint, save_checkpoint
from edgegen.model.config import PRESETS
from edgegen.model.elastic import ElasticDiT, elastic_state, materialize
from edgegen.model.random_checkpoint import random_checkpoint, random_preset, reopen
from edgegen.model.states import part_shapes, write_tensors


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "checkpoint")


def edit_config(folder, change):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_weights(folder, part, change):
    path = folder / f"{part}.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def refused(folder, use=lambda checkpoint: checkpoint):
    """The one line with which a checkpoint is refused."""
    with pytest.raises(InputError) as caught:
        use(load_checkpoint(folder))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_width_comes_back_as_the_supernet_it_was_saved_from(tmp_path):
    supernet = ElasticDiT(TINY.transformer)
    for parameter in supernet.parameters():
        parameter.data = torch.randn_like(parameter).half().float()
    made = random_checkpoint(TINY)
    states = dict(made.states, transformer=elastic_state(supernet))
    save_checkpoint(tmp_path / "c", TINY, states, made.tokenizer_files)
    checkpoint = load_checkpoint(tmp_path / "c")
    assert checkpoint.config == TINY
    for width in TINY.transformer.widths:
        loaded, expected = checkpoint.transformer(width).state_dict(), materialize(supernet, width).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_random_weights_are_those_that_are_saved(folder):
    saved, made = load_checkpoint(folder), random_checkpoint(TINY)
    for make in ("text_encoders", "decoder", "encoder"):
        a, b = getattr(saved, make)().state_dict(), getattr(made, make)().state_dict()
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_narrow_network_holds_no_memory_of_the_full_one():
    """A slice is a tensor of its own: as a view it would keep all that it was taken from."""
    narrow = random_checkpoint(TINY).transformer(0.5)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in narrow.parameters())


def test_another_seed_or_name_gives_other_weights():
    first, second = (random_checkpoint(TINY, seed).decoder().layers[1].conv1.weight for seed in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, random_checkpoint(TINY, 0).decoder().layers[1].conv2.weight)


def test_random_networks_are_not_degenerate():
    transformer = random_checkpoint(TINY).transformer(0.5)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([0.5]), torch.randn(1, 24, 16), torch.ones(1, 24)
    velocity = transformer(*inputs, torch.randn(1, 16))
    assert velocity.isfinite().all() and 0.01 < velocity.std() < 100
    assert all(parameter.abs().max() > 0 for parameter in transformer.parameters())


def test_the_paper_preset_has_a_whole_checkpoint_around_it():
    checkpoint = random_preset("paper")
    assert checkpoint.config.transformer == PRESETS["paper"]
    assert checkpoint.config.resolution == (1024, 1024)
    assert checkpoint.config.latent_size((1024, 1024)) == (128, 128)
    assert checkpoint.is_random


def test_a_manifest_s_origin_finds_the_checkpoint_again(folder):
    checkpoint = load_checkpoint(folder)
    assert reopen(checkpoint.origin).config == TINY
    assert reopen(random_preset("emoji", 3).origin).origin["seed"] == 3
    edit_weights(folder, "decoder", lambda state: state["layers.0.bias"].add_(1))
    with pytest.raises(InputError, match="has changed"):
        reopen(checkpoint.origin)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="is gone"):
        reopen(checkpoint.origin)


def test_a_missing_folder_is_named(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "decoder"])
def test_missing_empty_and_truncated_files_are_named(folder, part):
    path = folder / f"{part}.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert path.name in refused(folder)
    path.unlink()
    assert f"{path.name} is missing" in refused(folder)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_a_pickle_is_refused_unread_with_how_to_convert_it(folder, tmp_path, suffix):
    pickle = tmp_path / f"model{suffix}"
    torch.save({"a": torch.zeros(1)}, pickle)
    assert "safetensors.torch.save_file" in refused(pickle)
    (folder / "transformer.safetensors").rename(tmp_path / "kept")
    shutil.copy(pickle, folder / f"transformer{suffix}")
    assert f"transformer{suffix} is a pickle" in refused(folder)
    shutil.copy(pickle, folder / "transformer.safetensors")  # one in disguise
    assert "is a pickle" in refused(folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(pickle, alone)
    assert f"model{suffix} is a pickle" in refused(alone)


def test_missing_and_unexpected_keys_are_named(folder):
    def swap(state):
        state["down.0.attn.query.weight"] = state.pop("down.0.attn.q.weight")

    edit_weights(folder, "transformer", swap)
    message = refused(folder)
    assert "lacks down.0.attn.q.weight" in message and "unexpected down.0.attn.query.weight" in message


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    edit_weights(folder, "decoder", lambda state: state.update({"layers.0.bias": torch.zeros(5)}))
    message = refused(folder)
    assert "layers.0.bias" in message and "(5,)" in message and "(8,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    def poison(state):
        state["middle.1.ffn.up.weight"][3, 4] = value

    edit_weights(folder, "transformer", poison)
    assert "middle.1.ffn.up.weight has 1 NaN or infinite" in refused(folder, lambda c: c.transformer(0.5))


def test_integer_weights_are_named(folder):
    edit_weights(folder, "decoder", lambda state: state.update({"layers.0.bias": torch.zeros(8, dtype=torch.int32)}))
    assert "layers.0.bias holds I32" in refused(folder, lambda c: c.decoder())


@pytest.mark.parametrize("change, expected", [
    (lambda c: c.update(nme="x"), "unknown key nme. Did you mean name"),
    (lambda c: c["transformer"].update(hiden=3), "unknown key transformer.hiden. Did you mean hidden"),
    (lambda c: c["text"]["byte"].update(deep=3), "unknown key text.byte.deep"),
    (lambda c: c.pop("autoencoder"), "autoencoder is missing"),
    (lambda c: c["transformer"].update(hidden="wide"), "transformer.hidden must be int"),
    (lambda c: c["transformer"].update(sparse=1), "transformer.sparse must be bool"),
    (lambda c: c["transformer"].update(depths=[1, "2", 1]), "transformer.depths[1] must be int"),
    (lambda c: c["transformer"].update(grid=4), "transformer.grid must be a list"),
    (lambda c: c["text"]["byte"].update(heads=0), "text.byte.heads is 0"),
    (lambda c: c.update(sampler=[]), "sampler must be an object"),
    (lambda c: c["sampler"].update(steps=0), "sampler.steps is 0"),
    (lambda c: c.update(format_version=99), "format_version is 99"),
    (lambda c: c["transformer"].update(text_dim=8), "text_dim 8 differs"),
])  # fmt: skip
def test_a_wrong_configuration_is_named_with_its_file_and_key(folder, change, expected):
    edit_config(folder, change)
    message = refused(folder)
    assert expected in message and "config.json" in message


def test_a_configuration_that_is_not_json_is_named(folder):
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(folder)


def test_tokenizers_that_do_not_fit_are_named(folder):
    path = folder / "tokenizer" / "byte.json"
    path.write_text(json.dumps({"length": 7}))
    assert "pads to 7" in refused(folder)
    path.write_text("{")
    assert "byte.json is not JSON" in refused(folder)
    path.unlink()
    assert "lacks byte.json" in refused(folder)


def test_saving_what_fp16_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    made = random_checkpoint(TINY)
    state = dict(made.states["decoder"])
    state["layers.0.bias"] = torch.full((8,), 1e6)
    with pytest.raises(InputError, match="layers.0.bias reaches 1e[+]06"):
        save_checkpoint(tmp_path / "new" / "c", TINY, {"decoder": state}, {})
    assert not list(tmp_path.iterdir())


def test_saving_over_a_checkpoint_must_be_asked_for(folder):
    made = random_checkpoint(TINY, seed=1)
    with pytest.raises(InputError, match="not empty"):
        save_checkpoint(folder, TINY, made.states, made.tokenizer_files)
    save_checkpoint(folder, TINY, made.states, made.tokenizer_files, overwrite=True)
    loaded, expected = load_checkpoint(folder).decoder().state_dict(), made.decoder().state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("resolution, nearest", [((33, 32), "32x32"), ((1, 1), "32x32"), ((32, 72), "32x64")])
def test_a_resolution_that_does_not_fit_names_the_nearest(resolution, nearest):
    with pytest.raises(InputError, match=f"nearest that fits is {nearest}"):
        TINY.latent_size(resolution)


def test_a_resolution_that_fits_gives_its_latent():
    assert TINY.latent_size((64, 32)) == (4, 8)
    assert TINY.resolution == (64, 64)


def test_files_hold_what_the_parts_need():
    assert part_shapes("transformer", TINY.transformer, TINY.text, TINY.autoencoder).keys() >= {
        "down.0.attn.q.weight",
        "down.0.attn.norm_q.weight@0.5",
        "modulation.out.weight@0.5",
    }
    assert replace(TINY, name="other").name == "other"


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    """The library writes metadata in another order each time."""
    tensors, metadata = {"a.é": torch.arange(6.0)}, {"step": "200", "settings": '{"a": "\\né"}', "z": "", "é\t": "x"}
    written = set()
    for number in range(8):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == metadata and torch.equal(file.get_tensor("a.é"), tensors["a.é"])
