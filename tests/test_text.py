"""The text encoders: padding, absence, tokenizers, and distillation that resumes exactly."""

import copy
import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgegen.emoji.captions import Saying
from edgegen.errors import InputError
from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig, TextEncoders, TokenIds, Tokenizers
from edgegen.train.stages.text import (
    DistilledText,
    TextTraining,
    corpus_split,
    distillation_loss,
    length_batch,
    retrieval,
    save_tokenizers,
    standardise,
    train_text,
    train_word_tokenizer,
    trim,
    word_pieces,
)

WORD = EncoderConfig(vocabulary=120, length=8, width=16, depth=2, heads=2, ffn_ratio=2)
BYTE = EncoderConfig(vocabulary=258, length=20, width=12, depth=1, heads=2, ffn_ratio=2)
TINY = TextConfig(word=WORD, byte=BYTE, width=10)
PROMPTS = ["red heart", "a dog", "", "flat green apple", "3d rocket"]


@pytest.fixture(scope="module")
def encoders() -> TextEncoders:
    torch.manual_seed(0)
    return TextEncoders(TINY).eval()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    word = train_word_tokenizer(PROMPTS * 3, WORD.vocabulary, WORD.length)
    save_tokenizers(folder, word, ByteTokenizer(length=BYTE.length))
    return folder


@pytest.fixture(scope="module")
def tokens(tokenizer_folder):
    return Tokenizers.load(tokenizer_folder).encode(PROMPTS)


