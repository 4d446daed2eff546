"""Distil the text encoders from sentence embeddings, each alone and both together.

Shapes: K captions, B batch, E width of the teacher's embeddings, T text width.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from edgegen.emoji.captions import Saying, common_concepts, unit_hash
from edgegen.model.text import ByteTokenizer, TextConfig, TextEncoders, TokenIds, masked_mean
from edgegen.runs.ranges import check_ranges
from edgegen.runs.run_state import RunState
from edgegen.runs.schedule import cosine_rate
from edgegen.train.stages.reading import Readers, Readings, reading_loss

WAYS = ("word", "byte", "both")  # which encoders a prompt goes through


@dataclass(frozen=True)
class TextTraining:
    """The schedule is counted in steps, so that a slower machine gives the same weights later."""

    steps: int = 2000
    batch: int = 128
    peak_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    reading: float = 0.0  # weight of what is said of the things of a scene, read off their own tokens; 0: none
    reading_captions: int = 20_000  # of scenes, that are read
    start: str = ""  # folder of a checkpoint, or "bundled", whose encoders and tokenizers the run begins with
    seed: int = 0
    bfloat16: bool = False  # autocast; pays only where the processor multiplies bfloat16 natively

    def __post_init__(self) -> None:
        check_ranges(self)


def train_word_tokenizer(texts: list[str], vocabulary: int, length: int) -> Tokenizer:
    """A lower-case WordPiece of at most `vocabulary` pieces, padded with id 0 to `length`, [CLS] and [SEP] around."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    pieces = word_pieces(counts, vocabulary)
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=length)
    tokenizer.enable_truncation(length)
    return tokenizer


def word_pieces(counts: Counter, vocabulary: int, whole_words: float = 0.75) -> list[str]:
    """Special tokens, characters, the commonest words, then the beginnings and ends that save most characters.

    Ties go by the alphabet: the trainers of the tokenizers library break them at random.
    """
    characters = sorted(set("".join(counts)) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters if c.isalnum())]
    longer = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    words = longer[: int(whole_words * max(0, vocabulary - len(pieces)))]
    saved: Counter = Counter()
    for word in longer[len(words) :]:
        for cut in range(2, len(word) - 1):
            saved[word[:cut]] += (cut - 1) * counts[word]
            saved[f"##{word[cut:]}"] += (len(word) - cut - 1) * counts[word]
    parts = sorted(saved, key=lambda piece: (-saved[piece], piece))
    return list(dict.fromkeys([*pieces, *words, *parts]))[:vocabulary]


def save_tokenizers(folder: Path, word: Tokenizer | None, byte: ByteTokenizer | None) -> None:
    """Write `word.json` and `byte.json`, as `Tokenizers.load` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    if word is not None:
        word.save(str(folder / "word.json"))
    if byte is not None:
        (folder / "byte.json").write_text(json.dumps(asdict(byte)) + "\n", encoding="utf-8")


def standardise(embeddings: Tensor) -> Tensor:
    """Zero mean and unit variance in every dimension of (K,E); near-constant dimensions stay near zero."""
    std = embeddings.std(0)
    return (embeddings - embeddings.mean(0)) / std.clamp_min(0.1 * std.median())


def corpus_split(sayings: list[Saying], held_out: float = 0.04, seed: int = 0) -> np.ndarray:
    """'train', 'caption' (held out, its subject is seen) or 'subject' (unseen subject) of each saying; (K,).

    Subjects among the common concepts are always seen.
    """
    common = {concept.name for concept in common_concepts()} | {""}

    def side(saying: Saying) -> str:
        if saying.subject not in common and unit_hash(saying.subject, seed) < held_out:
            return "subject"
        return "caption" if unit_hash(f"caption {saying.text}", seed) < held_out else "train"

    return np.array([side(saying) for saying in sayings])


class DistilledText(nn.Module):
    """The encoders with one discardable linear head on the pooled tokens of each way to read a prompt."""

    def __init__(self, config: TextConfig, embedding: int, reads: bool = False):
        super().__init__()
        self.encoders = TextEncoders(config)
        self.readers = Readers(config.width) if reads else None
        self.ways = [way for way in WAYS if way in self.encoders.encoders or len(self.encoders.encoders) == 2]
        self.heads = nn.ModuleDict({way: nn.Linear(config.width, embedding) for way in self.ways})

    def forward(self, word_ids: Tensor | None, byte_ids: Tensor | None) -> dict[str, Tensor]:
        """The predicted embedding (B,E) of each way."""
        given = {name: ids for name, ids in (("word", word_ids), ("byte", byte_ids)) if ids is not None}
        encoded = {name: self.encoders.encode(name, ids) for name, ids in given.items()}  # (B,L,T), (B,L)
        if len(encoded) == 2:
            encoded["both"] = tuple(torch.cat(parts, 1) for parts in zip(*encoded.values(), strict=True))
        return {way: self.heads[way](masked_mean(*encoded[way])) for way in self.ways}


def distillation_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error plus one minus the cosine, of standardised embeddings (B,E)."""
    cosine = F.cosine_similarity(predicted, target, dim=-1).mean()
    return F.mse_loss(predicted, target) + 1 - cosine


