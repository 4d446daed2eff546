"""Scenes are what their captions say, never show training a held-out fact, and batch alike on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgegen.emoji.captions import STYLES, assign_splits, common_concepts
from edgegen.emoji.scene_pictures import Sprites, background_colour, recolour
from edgegen.emoji.scenes import (
    COLOURS,
    KINDS,
    NUMBERS,
    RELATIONS,
    Scene,
    SceneSource,
    Thing,
    facts,
    holds,
    is_held_out,
    plural,
    scene_concepts,
)
from edgegen.model.autoencoder import AutoencoderConfig, Encoder
from edgegen.model.text import TextEncoders, Tokenizers
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.scene_data import SceneLatents, scene_pool
from edgegen.train.stages.loop import ElasticTraining

SCENES = [SceneSource("train", seed=3)[index] for index in range(400)]


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """A grey disc for every thing, so that no package is needed."""
    y, x = np.mgrid[:128, :128]
    inside = (x - 64) ** 2 + (y - 64) ** 2 < 60**2
    disc = np.zeros((128, 128, 4), np.uint8)
    disc[inside] = (128, 128, 128, 255)
    return Sprites({(name, style): disc for name in scene_concepts() for style in STYLES})


def test_concepts_are_known_and_distinct():
    names = scene_concepts()
    assert len(set(names)) == len(names) >= 30
    assert set(names) <= {concept.name for concept in common_concepts()}


def test_a_scene_depends_on_seed_split_and_index_alone():
    assert SceneSource("train", seed=3)[17] == SCENES[17]
    assert SceneSource("train", seed=4)[17] != SCENES[17]
    assert len({repr(scene) for scene in SCENES}) == len(SCENES)


def test_every_kind_is_drawn():
    assert {scene.kind for scene in SCENES} == set(KINDS)


def test_things_lie_inside_and_apart():
    for scene in SCENES:
        for i, thing in enumerate(scene.things):
            assert 0 <= thing.x - thing.size / 2 + 1e-9 and thing.x + thing.size / 2 <= 1 + 1e-9
            assert 0 <= thing.y - thing.size / 2 + 1e-9 and thing.y + thing.size / 2 <= 1 + 1e-9
            for other in scene.things[:i]:
                gap = max(abs(thing.x - other.x), abs(thing.y - other.y))
                assert gap >= 0.5 * (thing.size + other.size) - 1e-9


def test_captions_say_what_is_there():
    for scene in SCENES:
        for caption in scene.captions:
            if scene.kind == "counting":
                assert caption.startswith(NUMBERS[len(scene.things)])
            else:
                assert all(thing.concept in caption for thing in scene.things)
            assert all(thing.colour in caption for thing in scene.things if thing.colour)
            if scene.relation:
                first, second = scene.things
                assert any(word in caption for word in RELATIONS[scene.relation])
                assert caption.index(first.concept) < caption.rindex(second.concept)
                assert holds(scene.relation, np.array([first.x, first.y]), np.array([second.x, second.y]))


def test_training_never_sees_a_held_out_fact():
    assert not any(is_held_out(fact) for scene in SCENES for fact in facts(scene))
    held_out = [SceneSource("combinations")[index] for index in range(50)]
    assert all(any(is_held_out(fact) for fact in facts(scene)) for scene in held_out)
    splits = assign_splits(common_concepts())
    assert {splits[t.concept, t.style] for scene in SCENES + held_out for t in scene.things} == {"train"}
    unseen = [SceneSource("concepts")[index] for index in range(50)]
    assert {splits[t.concept, t.style] for scene in unseen for t in scene.things} == {"unseen_concept"}


def test_a_tenth_of_the_combinations_is_held_out():
    found = [is_held_out(f"{colour} {name}") for colour in COLOURS for name in scene_concepts()]
    assert 0.05 < np.mean(found) < 0.15


@pytest.mark.parametrize(
    ("name", "many"), [("dog", "dogs"), ("red butterfly", "red butterflies"), ("fox", "foxes"), ("key", "keys")]
)
def test_plurals(name, many):
    assert plural(name) == many


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unseen"):
        SceneSource("unseen")


@pytest.mark.parametrize("colour", COLOURS)
def test_recolouring_gives_the_middle_tone_the_colour_and_keeps_the_outline(colour):
    sprite = np.zeros((9, 9, 4), np.uint8)
    sprite[2:7, 2:7] = (120, 120, 120, 255)
    sprite[2, 2:7, :3] = 20  # a dark edge
    changed = recolour(sprite, COLOURS[colour])
    assert np.abs(changed[4, 4, :3].astype(int) - COLOURS[colour]).max() <= 2
    assert (changed[..., 3] == sprite[..., 3]).all()
    assert (changed[2, 4, :3] < changed[4, 4, :3]).all()


def test_pictures_show_things_where_the_scene_has_them(sprites):
    scene = Scene("colours", (Thing("dog", "3d", "red", 0.25, 0.75, 0.3),), "blue", 0.5, None, ("a red dog",))
    picture = sprites.render(scene)
    assert picture.shape == (128, 128, 3)
    assert np.abs(picture[96, 32].astype(int) - COLOURS["red"]).max() <= 2
    assert tuple(picture[4, 120]) == background_colour(scene)
    red = np.argwhere(np.abs(picture.astype(int) - COLOURS["red"]).max(-1) <= 8)
    assert np.abs(red.mean(0) - (95.5, 31.5)).max() < 1.5


@pytest.fixture(scope="module")
def data(sprites, tmp_path_factory, tiny_text) -> SceneLatents:
    torch.manual_seed(0)
    encoder = Encoder(AutoencoderConfig(encoder_widths=(8, 16), encoder_depths=(1, 1))).eval()
    tokenizers, encoders = tiny_text
    cache = tmp_path_factory.mktemp("pool") / "pool.safetensors"
    pool = scene_pool(SceneSource("train"), 70, sprites, encoder, cache)
    again = scene_pool(SceneSource("train"), 70, Sprites({}), encoder, cache)  # nothing is rendered
    assert torch.equal(pool.latents, again.latents) and pool.captions == again.captions
    with pytest.raises(KeyError):  # other scenes are not taken for the cached ones
        scene_pool(SceneSource("train", seed=1), 70, Sprites({}), encoder, cache)
    words = tokenizers.word_length
    ids = tokenizers.encode(["", "a dog"]).tensors()
    text, mask, _ = encoders(*ids)
    singles = CaptionedLatents(pool.latents[:4].float(), [[1]] * 4, text.detach(), mask, words)
    return SceneLatents.build(pool, singles, 0.25, tokenizers, encoders)


@pytest.fixture(scope="module")
def tiny_text() -> tuple[Tokenizers, TextEncoders]:
    from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig
    from edgegen.train.stages.text import train_word_tokenizer

    texts = [caption for scene in SCENES for caption in scene.captions]
    word = train_word_tokenizer(texts, 400, 24)
    byte = ByteTokenizer(length=16)
    torch.manual_seed(1)
    config = TextConfig(EncoderConfig(400, 24, 16, 1, 2, 2), EncoderConfig(byte.vocabulary, 16, 16, 1, 2, 2), 16)
    return Tokenizers(word, byte, 24), TextEncoders(config).eval()


def test_ranks_share_one_batch(data):
    training = ElasticTraining(batch=8, steps=10)
    whole = data.batch(training, 5, 0, 1)
    halves = zip(data.batch(training, 5, 0, 2), data.batch(training, 5, 1, 2), strict=True)
    for name, full, parts in zip(("x0", "noise", "t", "text", "mask", "pooled"), whole, halves, strict=True):
        shared = torch.stack(parts, 1).flatten(0, 1)  # ranks take rows in turn
        same = torch.allclose if name in ("text", "pooled") else torch.equal  # text is encoded in other batches
        assert same(full, shared), name
    assert not torch.equal(whole[0], data.batch(training, 6, 0, 1)[0])


def test_the_empty_prompt_replaces_whole_captions(data):
    kept = replace(ElasticTraining(batch=8, steps=10, drop_encoder=0.0), drop_caption=0.0)
    dropped = replace(kept, drop_caption=0.999999)
    text, mask = data.batch(dropped, 0, 0, 1)[3:5]
    used = data.singles.mask[0] > 0  # columns that no row uses are left out
    assert mask.shape == (8, int(used.sum())) and mask.all()
    assert torch.equal(text, data.singles.text[0][used].expand_as(text))
    assert data.batch(kept, 0, 0, 1)[4].shape != mask.shape


def test_ranks_encode_no_text_but_their_own(data, monkeypatch):
    asked = []
    encode = SceneLatents.encode
    monkeypatch.setattr(SceneLatents, "encode", lambda self, rows: asked.append(len(rows)) or encode(self, rows))
    for rank in range(4):
        data.batch(ElasticTraining(batch=16, steps=10), 0, rank, 4)
    assert asked == [3, 3, 3, 3]  # the other quarter are single pictures, whose text is cached


def test_pictures_carry_their_own_captions(data):
    training = ElasticTraining(batch=8, steps=10, drop_caption=0.0, drop_encoder=0.0)
    latents, _, _, text, mask, _ = data.batch(training, 0, 0, 1)
    for latent, row_text, row_mask in zip(latents[:6], text[:6], mask[:6], strict=True):
        alike = (data.latents.float() == latent).flatten(1).all(1).nonzero()  # scenes may look the same by chance
        assert len(alike)
        said = (torch.arange(3) + 3 * alike).flatten()
        spoken, wanted = row_text[row_mask > 0], []
        for own, own_mask in zip(data.encode(said), data.mask_of(said), strict=True):
            wanted.append(own[own_mask > 0])
        assert any(spoken.shape == own.shape and torch.allclose(spoken, own, atol=1e-5) for own in wanted)
    shown = data.singles
    used = shown.mask[1] > 0  # the single pictures of the fixture all say the same
    for row_text, row_mask, latent in zip(text[6:], mask[6:], latents[6:], strict=True):
        assert any(torch.equal(latent, one) for one in shown.latents)
        assert torch.equal(row_text[row_mask > 0], shown.text[1][used])
