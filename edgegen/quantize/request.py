"""What to quantize and how, and what it will take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgegen.errors import InputError
from edgegen.folders import check_apart, checked_target
from edgegen.meter import available_bytes
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.elastic import skeleton
from edgegen.quantize.calibration import default_prompts
from edgegen.quantize.checkpoint import refuse_quantized
from edgegen.quantize.methods import GROUP, check_method
from edgegen.quantize.plan import PlanRequest
from edgegen.quantize.stages import stages_folder
from edgegen.quantize.tune import Tuning
from edgegen.strict_json import read_text

MARKER = "config.json"
LARGE = 100_000_000  # parameters: above, a forward pass takes a minute here; few points, and no pictures
SMALL = 256  # pixels: the side of the pictures that a large network is measured and tuned on
BITS = 4.3
BASE_MEMORY = 2**30  # what a run takes before it sees a model
BESIDE_BYTES = 2.0  # a parameter, beside networks: palettes of 4 and 8 bits, and a layer's gradient and change


@dataclass(frozen=True)
class QuantizeRequest:
    """What to quantize and how; everything but `resume` and `overwrite` decides what comes out."""

    checkpoint: Checkpoint
    out: Path
    width: float
    method: str = "palette"
    bits: float = BITS
    candidates: tuple[int, ...] = (4, 8)
    group: int = GROUP
    prompts: tuple[str, ...] = ()  # calibration; the checkpoint's own if empty
    plan: Path | None = None
    measure: str = ""  # whose error the bit plan keeps small; none: the velocity's, by gradients where it is large
    resolution: tuple[int, int] = (
        0,
        0,
    )  # of the points it is measured and tuned on; none: own, smaller where it is large
    tuning: Tuning = field(default_factory=Tuning)
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", checked_target(self.out))
        check_apart(self.out, self.checkpoint.folder, "checkpoint")
        refuse_quantized(self.checkpoint)
        check_method(self.method)
        self.checkpoint.check_width(self.width)
        if not self.measure:
            object.__setattr__(self, "measure", "gradient" if self.is_large else "velocity")
        config = self.checkpoint.config
        if self.resolution == (0, 0):
            object.__setattr__(self, "resolution", small_size(config) if self.is_large else config.resolution)
        config.latent_size(self.resolution)
        if self.plan is not None and self.method != "palette":
            raise InputError(f"--plan goes with --method palette, not {self.method}.", "Leave it out.")
        if self.plan is not None and not self.plan.is_file():
            raise InputError(f"plan {self.plan} is not a file.", "Give a plan that quantize wrote.")

    @property
    def calibration(self) -> tuple[str, ...]:
        return self.prompts or tuple(default_prompts(self.checkpoint))

    @property
    def planning(self) -> PlanRequest:
        return PlanRequest(self.bits, self.candidates, self.measure, self.plan)

    @cached_property
    def parameters(self) -> int:
        """Of the transformer at the width."""
        return sum(p.numel() for p in skeleton(self.checkpoint.config.transformer.at(self.width)).parameters())

    @property
    def is_large(self) -> bool:
        return self.parameters > LARGE

    @property
    def memory_bytes(self) -> int:
        """Predicted peak: the network in float32, its student if it is tuned, and what is held beside them."""
        return round(BASE_MEMORY + self.parameters * (4 * (2 if self.tuning.steps else 1) + BESIDE_BYTES))

    @property
    def work(self) -> Path:
        return stages_folder(self.out)

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        plan = None if self.plan is None else read_text(self.plan, "Give a plan that quantize wrote.")
        palette = {"bits": self.bits, "candidates": list(self.candidates), "measure": self.measure, "plan": plan}
        chosen = palette if self.method == "palette" else {"group": self.group}
        return {
            "checkpoint": source_of(self.checkpoint),
            "width": self.width,
            "method": self.method,
            **chosen,
            "resolution": list(self.resolution),
            "prompts": list(self.calibration),
            "tuning": self.tuning.settings(),
        }


def small_size(config: CheckpointConfig) -> tuple[int, int]:
    """The picture (width, height) nearest to SMALL on a side that a network takes; its own where that is smaller."""
    side, own = config.pixels_per_token, config.resolution
    rows, columns = config.transformer.nearest_grid((SMALL // side, SMALL // side))
    return min((columns * side, rows * side), own, key=math.prod)


def source_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What a checkpoint is, wherever it lies."""
    return {key: str(value) for key, value in checkpoint.origin.items() if key != "path"}


def check_memory(request: QuantizeRequest) -> None:
    """Refuses a run that the memory cannot hold, before the work."""
    available = available_bytes()
    if available < request.memory_bytes:
        raise InputError(
            f"quantizing {request.checkpoint.config.name} at width {request.width:g} takes about "
            f"{request.memory_bytes / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available.",
            "Close other programs, or choose a narrower --width"
            + (" or --tune-steps 0." if request.tuning.steps else "."),
        )
