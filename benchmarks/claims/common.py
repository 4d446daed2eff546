"""What the studies of the paper's claims share: data, one resumable training run, rows, and a sentence in the README.

Shapes: N scenes, C latent channels, h x w latent grid, L text tokens, T text channels.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from edgegen.bench.records import append_study, read
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import SceneSource
from edgegen.model.config import DiTConfig
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.encoded import cache_text
from edgegen.train.data.scene_data import scene_pool
from edgegen.train.stages.frozen import Frozen, load_frozen
from edgegen.train.stages.loop import ElasticTraining, train_elastic
from edgegen.train.stages.results import read_log

WATCHED_SEED = 1  # of the scenes that are held out: known facts, new scenes


def arguments(study: Path, text: str, **defaults: Any) -> argparse.Namespace:
    """The options every study takes; `defaults` change and add some."""
    options = dict(steps=1000, batch=32, seeds="0,1,2", hidden=96, scenes=4096, watched=512, rate=2e-3) | defaults
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `edgegen train fetch` fetched")
    parser.add_argument("--encoders", default="bundled", help="checkpoint whose autoencoder and text encoders are used")
    runs = Path("runs") / f"claims-{study.name}"
    parser.add_argument("--runs", type=Path, default=runs, help="where runs are resumed from")
    parser.add_argument("--out", type=Path, default=study, help="folder of measurements.jsonl, plot.png and README.md")
    parser.add_argument("--device", default="cpu")
    for name, value in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = parser.parse_args()
    chosen.seeds = [int(seed) for seed in str(chosen.seeds).split(",")]
    torch.set_num_threads(1)
    return chosen


def tiny_config(hidden: int, data: CaptionedLatents, **changes: Any) -> DiTConfig:
    """A three-stage model of one to two million parameters for 16x16 latents: 64 tokens, eight heads."""
    _, channels, height, width = data.latents.shape
    settings: dict[str, Any] = dict(
        hidden=hidden,
        head_dim=hidden // 8,
        depths=(1, 2, 1),
        ffn_ratios=(3, 3, 3),
        blocks=4,
        queries_per_kv=1,
        cross_kv_heads=1,
        text_dim=data.text.shape[2],
        pooled_text=True,
        in_channels=channels,
        grid=(height // 2, width // 2),
        time_features=64,
        rope_theta=100.0,
    )
    return DiTConfig(**(settings | changes))


def training_of(chosen: argparse.Namespace, seed: int, **changes: Any) -> ElasticTraining:
    """The training every variant has; one log line and one validation at the end, and nine on the way."""
    every = max(1, chosen.steps // 10)
    return ElasticTraining(
        **(
            dict(
                steps=chosen.steps,
                batch=chosen.batch,
                rate=chosen.rate,
                warmup=min(100, chosen.steps // 5),
                seed=seed,
                ema=0.99,
                gradient_scale="none",
                precision="float32",
                log_every=every,
                validate_every=every,
            )
            | changes
        )
    )


def scenes(chosen: argparse.Namespace) -> tuple[CaptionedLatents, CaptionedLatents]:
    """Scenes to train on and others to watch: latents, and the word tokens of one caption each; cached on disk."""
    frozen, sprites = load_frozen(chosen.runs, chosen.encoders), Sprites.load(chosen.data)
    made = []
    for name, seed, count in (("train", 0, chosen.scenes), ("watched", WATCHED_SEED, chosen.watched)):
        pool = scene_pool(
            SceneSource("train", seed),
            count,
            sprites,
            frozen.autoencoder.encoder,
            chosen.runs / f"{name}-{count}.safetensors",
        )
        made.append(captioned(pool.latents.float(), [captions[0] for captions in pool.captions], frozen))
    return made[0], made[1]


def captioned(latents: torch.Tensor, captions: Sequence[str], frozen: Frozen) -> CaptionedLatents:
    """Latents (N, C, h, w), each with one caption of which only the word tokens are kept; caption 0 is empty."""
    prompts = ["", *sorted(set(captions))]
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    text, mask, _ = cache_text(prompts, frozen.tokenizers, frozen.text)
    words = frozen.tokenizers.word_length or text.shape[1]
    used = int(mask[:, :words].sum(1).max())  # no caption fills all of them
    return CaptionedLatents(
        latents, [[row_of[caption]] for caption in captions], text[:, :used].clone(), mask[:, :used].clone(), used
    )


Work = Callable[[Path], Any]  # trains in the folder given, resuming what is there


def measured(chosen: argparse.Namespace, name: str, seed: int, settings: dict[str, Any], work: Work) -> dict[str, Any]:
    """The results of a run, from its row where there is one; else it is trained and a row made.

    `validation` has the last losses by width, `curves` lists [step, loss] by "val@width". A run that was interrupted
    goes on where it stopped.
    """
    path = chosen.out / "measurements.jsonl"
    key = {"variant": name, "seed": seed, **settings}
    for row in read(path):
        if learnt(row["settings"]) == learnt(key):
            return row["results"]
    folder = chosen.runs / f"{name}-{seed}-{settings['training']['steps']}"
    work(folder)
    log = read_log(folder)
    curves = {
        width: [[row["step"], row[width]] for row in log if width in row]
        for width in log[-1]
        if width.startswith("val@")
    }
    last = {width.removeprefix("val@"): curve[-1][1] for width, curve in curves.items()}
    times = [row["time"] for row in log]
    results = {"validation": last, "curves": curves, "seconds": round(times[-1] - times[0], 1)}
    append_study(path, key, results)
    print(name, "seed", seed, last, flush=True)
    return results


def learnt(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a row without those that change how long a run takes and not what it learns."""
    return settings | {"training": {k: v for k, v in settings["training"].items() if k != "compile"}}


