"""Emoji data: captions, splits, fetching and what is cached from it."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from edgegen.emoji import assets
from edgegen.emoji.captions import (
    DEMO_PROMPTS,
    STYLES,
    assign_splits,
    captions,
    common_concepts,
    parse_concepts,
    text_corpus,
    with_article,
)
from edgegen.emoji.data import EmojiData, Rendered, autoencoder_split
from edgegen.errors import InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig
from edgegen.model.text import ByteTokenizer, TextConfig, TextEncoders, Tokenizers
from edgegen.train.data.encoded import cache_latents, cache_text

CONCEPTS = common_concepts()


def test_the_concept_list_is_what_the_model_promises():
    names = [concept.name for concept in CONCEPTS]
    assert len(names) == len(set(names)) and 200 <= len(names) <= 250
    assert set(DEMO_PROMPTS) <= set(names)
    for shape in ("heart", "circle", "square"):
        assert {f"{colour} {shape}" for colour in ("red", "orange", "yellow", "green", "blue")} <= set(names)


def test_concept_lines():
    (concept,) = parse_concepts("# animals\n\ntiger face = tiger | big cat | Stripes  # striped\n")
    assert concept.unicode_name == "tiger face" and concept.name == "tiger"
    assert concept.synonyms == ("big cat", "stripes")


def test_one_caption_never_names_two_pictures():
    """Except that without a style word '3d' is meant, a caption leaves no doubt."""
    seen: dict[str, tuple[str, str]] = {}
    for concept in CONCEPTS:
        for style in STYLES:
            said = captions(concept, style)
            assert len(said) == len(set(said)) >= 4
            for caption in said:
                assert seen.setdefault(caption, (concept.name, style)) == (concept.name, style)
                assert ("flat" in caption.split() or ", flat" in caption) == (style == "flat")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dog", "a dog"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("face with tears of joy", "a face with tears of joy"),
    ],
)
def test_articles(name, said):
    assert with_article(name) == said


def test_splits_hold_out_what_they_say():
    splits = assign_splits(CONCEPTS)
    assert splits == assign_splits(CONCEPTS) != assign_splits(CONCEPTS, seed=1)
    sides = {concept.name: [splits[concept.name, style] for style in STYLES] for concept in CONCEPTS}
    whole = {name for name, (a, b) in sides.items() if a == b == "unseen_concept"}
    partial = {name for name, pair in sides.items() if sorted(pair) == ["train", "unseen_style"]}
    trained = {name for name, (a, b) in sides.items() if a == b == "train"}
    assert whole | partial | trained == set(sides)  # no other combination exists
    assert len(whole) == round(0.08 * len(sides)) and len(partial) == round(0.15 * (len(sides) - len(whole)))
    assert set(DEMO_PROMPTS) <= trained and {name for name in sides if "heart" in name} <= trained
    assert {style for name in partial for style in STYLES if splits[name, style] == "unseen_style"} == set(STYLES)


def test_a_held_out_caption_is_in_no_training_record():
    data = emoji_data()
    said = {split: {c for r in data.subset(split).records for c in r.captions} for split in SPLITS}
    assert all(said.values())
    assert not said["train"] & (said["unseen_concept"] | said["unseen_style"])
    concepts = {split: {r.concept for r in data.subset(split).records} for split in SPLITS}
    assert not concepts["unseen_concept"] & concepts["train"] and concepts["unseen_style"] <= concepts["train"]


SPLITS = ("train", "unseen_concept", "unseen_style")


def emoji_data() -> EmojiData:
    """The real concepts over pictures that hold their own row number."""
    keys = {concept.unicode_name: f"{row:04x}" for row, concept in enumerate(CONCEPTS)}
    pairs = [(key, style) for style in ("noto", "flat", "3d") for key in keys.values()]
    images = np.zeros((len(pairs), 8, 8, 3), np.uint8)
    images += (np.arange(len(pairs)) % 251).astype(np.uint8)[:, None, None, None]
    rendered = Rendered(images, [key for key, _ in pairs], [style for _, style in pairs])
    return EmojiData.build(rendered, keys, CONCEPTS)


def test_every_record_has_its_own_picture():
    data = emoji_data()
    assert len(data.records) == len(data.images) == 2 * len(CONCEPTS)
    for image, record in zip(data.images, data.records, strict=True):
        row = {"flat": 1, "3d": 2}[record.style] * len(CONCEPTS) + int(record.key, 16)
        assert (image == row % 251).all()
        assert CONCEPTS[int(record.key, 16)].name == record.concept


def test_a_concept_without_a_picture_is_named():
    rendered = Rendered(np.zeros((1, 8, 8, 3), np.uint8), ["1f415"], ["3d"])
    with pytest.raises(InputError, match="'dog' has no flat picture"):
        EmojiData.build(rendered, {"dog": "1f415"}, parse_concepts("dog"))


def test_autoencoder_split_keeps_the_styles_of_a_key_together():
    keys = [f"{code:x}" for code in range(0x1F000, 0x1F400)]
    trains = autoencoder_split(keys * 2)
    assert (trains[:1024] == trains[1024:]).all()
    assert 0.01 < 1 - trains.mean() < 0.06


def test_corpus_has_every_training_caption_and_the_empty_prompt():
    sayings = text_corpus(["saxophone"], ["brass"], ["velvet"])
    texts = {saying.text for saying in sayings}
    assert {caption for concept in CONCEPTS for style in STYLES for caption in captions(concept, style)} <= texts
    assert {"", "saxophone", "brass"} <= texts and any("velvet" in text for text in texts)
    assert sayings == text_corpus(["saxophone"], ["brass"], ["velvet"])


def test_keys_drop_the_variation_selector():
    assert assets.emoji_key("2764-FE0F-200d-1f525") == "2764-200d-1f525"


def test_on_white_centres_and_composites():
    picture = Image.new("RGBA", (40, 80), (255, 0, 0, 128))
    image = assets.on_white(picture, 80)
    assert image.shape == (80, 80, 3) and image.dtype == np.uint8
    assert (image[:, :18] == 255).all() and (image[:, -18:] == 255).all()
    np.testing.assert_allclose(image[40, 40], [255, 127, 127], atol=1)


@pytest.fixture
def package(monkeypatch):
    """One tiny package in place of the pinned ones, and its tarball's bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/a.txt")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"hi"))
    content = buffer.getvalue()
    tiny = assets.Package("@scope/tiny", "1.0.0", hashlib.sha256(content).hexdigest(), "MIT")
    monkeypatch.setattr(assets, "PACKAGES", (tiny,))
    return tiny, content


