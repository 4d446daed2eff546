"""Draws what a model makes of prompts, measures it against real pictures, and reports as it goes.

Shapes: N prompts, C latent channels, h x w latent grid.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgegen.bench.records import environment
from edgegen.errors import InputError
from edgegen.evaluate import prompts as sets
from edgegen.evaluate.drawing import FIRST_SEED, EncodedPrompts, decode_latents, draw_all, draw_into
from edgegen.evaluate.judge import MEASURES, Judge, Scores
from edgegen.evaluate.prompts import PromptSet, prompt_set
from edgegen.evaluate.subjects import (
    Subject,
    bundle_origin,
    bundle_subject,
    checkpoint_subjects,
    open_checkpoint,
    torch_velocity,
    transformer_subject,
)
from edgegen.files import disk_errors, write_json
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.flow import noised, validation_loss
from edgegen.model.pixels import to_tensor
from edgegen.model.sampler import SamplerConfig
from edgegen.verify import psnr

RESULTS, PLAN = "results.json", "plan.json"
MAX_VALIDATION = 256  # pictures of the validation loss


@dataclass(frozen=True)
class Settings:
    """What is drawn; None stands for the model's own."""

    data: Path = Path("data")
    prompts: str = "seen"
    count: int = 200
    widths: tuple[float, ...] = ()  # all
    steps: tuple[int | None, ...] = (None,)
    guidance: tuple[float | None, ...] = (None,)
    shift: float | None = None
    seed: int = FIRST_SEED
    batch: int = 16
    base: bool = False  # without few-step adapters
    backend: str | None = None  # of a bundle: its fastest

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch {self.batch} is below 1.", "Give 1 or more.")

    def samplers(self, own: SamplerConfig) -> list[SamplerConfig]:
        """Every combination of steps and guidance, out of range refused."""
        shift = own.shift if self.shift is None else self.shift
        return [
            SamplerConfig(own.steps if s is None else s, shift, own.guidance if g is None else g)
            for s, g in product(self.steps, self.guidance)
        ]


class Silent:
    """A progress that shows nothing."""

    def __call__(self, line: str) -> None: ...

    def advance(self, done: int, of: int) -> None: ...