def test_more_padding_changes_nothing(encoders, tokens):
    word, byte = tokens.tensors()
    for row in range(len(PROMPTS)):
        short_word, short_byte = word[row : row + 1], byte[row : row + 1]
        short_word, short_byte = short_word[:, : (short_word != 0).sum()], short_byte[:, : (short_byte != 0).sum()]
        short, _, short_pooled = encoders(short_word, short_byte)
        full, mask, pooled = encoders(word[row : row + 1], byte[row : row + 1])
        torch.testing.assert_close(full[mask.bool()], short[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(pooled, short_pooled, atol=1e-5, rtol=1e-4)


def test_padded_tokens_are_zero_and_real_ones_are_not(encoders, tokens):
    text, mask, pooled = encoders(*tokens.tensors())
    assert text.shape == (5, 28, 10) and mask.shape == (5, 28) and pooled.shape == (5, 10)
    ids = np.concatenate([tokens.word, tokens.byte], 1)
    np.testing.assert_array_equal(mask.numpy(), ids != 0)
    assert (text.abs().sum(-1) > 0).equal(mask.bool())
    for row in range(5):
        torch.testing.assert_close(pooled[row], text[row][mask[row].bool()].mean(0))


@pytest.mark.parametrize("name", ["word", "byte"])
def test_an_absent_encoder_leaves_the_others_slice(encoders, tokens, name):
    alone = TextEncoders(TextConfig(**{"word": WORD, "byte": BYTE, **{name: None}}, width=10)).eval()
    alone.load_state_dict({k: v for k, v in encoders.state_dict().items() if k.split(".")[1] != name})
    word, byte = tokens.tensors()
    given = (None, byte) if name == "word" else (word, None)
    whole_text, whole_mask, _ = encoders(word, byte)
    kept = slice(8, None) if name == "word" else slice(0, 8)
    for module in (alone, encoders):  # not built, or built and not asked
        text, mask, _ = module(*given)
        torch.testing.assert_close(text, whole_text[:, kept], atol=1e-6, rtol=1e-5)
        assert mask.equal(whole_mask[:, kept])
    with pytest.raises(InputError):
        alone(word, byte)
    with pytest.raises(InputError):
        alone(None, None)


def test_config_needs_an_encoder_and_survives_json():
    assert TextConfig(**json.loads(json.dumps(asdict(TINY)))) == TINY
    with pytest.raises(InputError):
        TextConfig(word=None, byte=None)


def test_default_encoders_fit_their_budget():
    assert sum(p.numel() for p in TextEncoders(TextConfig()).parameters()) <= 5_000_000


def test_half_precision_stays_finite(encoders, tokens):
    text, _, pooled = copy.deepcopy(encoders).half()(*tokens.tensors())
    assert text.dtype == torch.float16 and text.isfinite().all() and pooled.isfinite().all()


def test_it_exports(encoders, tokens):
    example = tokens.tensors()
    program = torch.export.export(encoders, example)
    for got, wanted in zip(program.module()(*example), encoders(*example), strict=True):
        torch.testing.assert_close(got, wanted)


def test_tokenizers_give_fixed_int32_and_the_empty_prompt_has_tokens(tokens):
    assert tokens.word.shape == (5, 8) and tokens.byte.shape == (5, 20)
    assert tokens.word.dtype == tokens.byte.dtype == np.int32
    assert (tokens.word[2] != 0).sum() == 2 and (tokens.byte[2] != 0).sum() == 1
    assert not tokens.truncated.any()


def test_case_does_not_matter_and_other_scripts_do(tokenizer_folder):
    tokenizers = Tokenizers.load(tokenizer_folder)
    plain, loud, cyrillic, greek = (tokenizers.encode([p]) for p in ("a dog", "A DOG", "собака", "σκύλος"))
    assert (plain.word == loud.word).all() and (plain.byte == loud.byte).all()
    assert (cyrillic.byte != greek.byte).any()


def test_truncation_is_reported_and_keeps_the_closing_token(tokenizer_folder):
    tokenizers = Tokenizers.load(tokenizer_folder)
    long = tokenizers.encode(["red heart " * 9, "a dog", "dogdogdogdogdogdogdogdog"])
    assert long.truncated.tolist() == [True, False, True]
    assert long.word[0, -1] == tokenizers.word.token_to_id("[SEP]")
    assert (long.byte[0] != 0).all()


def test_word_pieces_spell_every_word_and_keep_the_commonest_whole():
    counts = Counter({"heart": 9, "flat": 5, "hearty": 1, "flatter": 1, "zinc": 1})
    pieces = word_pieces(counts, 79)
    assert pieces[:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] and len(pieces) == len(set(pieces)) == 79
    assert pieces[76:] == ["heart", "flat", "##atter"]  # 4 special, 36 characters, and those again inside words
    assert word_pieces(Counter(dict(reversed(counts.items()))), 79) == pieces  # counting order does not matter
    tokenizer = train_word_tokenizer(["heart"], 90, 8)
    assert "[UNK]" not in tokenizer.encode("abcdefghijklmnopqrstuvwxyz 0123456789").tokens


def test_byte_ids_are_the_utf8_bytes_plus_the_offset():
    assert ByteTokenizer().encode("É!") == [1, 0xC3 + 2, 0x89 + 2, ord("!") + 2]


def test_either_tokenizer_file_may_be_missing_but_not_both(tokenizer_folder, tmp_path):
    (tmp_path / "byte.json").write_text((tokenizer_folder / "byte.json").read_text())
    tokens = Tokenizers.load(tmp_path).encode(["a dog"])
    assert tokens.word is None and tokens.byte.shape == (1, 20)
    with pytest.raises(InputError):
        Tokenizers.load(tmp_path / "nothing")


def test_standardise_survives_a_constant_dimension():
    embeddings = torch.randn(50, 5) * torch.tensor([1.0, 10.0, 3.0, 0.0, 1e-9])
    result = standardise(embeddings)
    assert result.isfinite().all()
    torch.testing.assert_close(result[:, :3].std(0), torch.ones(3))
    assert (result[:, 3:].abs() < 1e-3).all()


def test_distillation_loss_is_zero_at_the_target_alone():
    target = torch.randn(6, 5)
    assert distillation_loss(target, target).abs() < 1e-5
    assert distillation_loss(2 * target, target) > 0.5  # the cosine alone would not notice


def test_batches_of_a_window_are_of_like_length_and_repeatable():
    lengths = np.random.default_rng(1).integers(1, 60, 500)
    batches = [length_batch(lengths, 16, 0, step) for step in range(8)]
    spread = np.mean([np.ptp(lengths[rows]) for rows in batches])
    assert spread < 20 < np.ptp(lengths)
    assert all((length_batch(lengths, 16, 0, step) == rows).all() for step, rows in enumerate(batches))


def test_an_unseen_subject_has_no_caption_in_training():
    sayings = [Saying(f"{form} {n}", f"thing {n}") for n in range(300) for form in ("a", "flat", "3d")]
    sayings += [Saying("a red heart", "red heart")] * 5
    split = corpus_split(sayings, held_out=0.2)
    subjects = {side: {s.subject for s, at in zip(sayings, split, strict=True) if at == side} for side in set(split)}
    assert subjects.keys() == {"train", "caption", "subject"}
    assert not subjects["subject"] & (subjects["train"] | subjects["caption"])
    assert "red heart" not in subjects["subject"]


@pytest.mark.parametrize("config", [TINY, TextConfig(word=WORD, byte=None, width=10)])
def test_a_resumed_run_gives_the_bytes_of_an_unbroken_one(tmp_path, tokens, config):
    tokens = tokens if config.byte else TokenIds(tokens.word, None, tokens.truncated)
    targets, split = torch.randn(5, 6), np.array(["train"] * 5)
    training = TextTraining(steps=6, batch=4, warmup=2)
    train_text(tokens, targets, split, tmp_path / "unbroken", config, training)
    train_text(tokens, targets, split, tmp_path / "broken", config, training, stop_after=3)
    train_text(tokens, targets, split, tmp_path / "broken", config, training)
    unbroken, broken = (load_file(tmp_path / name / "state.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys() and all(torch.equal(unbroken[name], broken[name]) for name in unbroken)


def test_distillation_teaches_every_way_to_read_a_prompt(tmp_path, tokens):
    torch.manual_seed(1)
    targets = standardise(torch.randn(5, 6))
    rows, split = np.arange(5), np.array(["train"] * 5)
    train_text(tokens, targets, split, tmp_path, TINY, TextTraining(steps=80, batch=8, warmup=2, peak_rate=1e-2))
    state = load_file(tmp_path / "state.safetensors")
    module = DistilledText(TINY, 6)
    module.load_state_dict({k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")})
    predicted = module.eval()(trim(tokens.word, rows), trim(tokens.byte, rows))
    assert predicted.keys() == {"word", "byte", "both"}
    for value in predicted.values():
        assert distillation_loss(value, targets) < 1.4  # 2 before training
    assert retrieval(module, tokens, targets, np.array(["caption"] * 5))["r1_both_caption"] >= 0.8