def test_fetch_unpacks_a_tarball_once(package, tmp_path):
    tiny, content = package
    (tmp_path / tiny.tarball).write_bytes(content)
    assert tiny.tarball == "scope-tiny-1.0.0.tgz"
    assets.fetch_emoji(tmp_path)
    (tmp_path / tiny.tarball).unlink()
    assets.fetch_emoji(tmp_path)  # what is there is enough
    assert (tmp_path / tiny.folder / "a.txt").read_text() == "hi"
    assert sorted(path.name for path in tmp_path.iterdir()) == [tiny.folder]


def test_a_changed_tarball_is_refused_and_leaves_nothing(package, tmp_path, monkeypatch):
    tiny, content = package
    monkeypatch.setattr(assets, "PACKAGES", (replace(tiny, sha256="0" * 64),))
    (tmp_path / tiny.tarball).write_bytes(content)
    with pytest.raises(InputError, match="sha256"):
        assets.fetch_emoji(tmp_path)
    assert not (tmp_path / tiny.folder).exists()


def test_without_npm_the_remedy_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed"):
        assets.fetch_emoji(tmp_path)


def test_caches_equal_the_encoders_they_came_from():
    torch.manual_seed(0)
    encoder = Autoencoder.from_config(
        AutoencoderConfig(latent_channels=4, encoder_widths=(8, 8), decoder_widths=(8, 8, 8))
    ).encoder
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    latents = cache_latents(images, encoder, batch=2)
    assert latents.shape == (3, 4, 2, 2) and latents.dtype == torch.float32
    single = torch.tensor(images[2].transpose(2, 0, 1) / 255.0, dtype=torch.float32)[None]
    torch.testing.assert_close(latents[2:], encoder(single), atol=1e-6, rtol=1e-5)

    encoders, tokenizers = TextEncoders(TextConfig(word=None)).eval(), Tokenizers(None, ByteTokenizer())
    prompts = ["a dog", "a cat", "flat red heart"]
    text, mask, pooled = cache_text(prompts, tokenizers, encoders, batch=2, dtype=torch.float32)
    wanted = encoders(*tokenizers.encode(prompts).tensors())
    for got, value in zip((text, mask, pooled), wanted, strict=True):
        torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-4)