def evaluate(
    settings: Settings,
    checkpoint: Path | None = None,
    bundle: Path | None = None,
    out: Path | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The report of a checkpoint's widths, or of a bundle, at every number of steps and guidance asked for.

    With `out`, pictures are kept there and found again by a later run; `results.json` there is marked partial until
    the last row is in it.
    """
    progress = progress or Silent()
    chosen = prompt_set(settings.prompts, settings.count, settings.data)
    origin, model, subjects = open_subjects(settings, chosen.prompts, checkpoint, bundle)
    for subject in subjects:
        settings.samplers(subject.sampler)  # refuses what cannot be before anything is drawn
    plan = {"origin": origin, "prompts": list(chosen.prompts), "seed": settings.seed}
    check_out(out, plan)
    judge = Judge.open(chosen, settings.data, progress)
    report = describe(settings, chosen, origin) | {
        "partial": True,
        "reference": references(judge, model, progress),
        "rows": [],
    }
    latents = validation_latents(model, chosen)
    for subject in subjects:
        loss = None
        if latents is not None:
            progress(f"validation loss of width {subject.width:g}")
            loss = validation_loss(subject.velocity, latents)
        for sampler in settings.samplers(subject.sampler):
            folder = None if out is None else out / variant(subject, sampler, settings.base)
            report["rows"].append(row(judge, subject, sampler, settings, folder, loss, progress))
            keep(out, report)
    report["partial"] = False
    keep(out, report)
    return report


def open_subjects(
    settings: Settings, prompts: Sequence[str], checkpoint: Path | None, bundle: Path | None
) -> tuple[dict[str, Any], Checkpoint | None, list[Subject]]:
    """Where a model came from, its checkpoint where there is one, and what is evaluated of it."""
    if bundle is not None and checkpoint is not None:
        raise InputError("--checkpoint and --bundle exclude each other.", "Give one of them.")
    if bundle is not None:
        if settings.base:
            raise InputError(
                "a bundle's transformer is with or without adapters as it was exported.", "Leave --base out."
            )
        subject = bundle_subject(bundle, prompts, settings.backend)
        if settings.widths and settings.widths != (subject.width,):
            raise InputError(f"bundle {bundle} has width {subject.width:g} alone.", "Leave --width out.")
        return *bundle_origin(bundle), [subject]
    if settings.backend is not None:
        raise InputError("--backend is of a bundle.", "Give --bundle, or leave --backend out.")
    model = open_checkpoint(checkpoint)
    widths = settings.widths or widths_of(model)
    for width in widths:
        model.check_width(width)
    condition = EncodedPrompts.of(model, prompts)
    return model.origin, model, checkpoint_subjects(model, widths, condition, settings.base, settings.batch)


def widths_of(model: Checkpoint) -> tuple[float, ...]:
    """The widths a checkpoint has: a quantized one has one."""
    quantization = model.config.quantization
    return model.config.transformer.widths if quantization is None else (quantization.width,)


def row(
    judge: Judge,
    subject: Subject,
    sampler: SamplerConfig,
    settings: Settings,
    folder: Path | None,
    loss: float | None,
    progress: Any,
) -> Scores:
    """Draws one variant and scores it."""
    count = judge.prompts.count
    title = f"width {subject.width:g}, {sampler.steps} steps, guidance {sampler.guidance:g}"
    progress(f"drawing {count} pictures: {title}")
    start, drawn, each = time.perf_counter(), [], subject.draws(sampler, settings.seed, 1)

    def draw(indices: Sequence[int]) -> np.ndarray:
        drawn.extend(indices)
        return each(indices)

    if folder is None:
        pictures = draw_all(draw, count, settings.batch, progress.advance)
    else:
        with disk_errors(folder.absolute()):
            pictures = draw_into(folder, draw, count, settings.batch, progress.advance)
    seconds = time.perf_counter() - start
    progress(f"measuring: {title}")
    return {
        "name": subject.name,
        "width": subject.width,
        "steps": sampler.steps,
        "shift": sampler.shift,
        "guidance": sampler.guidance,
        "count": count,
        "validation_loss": loss,
        "seconds_per_100": round(100 * seconds / len(drawn), 2) if drawn else None,
    } | judge.score(pictures)


def references(judge: Judge, model: Checkpoint | None, progress: Any) -> dict[str, Scores]:
    """What real pictures score, and real pictures after the model's own autoencoder: the most it could."""
    found = {}
    progress("measuring real pictures")
    real = judge.reference()
    if real is not None:
        found["real"] = real
    rebuilt = reconstruct(model, judge.prompts)
    if rebuilt is not None:
        found["autoencoder"] = judge.score(rebuilt)
    return found


@torch.no_grad()
def reconstruct(model: Checkpoint | None, chosen: PromptSet, batch: int = 32) -> np.ndarray | None:
    """Real pictures through a checkpoint's encoder and decoder; None where it has no encoder or another size."""
    latents = encode_pictures(model, chosen)
    if model is None or latents is None:
        return None
    decoder = model.decoder()
    return np.concatenate([decode_latents(decoder, part) for part in latents.split(batch)])


def validation_latents(model: Checkpoint | None, chosen: PromptSet) -> Tensor | None:
    """Latents (N,C,h,w) of the first real pictures, whose noise and timesteps the loss fixes by their number."""
    return encode_pictures(model, chosen, MAX_VALIDATION)


@torch.no_grad()
def encode_pictures(
    model: Checkpoint | None, chosen: PromptSet, most: int | None = None, batch: int = 32
) -> Tensor | None:
    """Latents of real pictures; None without an encoder, real pictures, or where they have another size."""
    if model is None or chosen.real is None or "encoder" not in model.states:
        return None
    if chosen.real.shape[1:3] != model.config.resolution[::-1]:
        return None
    encoder, pictures = model.encoder(), to_tensor(np.ascontiguousarray(chosen.real[:most]))
    return torch.cat([encoder(part) for part in pictures.split(batch)])


def describe(settings: Settings, chosen: PromptSet, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to repeat an evaluation."""
    seeds = {
        "noise": f"{settings.seed} + index of the prompt",
        "scenes": sets.SEED,
        "other_scenes": sets.OTHER_SEED,
        "validation": 0,
    }
    return {
        "origin": dict(origin),
        "prompts": chosen.name,
        "count": chosen.count,
        "kinds": chosen.kinds(),
        "seeds": seeds,
        "measures": MEASURES,
    } | environment()


def variant(subject: Subject, sampler: SamplerConfig, base: bool) -> str:
    """A folder name."""
    return f"width-{subject.width:g}-steps-{sampler.steps}-shift-{sampler.shift:g}-guidance-{sampler.guidance:g}" + (
        "-base" if base else ""
    )


def check_out(out: Path | None, plan: dict[str, Any]) -> None:
    """Refuses a folder with pictures of another model, other prompts or seeds; notes what this one is for."""
    if out is None:
        return
    if out.is_file():
        raise InputError(f"{out} is a file.", "Choose another folder with --out.")
    path, text = out / PLAN, json.dumps(plan, default=str)
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
            raise InputError(
                f"{out} holds pictures of another model, other prompts or other seeds.",
                "Choose another folder with --out, or delete it.",
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and has no {PLAN}.", "Choose another folder with --out.")
    else:
        with disk_errors(out.absolute()):
            out.mkdir(parents=True, exist_ok=True)
            write_json(path, json.loads(text))


def keep(out: Path | None, report: dict[str, Any]) -> None:
    """Writes the report so far, whole."""
    if out is None:
        return
    partial = out / f".{RESULTS}.partial"
    with disk_errors(partial.absolute()):
        write_json(partial, json.loads(json.dumps(report, default=str)))
        partial.replace(out / RESULTS)


def evaluate_transformers(
    checkpoint: Checkpoint, transformers: Mapping[str, DiT], settings: Settings, progress: Any = None
) -> list[Scores]:
    """One row for each plain transformer, all drawn with a checkpoint's text encoders and decoder from one noise.

    `velocity_psnr_db` compares velocities on the fixed (x0, noise, t) triples with the first transformer's, which
    should be the unchanged one. Of `settings` the first number of steps and the first guidance count.
    """
    progress = progress or Silent()
    if not transformers:
        raise InputError("no transformer is given.", "Give at least one by name.")
    chosen = prompt_set(settings.prompts, settings.count, settings.data)
    judge = Judge.open(chosen, settings.data, progress)
    condition, latents = EncodedPrompts.of(checkpoint, chosen.prompts), validation_latents(checkpoint, chosen)
    sampler = settings.samplers(checkpoint.sampler)[0]
    reference, rows = None, []
    for name, dit in transformers.items():
        subject = transformer_subject(
            checkpoint, name, dit, dit.config.hidden / checkpoint.config.transformer.hidden, condition, settings.batch
        )
        progress(f"validation loss of {name}")
        loss = None if latents is None else validation_loss(subject.velocity, latents)
        velocity = None if latents is None else fixed_velocity(torch_velocity(dit, condition, settings.batch), latents)
        reference = velocity if reference is None else reference
        near = None if velocity is None or reference is None else psnr(reference.numpy(), velocity.numpy())
        rows.append(row(judge, subject, sampler, settings, None, loss, progress) | {"velocity_psnr_db": near})
    return rows


def fixed_velocity(velocity: Callable[[Tensor, Tensor], Tensor], latents: Tensor, seed: int = 0) -> Tensor:
    """Velocities (N,C,h,w) at fixed noises and evenly spread timesteps."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    t = (torch.arange(len(latents)) + 0.5) / len(latents)
    return velocity(noised(latents, noise, t), t)
