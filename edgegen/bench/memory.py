"""Peak memory of an artifact, predicted from its own graph: weights as the runtime holds them, activations by
liveness, and what the runtime itself takes.

A tensor lives from the operation that makes it to the last that reads it; another shape of the same bytes is no tensor
of its own, and an operation that is no product may write over an input that nobody reads after it. In a pipeline the
text encoder is freed before the first step, so its peak and that of denoising do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgegen.backends.registry import find_backend, read_graph
from edgegen.bundle import Bundle
from edgegen.graph.operations import VIEWS, Program, joined


@dataclass(frozen=True)
class Memory:
    """Bytes that nobody measured, of one component or a whole pipeline; as text always with the word."""

    held: int  # weights, and the runtime's records of operations
    opening: int  # more than that while it is opened
    activations: int  # more than that while it runs
    base: int = 0  # the runtime itself
    source: str = "predicted"

    @property
    def peak(self) -> int:
        return self.base + self.held + max(self.opening, self.activations)

    def __str__(self) -> str:
        low, high = interval(self.peak)
        return f"predicted {megabytes(self.peak)} ({megabytes(low)} to {megabytes(high)})"

    def __format__(self, spec: str) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        low, high = interval(self.peak)
        return {
            "predicted_bytes": self.peak,
            "low": low,
            "high": high,
            "held": self.held,
            "opening": self.opening,
            "activations": self.activations,
            "base": self.base,
            "source": self.source,
        }


TEXT_ENCODER = "text_encoder"  # how the names of text encoders begin, ours and those of diffusers
SCORE_BYTES = 4  # of a score inside a fused attention; outside one, scores are tensors of the program
ERROR = 0.20  # of the interval: more than predictions differed from peaks measured here, benchmarks/predictor/memory.py


def interval(peak: float) -> tuple[int, int]:
    """Bytes, low and high."""
    return round(peak / (1 + ERROR)), round(peak * (1 + ERROR))


def megabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def live_peak(program: Program) -> int:
    """The most bytes of activations, inputs and outputs included, that live at once."""
    roots = view_roots(program)
    last = {roots[name]: at for at, operation in enumerate(program.operations) for name in operation.inputs}
    last |= {roots[name]: len(program.operations) for name in program.outputs if name in roots}
    live = {roots[name] for name in program.inputs if name in roots}
    now = sum(program.tensors[name].bytes for name in live)
    peak = now
    for at, operation in enumerate(program.operations):
        read = {roots[name] for name in operation.inputs if not program.tensors[name].is_weight}
        dying = {name for name in read & live if last.get(name, at) <= at}
        made = {roots[name] for name in operation.outputs} - live
        new = sum(program.tensors[name].bytes for name in made)
        reused = reusable(program, operation.macs, dying, new)
        inside = SCORE_BYTES * operation.scores if operation.macs else 0  # a fused attention's own
        now += new
        peak = max(peak, now - reused + inside)
        live |= made
        gone = dying | {name for name in made if last.get(name, -1) <= at and name not in program.outputs}
        now -= sum(program.tensors[name].bytes for name in gone)
        live -= gone
    return peak


def view_roots(program: Program) -> dict[str, str]:
    """The tensor whose bytes each tensor shares: itself, unless a view made it."""
    roots = {name: name for name in program.tensors}
    for operation in program.operations:
        sources = [name for name in operation.inputs if not program.tensors[name].is_weight]
        if operation.type in VIEWS and sources:
            for name in operation.outputs:
                roots[name] = roots[sources[0]]
    return roots


def reusable(program: Program, macs: int, dying: set[str], new: int) -> int:
    """Bytes of a result that may take the place of an input nobody else reads."""
    if macs or not new:
        return 0
    return new if any(program.tensors[name].bytes == new for name in dying) else 0


def predict_memory(program: Program, backend: str, weight_bytes: int, activation_scale: float = 1.0) -> Memory:
    """The peak of one component beyond the process before it was opened.

    `weight_bytes`: as its runtime holds them. `activation_scale`: of the program's tensors, 0.5 for one that was
    counted in float32 and runs in float16.
    """
    runtime = find_backend(backend).memory  # fitted to peaks on Linux, x86-64; Core ML's is counted, not measured
    packed = min(weight_bytes, sum(program.tensors[name].bytes for name in packed_weights(program)))
    held = weight_bytes - packed + runtime.packed_copies * packed + runtime.operation_bytes * program.totals.dispatches
    return Memory(
        round(held),
        round(runtime.opening_copies * packed),
        round(activation_scale * live_peak(program)),
        round(runtime.base_bytes),
    )


def packed_weights(program: Program) -> set[str]:
    """The weights that products read: a table that is gathered from stays as it is."""
    return {
        name
        for operation in program.operations
        if operation.macs
        for name in operation.inputs
        if program.tensors[name].is_weight
    }


def network_program(bundle: Bundle, network: str, backend: str) -> Program:
    """The operations of a component, those of all its programs."""
    return joined([read_graph(backend, bundle.path(program)) for program in bundle.programs(network, backend)])


def network_memory(bundle: Bundle, network: str, backend: str, program: Program | None = None) -> Memory:
    """The peak of a component of a bundle with all its programs open, which are read anew unless they are given."""
    resident = sum(artifact.resident_bytes for artifact in bundle.programs(network, backend))
    return predict_memory(program or network_program(bundle, network, backend), backend, resident)


def pipeline_memory(parts: Mapping[str, Memory], free_text_encoder: bool = True) -> Memory:
    """The peak of a picture: each text encoder runs and is freed before transformer and decoder are opened.

    With `free_text_encoder` False they stay. One runtime; one component opens or runs at a time.
    """
    texts = [memory for name, memory in parts.items() if name.startswith(TEXT_ENCODER)]
    others = [memory for name, memory in parts.items() if not name.startswith(TEXT_ENCODER)]
    if not free_text_encoder:
        return combine_parts([*texts, *others])
    alone = [*texts, *([combine_parts(others)] if others else [])]
    return max(alone, key=lambda memory: memory.peak)


def combine_parts(parts: Sequence[Memory]) -> Memory:
    """Components opened in order and all kept."""
    held = sum(part.held for part in parts)
    so_far, opening = 0, 0
    for part in parts:
        so_far += part.held
        opening = max(opening, so_far + part.opening - held)
    return Memory(held, opening, max(part.activations for part in parts), max(part.base for part in parts))
