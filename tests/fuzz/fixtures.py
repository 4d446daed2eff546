"""The unspoiled inputs: a small checkpoint with both tokenizers, its bundle for every back end, a plan, a tier."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

from tiny import TIER, TINY
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgegen.model.checkpoint import PARTS, save_checkpoint, shape_configs
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.states import RandomState, part_shapes
from edgegen.model.text import ByteTokenizer, EncoderConfig

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "heart", "cat", "##s", "blue", "dog")
BACKENDS = ("onnx", "executorch", "coreml")


def two_encoders() -> CheckpointConfig:
    """The smallest model with words and bytes."""
    text = replace(TINY.text, word=EncoderConfig(len(WORDS), 8, 16, 1, 2, 2))
    return replace(TINY, text=text)


def word_file() -> bytes:
    """A WordPiece tokenizer of a few words, padded to 8."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=8, pad_id=0, pad_token="[PAD]")
    return tokenizer.to_str().encode()


def make_fixtures(folder: Path, backends: tuple[str, ...] = BACKENDS) -> Path:
    """Fills a folder, unless it is full already."""
    from edgegen.export import export
    from edgegen.model.checkpoint import load_checkpoint
    from edgegen.plan import make_plan
    from edgegen.target import load_tier

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "bundle" / "manifest.json").is_file():
        return folder
    config = two_encoders()
    states = {part: RandomState(part_shapes(part, *shape_configs(config)), 0) for part in (*PARTS, "encoder")}
    byte = json.dumps(asdict(ByteTokenizer(length=config.text.byte.length))).encode()
    save_checkpoint(folder / "checkpoint", config, states, {"word.json": word_file(), "byte.json": byte})
    (folder / "tier.toml").write_text(TIER)
    checkpoint = load_checkpoint(folder / "checkpoint")
    export(make_plan(checkpoint, load_tier(str(folder / "tier.toml")), backends, out=folder / "bundle"))
    return folder


def warm() -> None:
    """Imports all that commands import, so that a copy of this process starts at once."""

    import edgegen.api  # noqa: F401
    import edgegen.bench.recommend  # noqa: F401
    import edgegen.bench.remote  # noqa: F401
    import edgegen.quantize.run  # noqa: F401
    import edgegen.train.run.own_data  # noqa: F401
    import edgegen.train.run.recipe  # noqa: F401
    from edgegen.backends.registry import list_backends
    from edgegen.quiet import quietly
    from edgegen.runtime.mil_file import import_coremltools

    quietly(import_coremltools)
    for backend in list_backends():
        quietly(backend.warm)
    others = len(os.listdir("/proc/self/task")) - 1 if os.path.isdir("/proc/self/task") else 0
    assert threading.active_count() == 1, "a copy of a process with threads may wait for them for ever"
    if others:
        print(f"note: {others} threads of libraries run in this process")
