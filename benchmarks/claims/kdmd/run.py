"""Does K-DMD beat its two halves and plain Euler at four steps? arXiv 2601.08303, section 5.

usage: python benchmarks/claims/kdmd/run.py --data data [--checkpoint bundled --width 0.375] [--steps 1500]
                                            [--teacher-steps 300] [--seeds 0,1] [--guidance 3]

Distils one base for every seed by K-DMD, by distribution matching alone and as the few-step teacher alone, with about
as many passes through the network each; draws the watched scenes' captions in four steps with each, and in four and
28 Euler steps with the guided base. The base is a checkpoint's, or without one a small model trained here on the same
scenes for `--base-steps`. Every measurement is a row of measurements.jsonl; an interrupted run resumes.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import torch
from torch import Tensor

from edgegen.bench.records import append_study, read
from edgegen.evaluate import features, frechet_distance
from edgegen.evaluate.drawing import decode_latents
from edgegen.model.dit import DiT
from edgegen.model.elastic import ElasticDiT, load_elastic_, materialize
from edgegen.model.sampler import flow_sigmas
from edgegen.model.text import masked_mean
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.run.kdmd_data import base_checkpoint
from edgegen.train.stages.adapters import BASE, LoraConfig
from edgegen.train.stages.frozen import load_frozen
from edgegen.train.stages.kdmd_run import AVERAGE, FEW_STEP, Distillation, KdmdTraining, train_kdmd, weights_digest
from edgegen.train.stages.results import elastic_result, read_state

HERE = Path(__file__).parent
LIGHT = "K-DMD, teacher at weight 0.05"
ALONE = {"kd": 0.0, "kd_features": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "K-DMD": {},
    LIGHT: {"kd": 0.05, "kd_features": 0.0},
    "K-DMD, last step matched": {"dmd_from": 3, "start_from_teacher": True, "critic_steps": 100},
    "DMD alone": ALONE,
    "few-step teacher alone": {},
}
EULER_4, EULER_4_EVEN, EULER_28 = "Euler, 4 steps, shift 3", "Euler, 4 steps, shift 1", "Euler, 28 steps"
PLAIN = {EULER_28: flow_sigmas(28), EULER_4: flow_sigmas(4, 3.0), EULER_4_EVEN: flow_sigmas(4)}
BASE_SEED, NOISE_SEED = 100, 1


def main() -> None:
    chosen = common.arguments(
        HERE,
        __doc__,
        steps=1500,
        seeds="0,1",
        rate=5e-4,
        teacher_steps=300,
        base_steps=4000,
        base_rate=2e-3,
        checkpoint="",
        width=0.375,
        guidance=3.0,
        rank=8,
        substeps=4,
        student_every=5,
        pictures=1,
    )
    data = common.scenes(chosen)
    base = make_base(chosen, data)
    judge = Judge(chosen, data[1])
    found: dict[str, list[dict[str, float]]] = {}
    for seed in chosen.seeds:
        for name, sigmas in PLAIN.items():
            found.setdefault(name, []).append(drawn_by_base(chosen, data, base, judge, name, seed, sigmas))
        for name in VARIANTS:
            found.setdefault(name, []).append(distilled(chosen, data, base, judge, name, seed))
    tell(chosen, found, judge.floor())


def make_base(chosen: Namespace, data: tuple[CaptionedLatents, CaptionedLatents]) -> DiT:
    """A checkpoint's transformer without adapters, or a small one trained here once."""
    if chosen.checkpoint:
        folder = "" if chosen.checkpoint == "bundled" else chosen.checkpoint
        return base_checkpoint(folder, chosen.runs).transformer(chosen.width, adapters=False)
    config = common.tiny_config(chosen.hidden, data[0])
    training = common.training_of(
        chosen,
        BASE_SEED,
        steps=chosen.base_steps,
        rate=chosen.base_rate,
        validate_every=max(1, chosen.base_steps // 10),
    )
    folder = chosen.runs / f"base-{chosen.hidden}-{chosen.base_steps}"
    common.train(data, config, training, chosen.device)(folder)
    model = ElasticDiT(config)
    load_elastic_(model, elastic_result(folder)[1])
    return materialize(model, 1.0)


class Judge:
    """Fréchet distances of drawn latents to the watched scenes': of pictures' features, and of latents."""

    def __init__(self, chosen: Namespace, watched: CaptionedLatents):
        self.chosen, self.real = chosen, watched.latents.float()
        self.decoder = load_frozen(chosen.runs, chosen.encoders).autoencoder.decoder
        rows = torch.tensor([captions[0] for captions in watched.captions])
        text, mask = watched.text[rows].float(), watched.mask[rows].float()
        self.condition = (text, mask, masked_mean(text, mask))
        self.features = self.seen_as(self.real) if chosen.pictures else None

    def noise(self, seed: int) -> Tensor:
        return torch.randn(self.real.shape, generator=torch.Generator().manual_seed(NOISE_SEED + 1000 * seed))

    def seen_as(self, latents: Tensor) -> Tensor:
        """Features of the decoded pictures; real ones are decoded too, so that the decoder's own loss cancels."""
        return features(decode_latents(self.decoder, latents), self.chosen.data)

    def score(self, latents: Tensor) -> dict[str, float]:
        flat, count = self.real.flatten(1), min(64, len(self.real) // 2)
        scores = {
            "frechet_latents": frechet_distance(flat, latents.flatten(1), count),
            "spread": float(latents.std() / self.real.std()),
        }
        if self.features is not None:
            scores["frechet_features"] = frechet_distance(self.features, self.seen_as(latents), count)
        return scores

    def floor(self) -> dict[str, float]:
        """What one half of the real scenes scores against the other: distances do not get to zero with few samples."""
        half, count = len(self.real) // 2, min(64, len(self.real) // 4)
        flat = self.real.flatten(1)
        scores = {"frechet_latents": frechet_distance(flat[:half], flat[half:], count)}
        if self.features is not None:
            scores["frechet_features"] = frechet_distance(self.features[:half], self.features[half:], count)
        return scores


def training_of(chosen: Namespace, name: str, seed: int) -> KdmdTraining:
    """The settings of a variant; phases it lacks are made up for, a teaching step being two iterations' work."""
    steps, teacher_steps = chosen.steps, chosen.teacher_steps
    if name == "DMD alone":
        steps += 2 * teacher_steps
    if name == "few-step teacher alone":
        steps, teacher_steps = 1, teacher_steps + steps // 2
    every = max(1, chosen.steps // 5)
    return KdmdTraining(
        **(
            dict(
                width=chosen.width,
                steps=steps,
                teacher_steps=teacher_steps,
                batch=chosen.batch,
                rate=chosen.rate,
                warmup=min(20, chosen.steps),
                decay_share=0.25,
                ema=0.98,
                guidance=chosen.guidance,
                substeps=chosen.substeps,
                student_every=chosen.student_every,
                drop_encoder=0.0,
                seed=seed,
                log_every=max(1, chosen.steps // 50),
                validate_every=every,
                validate_count=min(256, chosen.watched),
            )
            | VARIANTS[name]
        )
    )


def distilled(
    chosen: Namespace, data: tuple[CaptionedLatents, CaptionedLatents], base: DiT, judge: Judge, name: str, seed: int
) -> dict[str, float]:
    """The scores of a distilled student, or of the few-step teacher itself."""
    training, lora = training_of(chosen, name, seed), LoraConfig(chosen.rank, 2.0 * chosen.rank)
    settings = told(chosen, base) | {
        "training": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(training).items()}
    }
    folder = chosen.runs / f"{name.replace(' ', '-').replace(',', '')}-{seed}-{training.first_phase}-{training.steps}"

    def draw() -> Tensor:
        work = loaded(chosen, data, base, training, lora, folder)
        adapter = FEW_STEP if name == "few-step teacher alone" else AVERAGE
        return work.sample(adapter, judge.noise(seed), judge.condition)

    return measured(chosen, name, seed, settings, judge, draw)


def loaded(
    chosen: Namespace,
    data: tuple[CaptionedLatents, CaptionedLatents],
    base: DiT,
    training: KdmdTraining,
    lora: LoraConfig,
    folder: Path,
) -> Distillation:
    """A finished run's networks, trained now or resumed."""
    unconditional = empty(data[0])
    train_kdmd(deepcopy(base), data[0], data[1], unconditional, folder, lora, training, device=chosen.device)
    work = Distillation(deepcopy(base), lora, training, unconditional)
    work.run.load_state_dict(read_state(folder, "module.").tensors)
    return work


def empty(data: CaptionedLatents) -> tuple[Tensor, ...]:
    """The empty prompt's condition."""
    text, mask = data.text[:1].float(), data.mask[:1].float()
    return text, mask, masked_mean(text, mask)


def drawn_by_base(
    chosen: Namespace,
    data: tuple[CaptionedLatents, CaptionedLatents],
    base: DiT,
    judge: Judge,
    name: str,
    seed: int,
    sigmas: list[float],
) -> dict[str, float]:
    """The scores of the guided base; the seed is the noise's alone."""

    def draw() -> Tensor:
        training = KdmdTraining(guidance=chosen.guidance, precision="float32")
        work = Distillation(deepcopy(base), LoraConfig(1, 1.0), training, empty(data[0]))
        return work.sample(BASE, judge.noise(seed), judge.condition, sigmas, guidance=True)

    return measured(
        chosen, name, seed, told(chosen, base) | {"guidance": chosen.guidance, "sigmas": sigmas}, judge, draw
    )


def told(chosen: Namespace, base: DiT) -> dict[str, Any]:
    """What every row says of its data and base."""
    return {
        "base": chosen.checkpoint or f"hidden {chosen.hidden}, {chosen.base_steps} steps",
        "base_sha256": weights_digest(base),
        "scenes": chosen.scenes,
        "watched": chosen.watched,
        "rank": chosen.rank,
        "pictures": chosen.pictures,
    }


def measured(chosen: Namespace, name: str, seed: int, settings: dict[str, Any], judge: Judge, draw) -> dict[str, float]:
    """The scores of a row that is there, or of pictures drawn now."""
    path, key = chosen.out / "measurements.jsonl", {"variant": name, "seed": seed, **settings}
    for row in read(path):
        if row["settings"] == key:
            return row["results"]["scores"]
    start = time.perf_counter()
    scores = judge.score(draw())
    append_study(path, key, {"scores": scores, "seconds": round(time.perf_counter() - start, 1)})
    print(name, "seed", seed, {k: round(v, 3) for k, v in scores.items()}, flush=True)
    return scores


def tell(chosen: Namespace, found: dict[str, list[dict[str, float]]], floor: dict[str, float]) -> None:
    """Plot, table and sentence."""
    measures = {"frechet_features": "Fréchet distance of features", "frechet_latents": "Fréchet distance of latents"}
    measures = {key: title for key, title in measures.items() if key in floor}
    main_measure = next(iter(measures))
    values = {name: {key: [row[key] for row in rows] for key in measures} for name, rows in found.items()}
    rows = [
        (
            name,
            *(f"{m:.3g} ± {s:.2g}" for m, s in (common.mean_and_spread(v) for v in by.values())),
            f"{common.mean_and_spread([row['spread'] for row in found[name]])[0]:.2f}",
        )
        for name, by in values.items()
    ]
    rows.append(("one half of the real scenes against the other", *(f"{floor[key]:.3g}" for key in measures), "1"))
    reference = common.mean_and_spread(values[EULER_28][main_measure])[0]
    against = {name: common.mean_and_spread(by[main_measure])[0] / reference for name, by in values.items()}
    halves = {"DMD alone": against["DMD alone"], "the few-step teacher alone": against["few-step teacher alone"]}
    plain = min(against[EULER_4], against[EULER_4_EVEN])
    sentence = (
        f"With the {measures[main_measure]} of the guided base's 28 steps as 1, over {len(chosen.seeds)} "
        f"seeds, four steps of K-DMD reach {against['K-DMD']:.2f}, with the few-step teacher at a weight of "
        f"0.05 {against[LIGHT]:.2f}, matched at the last step only {against['K-DMD, last step matched']:.2f}, "
        f"DMD alone {halves['DMD alone']:.2f}, the few-step teacher alone "
        f"{halves['the few-step teacher alone']:.2f} and plain Euler {plain:.2f}: at equal weights K-DMD "
        f"{beaten(against['K-DMD'], halves)}, at 0.05 it {beaten(against[LIGHT], halves)}; and it "
        f"{'beats' if against['K-DMD'] < plain else 'does not beat'} plain Euler."
    )
    header = ("drawn by", *measures.values(), "spread against real latents")
    chosen.out.mkdir(parents=True, exist_ok=True)
    plot = {title: {name: by[key] for name, by in values.items()} for key, title in measures.items()}
    common.plot_points(chosen.out / "plot.png", plot, "smaller is nearer to real scenes")
    common.write_result(chosen.out, HERE, f"**{sentence}**\n\n{common.table(header, rows)}\n\n![distances](plot.png)")
    print(sentence)


def beaten(ours: float, halves: dict[str, float]) -> str:
    """Which halves of the method a distance is below."""
    better = [name for name, ratio in halves.items() if ours < ratio]
    if len(better) == 1:
        return f"beats {better[0]} but not the other half"
    return "beats both halves" if better else "beats neither half"


if __name__ == "__main__":
    main()
