"""word.json is looked at before the tokenizers library reads it, which panics at some of what its format can hold."""

import json
from copy import deepcopy
from random import Random

import pytest
from fuzz.fixtures import word_file
from fuzz.kinds import spoiled_tokenizer

from edgegen.errors import InputError
from edgegen.model.text import make_tokenizers

WORD = json.loads(word_file())
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
BPE = WORD | {
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {"[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "ab": 6}, "merges": [["a", "b"]],
    },
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTE_LEVEL]},
    "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, WORD["post_processor"]]},
}  # fmt: skip
ROBERTA = {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim_offsets": True}
LEVEL = WORD | {
    "model": {"type": "WordLevel", "vocab": WORD["model"]["vocab"], "unk_token": "[UNK]"},
    "post_processor": ROBERTA | {"add_prefix_space": True},
}
TEXTS = ["", "a cat", "é💚 [CLS] zz" + "x" * 2000]


def ids(values: dict):
    return make_tokenizers({"word.json": json.dumps(values).encode()}).encode(TEXTS).word


@pytest.mark.parametrize("values", [WORD, BPE, LEVEL])
def test_what_can_be_used_is_read(values):
    assert ids(values).shape == (3, 8) and ids(values).max() > 1


def changed(values: dict, change) -> dict:
    values = deepcopy(values)
    change(values)
    return values


def rename_special(values):
    special = values["post_processor"]["special_tokens"]
    special["x"] = special.pop("[SEP]")


@pytest.mark.parametrize("values, change, told", [
    (WORD, rename_special, "'[SEP]' of a template"),  # a panic in use
    (BPE, lambda v: v["model"].update(continuing_subword_prefix="a b"), "no tokenizer that can be used"),  # in reading
    (WORD, lambda v: v["model"].update(unk_token="?"), "unk_token '?'"),
    (LEVEL, lambda v: v["model"].update(unk_token=["?"]), "expected a string"),
    (WORD, lambda v: v.pop("padding"), "padding.strategy is None"),
    (LEVEL, lambda v: v["post_processor"].update(sep=["[SEP]", 2**31]), "2147483648 is no id"),
    (BPE, lambda v: v["post_processor"]["processors"][1]["special_tokens"]["[SEP]"].update(ids=[2**31]), "is no id"),
    (BPE, lambda v: v["pre_tokenizer"]["pretokenizers"].extend([BYTE_LEVEL] * 50), "ByteLevel 51 times"),
    (BPE, lambda v: v["pre_tokenizer"]["pretokenizers"].extend([{"type": "Whitespace"}] * 50), "53 steps"),
    (WORD, lambda v: v["post_processor"].update(single=-1e-300), "must be a list"),
])  # fmt: skip
def test_what_fails_in_use_is_refused_in_one_line(values, change, told, capfd):
    with pytest.raises(InputError) as refusal:
        ids(changed(values, change))
    assert told in refusal.value.message and len(str(refusal.value)) <= 300
    assert capfd.readouterr() == ("", "")  # of a panic nothing is shown


def test_mutated_files_are_read_or_refused(capfd):
    read = 0
    for number in range(600):
        rng = Random(number)
        data = spoiled_tokenizer(rng, (WORD, BPE, LEVEL)[number % 3])
        try:
            make_tokenizers({"word.json": data}).encode(TEXTS)
            read += 1
        except InputError as refusal:
            assert len(refusal.message) <= 300
    assert 0 < read < 300
    assert capfd.readouterr() == ("", "")
