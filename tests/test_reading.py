"""What a caption says of each thing, and text encoders that learn to have it in the thing's own token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_scenes import tiny_text  # noqa: F401  (a fixture)

from edgegen.emoji.scenes import SceneSource, plural
from edgegen.model.text import TextConfig
from edgegen.train.stages.reading import ATTRIBUTES, Readings, mentions
from edgegen.train.stages.results import read_log, text_result
from edgegen.train.stages.text import DistilledText, TextTraining, train_text

SOURCE = SceneSource("train", captions=1)
SCENES = [SOURCE[index] for index in range(300)]


def test_every_thing_is_mentioned_with_what_the_caption_says_of_it():
    kinds = set()
    for scene in SCENES:
        caption = scene.captions[0]
        found = mentions(scene, caption)
        assert len(found) == (1 if scene.kind == "counting" else len(scene.things))
        for mention, thing in zip(found, scene.things, strict=False):
            name = plural(thing.concept) if scene.kind == "counting" else thing.concept
            assert caption[: mention.end].endswith(name)
            said = mention.said
            assert said.keys() == ATTRIBUTES.keys() and all(said[name] in ATTRIBUTES[name] for name in said)
            assert (said["colour"] or None) == thing.colour
            assert said["background"] in ("", scene.background) and said["style"] in ("", thing.style)
            assert bool(said["relation"]) == (scene.kind == "position")
            assert bool(said["place"]) == (scene.kind == "place")
            kinds |= {kind for kind, value in said.items() if value}
    assert kinds == set(ATTRIBUTES)


def test_the_first_of_a_relation_is_told_from_the_second():
    scene = next(scene for scene in SCENES if scene.relation == "left")
    first, second = mentions(scene, scene.captions[0])
    assert (first.said["relation"], second.said["relation"]) == ("left first", "left second")
    assert first.end < second.end


def test_mentions_point_at_the_tokens_that_names_end_with(tiny_text):  # noqa: F811
    tokenizers, _ = tiny_text
    tokenizers = replace_length(tokenizers, 64)
    read = Readings.of(SOURCE.__getitem__, 200, tokenizers)
    assert len(read.row) > 200 and read.labels.shape == (len(read.row), len(ATTRIBUTES))
    for index in range(0, len(read.row), 7):
        row = int(read.row[index])
        caption = SCENES[row].captions[0]
        ends = {mention.end for mention in mentions(SCENES[row], caption)}
        assert int(read.token["byte"][index]) in ends
        assert tokenizers.word.encode(caption).offsets[int(read.token["word"][index])][1] in ends


def replace_length(tokenizers, length: int):
    """The tokenizers with room for every caption."""
    from edgegen.model.text import Tokenizers

    return Tokenizers(tokenizers.word, replace(tokenizers.byte, length=length), tokenizers.word_length)


def test_a_batch_is_its_captions_mentions_and_depends_on_seed_and_step(tiny_text):  # noqa: F811
    read = Readings.of(SOURCE.__getitem__, 60, replace_length(tiny_text[0], 64))
    one, again, other = read.batch(16, 3, 5), read.batch(16, 3, 5), read.batch(16, 3, 6)
    assert torch.equal(one.ids["word"], again.ids["word"]) and torch.equal(one.labels, again.labels)
    assert one.ids["word"].shape[0] == 16 and not torch.equal(one.row, other.row)
    picked = torch.randperm(60, generator=torch.Generator().manual_seed(3 * 1_000_003 + 5))[:16].tolist()
    assert len(one.row) == sum(int((read.row == row).sum()) for row in picked)
    for index in range(len(one.row)):
        row = picked[int(one.row[index])]
        assert one.labels[index].tolist() in read.labels[read.row == row].tolist()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, tiny_text):  # noqa: F811
    """A run that learnt to read, its log and what it began as."""
    tokenizers, encoders = tiny_text
    tokenizers = replace_length(tokenizers, 16)
    read = Readings.of(lambda index: SOURCE[index % 12], 12, tokenizers)
    config = TextConfig(**{name: getattr(encoders_config(), name) for name in ("word", "byte", "width")})
    tokens = tokenizers.encode(["a dog", "a cat", "two dogs"])
    folder = tmp_path_factory.mktemp("read") / "text"
    training = TextTraining(steps=150, batch=12, warmup=5, peak_rate=1e-2, reading=1.0)
    targets = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    train_text(
        tokens, targets, np.array(["train"] * 3), folder, config, training, readings=read, start=encoders.state_dict()
    )
    return folder, encoders


def encoders_config() -> TextConfig:
    from edgegen.model.text import EncoderConfig

    return TextConfig(EncoderConfig(400, 24, 16, 1, 2, 2), EncoderConfig(258, 16, 16, 1, 2, 2), 16)


def test_reading_is_learnt_and_leaves_no_trace_in_the_encoders(learnt):
    folder, begun = learnt
    log = [row for row in read_log(folder) if "reading" in row]
    assert log[-1]["reading"] < 0.5 * log[0]["reading"] and log[-1]["read_word"] > 0.8
    _, encoders, _ = text_result(folder)
    assert encoders.state_dict().keys() == begun.state_dict().keys()


def test_a_run_begins_with_the_encoders_it_is_given(tmp_path, tiny_text):  # noqa: F811
    tokenizers, encoders = tiny_text
    training = TextTraining(steps=1, batch=2, warmup=1, peak_rate=1e-9, weight_decay=0.0, start="somewhere")
    train_text(
        tokenizers.encode(["a dog", "a cat"]),
        torch.randn(2, 6),
        np.array(["train"] * 2),
        tmp_path / "text",
        encoders_config(),
        training,
        start=encoders.state_dict(),
    )
    found = text_result_of(tmp_path / "text")
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in encoders.state_dict().items())
    assert DistilledText(encoders_config(), 6).readers is None


def text_result_of(folder):
    """The saved encoders by name; this run has no tokenizer files."""
    return text_result(folder)[1].state_dict()
