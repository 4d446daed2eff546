"""Training of the detector, resumable, and how it is kept: a small file of fp16 weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.evaluate.detector import Detector, DetectorConfig
from edgegen.evaluate.detector_data import Crowds, Targets
from edgegen.model.states import open_safetensors, write_tensors
from edgegen.runs.run_state import RunState
from edgegen.runs.schedule import cosine_rate


@dataclass(frozen=True)
class DetectorTraining:
    """The schedule is counted in steps, so that a slower machine gives the same weights later."""

    steps: int = 1500
    batch: int = 32
    peak_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 5e-2
    seed: int = 0
    bfloat16: bool = False  # autocast; pays only where the processor multiplies bfloat16 natively

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.peak_rate <= 0:
            raise InputError(
                f"steps {self.steps}, batch {self.batch} and peak_rate {self.peak_rate:g} must be positive."
            )


def detector_loss(detector: Detector, outputs: Tensor, wanted: Targets) -> dict[str, Tensor]:
    """The losses of a map (B,O,g,g) by part, each a mean over things or their cells."""
    heat, box, classes, colours = detector.split(outputs)
    owned = wanted.owned
    return {
        "heat": heat_loss(heat, wanted.heat),
        "box": (box - wanted.box).abs().sum(1)[owned].mean(),
        "class": F.cross_entropy(classes.movedim(1, -1)[owned], wanted.classes[owned]),
        "colour": F.cross_entropy(colours.movedim(1, -1)[owned], wanted.colours[owned]),
    }


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The focal loss of centre heat (B,g,g), equation 1 of arXiv 1904.07850, over the number of centres."""
    chance = logits.sigmoid()
    centre = heat == 1
    positive = -F.logsigmoid(logits) * (1 - chance) ** 2
    negative = -F.logsigmoid(-logits) * chance**2 * (1 - heat) ** 4
    return torch.where(centre, positive, negative).sum() / centre.sum().clamp_min(1)


def train_detector(
    crowds: Crowds, run_dir: Path, training: DetectorTraining, stop_after: int | None = None
) -> Detector:
    """Trains, resuming what `run_dir` holds; `stop_after` ends early, state saved."""
    torch.manual_seed(training.seed)
    detector = Detector(crowds.config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=training.peak_rate, weight_decay=training.weight_decay)
    state = RunState(run_dir, detector, optimizer, {"model": asdict(crowds.config), "training": asdict(training)})
    end = min(training.steps, stop_after or training.steps)
    for step in state.steps(end):
        losses = step_(detector, optimizer, crowds, training, step)
        if (step + 1) % 50 == 0:
            state.log(step + 1, **losses)
        state.save(step + 1, force=step + 1 == end)
    return detector.eval()


def step_(
    detector: Detector, optimizer: torch.optim.Optimizer, crowds: Crowds, training: DetectorTraining, step: int
) -> dict[str, float]:
    """One optimizer step in place; returns the losses."""
    detector.train()
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(step, training.steps, training.peak_rate, training.warmup)
    pictures, wanted = crowds.batch(training.batch, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
        outputs = detector(pictures.contiguous(memory_format=torch.channels_last))
    losses = detector_loss(detector, outputs.float(), wanted)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
    optimizer.step()
    return {name: value.item() for name, value in losses.items()}


def save_detector(detector: Detector, path: Path, note: dict[str, str]) -> None:
    """Writes the weights in fp16 with the configuration; `note` says how they were made."""
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in detector.state_dict().items()
    }
    write_tensors(path, weights, {"config": json.dumps(asdict(detector.config))} | note)
    path.chmod(0o644)  # safetensors leaves a file to its owner alone; an installed package is for all


def load_detector(path: Path) -> Detector:
    """A detector in eval mode from its file."""
    file = open_safetensors(path)
    metadata = file.metadata() or {}
    if "config" not in metadata:
        raise InputError(f"{path} is not a detector of scenes.", "Train one: edgegen evaluate scorer --help.")
    detector = Detector(DetectorConfig(**json.loads(metadata["config"])))
    state = {name: file.get_tensor(name) for name in file.keys()}
    detector.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return detector.eval().requires_grad_(False)


def detector_note(path: Path) -> dict[str, str]:
    """What a detector's file says of its making."""
    with safe_open(path, "pt") as file:
        return {name: text for name, text in (file.metadata() or {}).items() if name != "config"}