def length_batch(lengths: np.ndarray, batch: int, seed: int, step: int, window: int = 8) -> np.ndarray:
    """Rows (B,) of one step: `window` steps share one draw, sorted by length, so that padding can be cut short."""
    draws = np.random.default_rng((seed, step // window))
    rows = draws.integers(len(lengths), size=batch * window)
    rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(window, batch)
    return rows[draws.permutation(window)[step % window]]


def trim(ids: np.ndarray | None, rows: np.ndarray) -> Tensor | None:
    """The chosen rows of ids (K,L), without the columns where all are padding."""
    if ids is None:
        return None
    chosen = ids[rows]
    return torch.from_numpy(chosen[:, : max(1, int((chosen != 0).sum(1).max()))])


def train_text(
    tokens: TokenIds,
    targets: Tensor,
    split: np.ndarray,
    run_dir: Path,
    config: TextConfig,
    training: TextTraining,
    stop_after: int | None = None,
    readings: Readings | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> TextEncoders:
    """Train on tokens of K captions and standardised targets (K,E), resuming what `run_dir` holds.

    A new run begins with the encoders `start` where they are given; with `readings` it learns these too.
    """
    torch.manual_seed(training.seed)
    module = DistilledText(config, targets.shape[1], readings is not None)
    if start is not None:
        module.encoders.load_state_dict(start)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=training.peak_rate, weight_decay=training.weight_decay, betas=(0.9, 0.98)
    )
    state = RunState(run_dir, module, optimizer, {"model": asdict(config), "training": asdict(training)})
    rows = np.flatnonzero(split == "train")
    lengths = ((tokens.byte if tokens.byte is not None else tokens.word)[rows] != 0).sum(1)
    end = min(training.steps, stop_after or training.steps)
    for step in state.steps(end):
        picked = rows[length_batch(lengths, training.batch, training.seed, step)]
        read = readings.batch(training.batch, training.seed, step) if readings is not None else None
        losses = _step_(module, optimizer, tokens, targets, picked, training, step, read)
        if (step + 1) % 50 == 0:
            state.log(step + 1, **losses)
        if (step + 1) % 500 == 0 or step + 1 == end:
            state.log(step + 1, **retrieval(module, tokens, targets, split))
        state.save(step + 1, force=step + 1 == end)
    return module.encoders.eval()


def _step_(
    module, optimizer, tokens, targets, rows, training: TextTraining, step: int, read: Readings | None
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(step, training.steps, training.peak_rate, training.warmup)
    with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
        predicted = module(trim(tokens.word, rows), trim(tokens.byte, rows))
    losses = {way: distillation_loss(value.float(), targets[rows]) for way, value in predicted.items()}
    total, right = sum(losses.values()), {}
    if read is not None:
        losses["reading"], right = reading_loss(module.encoders.encode, module.readers, read)
        total = total + training.reading * losses["reading"]
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()} | right


@torch.no_grad()
def retrieval(module: DistilledText, tokens: TokenIds, targets: Tensor, split: np.ndarray) -> dict[str, float]:
    """R@1 of held-out captions among all held-out teacher embeddings, by way and kind of hold-out."""
    rows = np.flatnonzero(split != "train")
    if not len(rows):
        return {}
    parts = [
        module(trim(tokens.word, rows[i : i + 256]), trim(tokens.byte, rows[i : i + 256]))
        for i in range(0, len(rows), 256)
    ]
    wanted = F.normalize(targets[rows], dim=-1)  # (K,E)
    scores = {}
    for way in module.ways:
        found = F.normalize(torch.cat([part[way] for part in parts]), dim=-1) @ wanted.T  # (K,K)
        hit = (found.argmax(-1) == torch.arange(len(rows))).numpy()
        scores |= {
            f"r1_{way}_{kind}": hit[split[rows] == kind].mean() for kind in ("caption", "subject") if kind in split
        }
    return scores
