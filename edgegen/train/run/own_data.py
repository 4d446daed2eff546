"""A user's dataset made ready for training: encoded once, split, with its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from edgegen import show
from edgegen.errors import InputError
from edgegen.files import user_path
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import DiTConfig
from edgegen.runs import parallel
from edgegen.train.data.bucketed_latents import BucketedLatents, Text, encode_text
from edgegen.train.data.buckets import model_buckets
from edgegen.train.data.dataset import DataConfig, Dataset, open_dataset
from edgegen.train.data.dataset_sample import Problems
from edgegen.train.data.latent_cache import LatentCache, Picture, index_path, read_index, split, write_index
from edgegen.train.data.tensor_cache import TensorCache, weights_digest
from edgegen.train.stages.frozen import Frozen, load_frozen

CACHE = "cache"  # among the runs


def prepare_own_data(config: DataConfig, model: DiTConfig, runs_dir: Path) -> tuple[BucketedLatents, BucketedLatents]:
    """The pictures to train on and those to watch, for a model; what is cached already is not encoded again.

    Under torchrun every process encodes its share. InputError when the dataset is none or too small.
    """
    dataset = open_dataset(config)
    frozen = load_frozen(runs_dir, config.encoders)
    side = CheckpointConfig("", model, frozen.text_config, frozen.autoencoder_config).pixels_per_token
    buckets = model_buckets(model, side, config.pixels, config.max_ratio)
    folder = user_path(config.cache) if config.cache else runs_dir / CACHE
    cache = LatentCache(folder, frozen.autoencoder.encoder, buckets, side, config)
    pictures = find_pictures(cache, dataset)
    seen, watched = split(pictures, config.validation, config.validation_pictures)
    store = cache.open()
    prompts = ["", *sorted({caption for picture in pictures for caption in picture.captions})]
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    text = find_text(prompts, frozen, folder, config.text_cache_mb * 1e6)

    def build(part: list[Picture]) -> BucketedLatents:
        return BucketedLatents(store, part, [[row_of[caption] for caption in p.captions] for p in part], text)

    return build(seen), build(watched)


def find_pictures(cache: LatentCache, dataset: Dataset) -> list[Picture]:
    """The usable pictures of a dataset, all with a latent in the cache; told of is what was left out."""
    path, stamp = index_path(cache, dataset), dataset.stamp()
    first = parallel.rank() == 0
    indexed = read_index(path, stamp, cache.open()) is not None
    if not parallel.broadcast(indexed):
        quiet = Problems(tell=lambda line: None)
        if parallel.world_size() > 1:
            cache.encode_(dataset, quiet, lambda done: None, parallel.rank(), parallel.world_size())
            parallel.wait()
        if first:
            index_(cache, dataset, path, stamp)
        parallel.wait()
    pictures = read_index(path, stamp, cache.open())
    if pictures is None:
        raise InputError(f"{dataset.root} changed while it was read.", "Start again when it is complete.")
    if first:
        tell(dataset, pictures, path)
    return pictures


def index_(cache: LatentCache, dataset: Dataset, path: Path, stamp: str) -> None:
    """Encodes what is missing and lists all usable pictures; what was left out goes to a file beside the index."""
    to = show.console()
    problems = Problems(tell=lambda line: to.print(line, markup=False, soft_wrap=True))
    with show.Progress(to) as progress:
        line = f"encode {dataset.root}"
        progress(line)
        pictures = cache.encode_(dataset, problems, Counted(progress, line))
    write_index(path, stamp, pictures)
    problems.save(path.with_suffix(".left_out.jsonl"))
    if problems.rows:
        to.print(
            f"{problems.summary()}; all are in {path.with_suffix('.left_out.jsonl')}", markup=False, soft_wrap=True
        )


class Counted:
    """Shows how many samples were seen, where stderr is a terminal."""

    def __init__(self, progress: show.Progress, line: str):
        self.progress, self.line = progress, line

    def __call__(self, done: int) -> None:
        if self.progress.status:
            self.progress.status.update(f"{escape(self.line)}: {done:,}")


def tell(dataset: Dataset, pictures: list[Picture], path: Path) -> None:
    """One line on what is trained on."""
    counts: dict[Any, int] = {}
    for picture in pictures:
        counts[picture.bucket] = counts.get(picture.bucket, 0) + 1
    told = ", ".join(f"{rows}x{columns} tokens {count}" for (rows, columns), count in sorted(counts.items()))
    left = path.with_suffix(".left_out.jsonl")
    more = sum(1 for _ in left.open(encoding="utf-8")) if left.is_file() else 0
    show.console().print(
        f"{dataset.root} ({dataset.kind}): {len(pictures):,} pictures in buckets {told}; {more:,} left out",
        markup=False,
        soft_wrap=True,
    )


def find_text(prompts: list[str], frozen: Frozen, folder: Path, limit_bytes: float) -> Text:
    """The text of prompts; the first process encodes what is not cached, the others read it then."""
    maker = weights_digest(frozen.text, sorted(frozen.tokenizer_files.items()))

    def encode() -> Text:
        return encode_text(prompts, frozen.tokenizers, frozen.text, TensorCache(folder / "text", maker), limit_bytes)

    text = encode() if parallel.rank() == 0 else None
    parallel.wait()
    return text if text is not None else encode()
