"""How large a network's numbers grow, which layers leave fp16, and what scaling by powers of two does about them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgegen.capture.exponents import FP16_MAX
from edgegen.errors import EdgegenError, InputError
from edgegen.foreign.folder import PIPELINE, list_parts, load_part
from edgegen.foreign.observe import assemble
from edgegen.foreign.pipeline import run_pipeline
from edgegen.foreign.recording import record
from edgegen.foreign.scaling import scaling_of
from edgegen.foreign.source import Source
from edgegen.foreign.streamed import Stored, streaming
from edgegen.foreign.watch import Peaks, watching

INPUTS = 4  # that a network is run on
STEPS = 2  # of a picture that is drawn for a prompt: noise first, nearly a picture last


@dataclass(frozen=True)
class Range:
    """The largest |value| that a layer took and gave, over all inputs; infinite where one was not finite."""

    layer: str
    kind: str
    largest: float
    taken: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether fp16 holds it."""
        return max(self.largest, self.taken) <= FP16_MAX

    def to_dict(self) -> dict:
        finite = lambda value: value if value < float("inf") else None  # noqa: E731
        return {
            "layer": self.layer,
            "kind": self.kind,
            "largest": finite(self.largest),
            "largest_input": finite(self.taken),
            "fits_fp16": self.fits,
        }


@torch.no_grad()
def measure_ranges(source: Source, count: int = INPUTS) -> list[Range]:
    """The range of every layer without layers of its own, the largest first."""
    peaks: dict[str, Peaks] = {}
    with source.running(), watching(source.module, peaks):
        for seed in range(count):
            source.module(**source.inputs(seed))
    return sorted_ranges(peaks)


def sorted_ranges(peaks: dict[str, Peaks]) -> list[Range]:
    found = [Range(name, one.kind, one.given, one.taken) for name, one in peaks.items()]
    return sorted(found, key=lambda r: -max(r.largest, r.taken))


@torch.no_grad()
def prompted_ranges(
    folder: Path, prompts: Sequence[str], resolution: tuple[int, int], tokens: int = 0
) -> dict[str, list[Range]]:
    """The ranges of every network of a pipeline's folder while it draws a picture for each prompt, in fp32."""
    if not (folder / PIPELINE).is_file():
        raise InputError(f"{folder} is no whole pipeline, which drawing a prompt needs.", "Leave --prompt out.")
    parts = {part.name: part for part in list_parts(folder)}
    peaks: dict[str, dict[str, Peaks]] = {}
    with ExitStack() as stack:

        def network(name: str, kind: Any, at: Path) -> Any:
            module = load_part(parts[name], streamed=True)
            stack.enter_context(watching(module, peaks.setdefault(name, {})))
            stack.enter_context(streaming(module, getattr(module, "stored", Stored())))
            return module

        pipeline = assemble(folder, network)
        for seed, prompt in enumerate(prompts):
            run_pipeline(pipeline, prompt, resolution, seed, STEPS, None, lambda done, of: None, tokens)
    return {name: sorted_ranges(found) for name, found in peaks.items() if found}


@dataclass(frozen=True)
class Scaling:
    """What an export to Core ML does about a network that leaves fp16: exponents of 2 by layer, or why it refuses."""

    exponents: dict[str, int]
    refused: str = ""

    def to_dict(self) -> dict:
        return {"scaled": self.exponents, "refused": self.refused}


def scaling_for(source: Source) -> Scaling:
    """On the inputs that an export judges by."""
    try:
        return Scaling(scaling_of(record(source)))
    except EdgegenError as error:
        return Scaling({}, error.message)