def train(
    data: tuple[CaptionedLatents, CaptionedLatents], config: DiTConfig, training: ElasticTraining, device: str
) -> Work:
    """The work of a plain elastic run; of one width it is an ordinary model."""
    return lambda folder: train_elastic(data[0], data[1], folder, config, training, device=device)


def common_settings(chosen: argparse.Namespace, config: DiTConfig, training: ElasticTraining) -> dict[str, Any]:
    """What a row says of its run beside variant and seed."""
    told = {k: v for k, v in asdict(replace(training, seed=0)).items() if k != "seed"}
    return {
        "steps": chosen.steps,
        "scenes": chosen.scenes,
        "watched": chosen.watched,
        "encoders": chosen.encoders,
        "model": config.to_dict(),
        "training": {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()},
    }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter of one value is 0."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def change(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, over seeds, of 100 (ours / theirs - 1): the same seed has the same batches."""
    return mean_and_spread([100 * (a / b - 1) for a, b in zip(ours, theirs, strict=True)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


BEGIN, END = "<!-- result: written by run.py -->", "<!-- end of result -->"


def write_result(out: Path, study: Path, text: str) -> None:
    """Puts a result between its marks in the study's README, or into result.md where the output is elsewhere.

    Below it stands what all rows together took.
    """
    minutes = sum(row["results"]["seconds"] for row in read(out / "measurements.jsonl")) / 60
    text = f"{text}\n\nAll rows together took {minutes:.0f} minutes of one core."
    if out.resolve() != study.resolve():
        out.mkdir(parents=True, exist_ok=True)
        (out / "result.md").write_text(text + "\n", encoding="utf-8")
        return
    readme = study / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def plot_points(path: Path, groups: dict[str, dict[str, Sequence[float]]], ylabel: str) -> None:
    """Each seed as a point and each mean as a bar: groups on the axis, variants side by side in colours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    variants = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure, axes = plt.subplots(figsize=(1.6 + 1.3 * len(groups) * max(1, len(variants) / 2), 3.4))
    for index, variant in enumerate(variants):
        shift = (index - (len(variants) - 1) / 2) * 0.8 / len(variants)
        for place, group in enumerate(groups.values()):
            values = group.get(variant, [])
            if not values:
                continue
            label = variant if place == next(i for i, g in enumerate(groups.values()) if variant in g) else None
            axes.plot([place + shift] * len(values), values, "o", color=f"C{index}", alpha=0.6, label=label)
            axes.hlines(statistics.mean(values), place + shift - 0.1, place + shift + 0.1, color=f"C{index}", lw=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel(ylabel)
    if len(variants) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
