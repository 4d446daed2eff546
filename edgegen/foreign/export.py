"""From foreign networks to a verified bundle: record, check the recording, write for each back end, verify."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgegen.backends.registry import find_backend
from edgegen.bundle import (
    MANIFEST,
    Artifact,
    Bundle,
    tool_versions,
    write_manifest,
)
from edgegen.callbacks import Report, advance_of
from edgegen.chunking import Chunking
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.folders import new_folder
from edgegen.foreign.chunks import check_chunks
from edgegen.foreign.data import FOLDER as PIPELINE_FOLDER
from edgegen.foreign.data import copy_data, told_tokenizers
from edgegen.foreign.fixed import fixed_content
from edgegen.foreign.palettes import palettize_recorded
from edgegen.foreign.recording import Recorded, record
from edgegen.foreign.resume import noted, settings_of
from edgegen.foreign.source import Source
from edgegen.foreign.writing import emitted, judged
from edgegen.journal import Journal, has_notes
from edgegen.manifest import ForeignManifest
from edgegen.meter import Meter, Stage
from edgegen.quantize.checkpoint import average_bits
from edgegen.quantize.stored import StoredWeights
from edgegen.runtime.threads import threads_for
from edgegen.target import BackendTarget, Tier
from edgegen.verify import Case, Row, require, write_rows

FLOAT_BITS = 16.0  # of a weight that is not palettized, as Core ML stores it
FOLDER = "cases"
MAIN = "transformer"  # what --bits palettizes


@dataclass(frozen=True)
class ForeignResult:
    """What an export of foreign networks made."""

    out: Path
    model: str
    tier: Tier
    artifacts: tuple[Artifact, ...]
    rows: tuple[Row, ...]
    stages: tuple[Stage, ...]
    networks: dict[str, Any]
    left_out: Mapping[str, Any] = field(default_factory=dict)  # text encoders too large for the tier: class, bytes

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def is_pipeline(self) -> bool:
        """Whether the bundle can draw."""
        return (self.out / PIPELINE_FOLDER).is_dir()

    @property
    def peak_bytes(self) -> int:
        return max(stage.peak_bytes for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        components = [
            {
                "component": a.name,
                "backend": a.backend,
                "path": a.path,
                "bytes": a.bytes,
                "resident_bytes": a.resident_bytes,
            }
            for a in self.artifacts
        ]
        return {
            "bundle": str(self.out),
            "model": self.model,
            "tier": self.tier.name,
            "components": components,
            "verify": [asdict(row) for row in self.rows],
            "networks": self.networks,
            "left_out": dict(self.left_out),
            "seconds": round(self.seconds, 1),
            "peak_bytes": self.peak_bytes,
            "stages": [asdict(stage) for stage in self.stages],
        }


def export_sources(
    model: str,
    sources: Sequence[Source],
    tier: Tier,
    backends: Sequence[str] = (),
    out: Path | None = None,
    overwrite: bool = False,
    bits: float | None = None,
    folder: Path | None = None,
    resolution: tuple[int, int] = (0, 0),
    pipeline: Mapping[str, Any] | None = None,
    report: Report = lambda line: None,
    chunking: Chunking = Chunking(),
    resume: bool = False,
) -> ForeignResult:
    """A bundle of foreign networks; one that fails verification leaves nothing and raises VerificationError.

    bits: palettize the transformer, or a lone network, to so many a weight on average. folder: of a pipeline, whose
    schedulers and tokenizers the bundle then holds. pipeline: what else its manifest says, see `open_sources`.
    chunking: in how many programs the same network is written. resume: go on with what an interrupted export finished.
    """
    chosen = targets_of(tier, backends)
    check_chunks(chunking, chosen)
    out = out or Path("out") / model / tier.name
    settings = settings_of(model, sources, tier, chosen, bits, resolution, chunking)
    made = Made()
    with new_folder(out, MANIFEST, overwrite, has_notes, resume) as root, noted(root, settings) as journal:
        bundle = Bundle(root, foreign_manifest(model, tier, chosen, sources, {}, (), bits, resolution))
        (root / FOLDER).mkdir()
        for source in sources:
            is_main = source.name == MAIN or len(sources) == 1
            asked = (bits, chunking) if is_main else (None, None)
            with threads_for(source.parameters):
                add_network_(made, bundle, journal, source, chosen, *asked, report)
            gc.collect()
        require(made.rows, "No bundle was written.")
        write_rows(root, made.rows)
        if folder is not None:
            copy_data(folder, root)
        kind = "pipeline" if (root / PIPELINE_FOLDER).is_dir() else "network"
        details = {"kind": kind, "networks": made.networks, **(pipeline or {})}
        if "tokenizers" in details:
            details["tokenizers"] = told_tokenizers(root, details["tokenizers"])
        parts = tuple(made.artifacts)
        write_manifest(root, foreign_manifest(model, tier, chosen, sources, details, parts, bits, resolution))
    left = (pipeline or {}).get("left_out", {})
    return ForeignResult(out, model, tier, parts, tuple(made.rows), tuple(made.meter.stages), made.networks, left)


@dataclass
class Made:
    """What an export has made so far."""

    artifacts: list[Artifact] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    networks: dict[str, Any] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)


def add_network_(
    made: Made,
    bundle: Bundle,
    journal: Journal,
    source: Source,
    targets: Sequence[BackendTarget],
    bits: float | None,
    chunking: Chunking | None,
    report: Report,
) -> None:
    """One network recorded, and written and judged on every back end; without `chunking` in one program."""
    recorded, weights, told = recorded_source(source, bits, made.meter, report)
    entry = made.networks[source.name] = described(recorded, journal.root) | told
    for target in targets:
        report(f"writing {source.name} for {target.name}")
        with made.meter.stage(f"emit {target.name} {source.name}"):
            asked = Chunking(1) if chunking is None else chunking.of(target)
            written = emitted(recorded, target, journal, weights, asked)
        made.artifacts += written.artifacts
        entry["backends"][target.name] = written.moved
        report(f"verifying {source.name} on {target.name}")
        with made.meter.stage(f"verify {target.name} {source.name}"):
            made.rows += judged(bundle, written, recorded, target, bool(weights))


def recorded_source(
    source: Source, bits: float | None, meter: Meter, report: Report
) -> tuple[Recorded, StoredWeights, dict[str, Any]]:
    """A network recorded and, with `bits`, palettized; its stored weights, and what the manifest says of palettes."""
    report(f"recording the {source.name}")
    with meter.stage(f"record {source.name}"):
        recorded = record(source)
    if bits is None:
        return recorded, source.palettes, {}
    refuse_twice(source)
    report(f"palettizing the {source.name}")
    with meter.stage(f"palettize {source.name}"):
        palettes = palettize_recorded(recorded, bits, advance=advance_of(report))
    return palettes.recorded, palettes.weights, {"palettes": palettes.to_dict()}


def targets_of(tier: Tier, backends: Sequence[str]) -> list[BackendTarget]:
    """The targets of the back ends named, the tier's own if none; one that cannot be written here is an InputError."""
    chosen = [tier.backend(name) for name in (tuple(dict.fromkeys(backends)) or tier.default_backends)]
    for target in chosen:
        find_backend(target.name).check({}, target)
    return chosen


def refuse_twice(source: Source) -> None:
    """Weights are palettized once, from their own values."""
    if source.palettes:
        raise InputError(f"the {source.name} is already quantized.", "Leave --bits out.")


def described(recorded: Recorded, root: Path) -> dict[str, Any]:
    """The manifest's entry of a network: where its inputs come from and what it is judged by."""
    name, traced = recorded.source.name, recorded.traced
    path = root / FOLDER / f"{name}.safetensors"
    tensors = {}
    for number, case in enumerate(recorded.cases):
        for kind, values in (("in", case.feed), ("out", case.expected)):
            tensors |= {
                f"{number}.{kind}.{key}": torch.from_numpy(np.ascontiguousarray(v)) for key, v in values.items()
            }
    save_file(tensors, path)
    sha, size = digest(path)
    return {
        "class": recorded.source.origin.get("class", type(recorded.source.module).__name__),
        "parameters": recorded.source.parameters,
        "sinusoids": [{"name": s.name, "source": s.source, **s.definition} for s in traced.sinusoids],
        "constant_inputs": list(recorded.source.constant),
        "fixed": fixed_content(recorded.source.arguments, recorded.source.constant),
        "cases": {"path": path.relative_to(root).as_posix(), "sha256": sha, "bytes": size},
        "largest": largest_latents(recorded.cases),
        "backends": {},
        **recorded.source.details,
    }


def largest_latents(cases: Sequence[Case]) -> dict[str, float]:
    """How large the latents are that a decoder is verified with."""
    found = [float(np.abs(case.feed["latent"]).max()) for case in cases if "latent" in case.feed]
    return {"latent": round(max(found), 3)} if found else {}


def foreign_manifest(
    model: str,
    tier: Tier,
    targets: Sequence[BackendTarget],
    sources: Sequence[Source],
    pipeline: dict[str, Any],
    artifacts: tuple[Artifact, ...],
    bits: float | None,
    resolution: tuple[int, int],
) -> ForeignManifest:
    """A manifest of format 2: `pipeline` says what the fields for our own networks cannot."""
    floors = {t.name: t.floor_db for t in targets}
    quantized = [source.name for source in sources if source.palettes]
    if bits is not None:
        quantized.append(MAIN if len(sources) > 1 else sources[0].name)
    floors |= {f"{t.name}/{name}": t.floor_of_quantized_db for t in targets for name in quantized}
    return ForeignManifest(
        model=model,
        tier=tier.name,
        width=1.0,
        resolution=resolution,
        steps=0,
        sigmas=(),
        shift=1.0,
        guidance=1.0,
        bits=stored_bits(sources) if bits is None else bits,
        latent_shape=(),
        timestep_features={"size": 0},
        tokenizer=(),
        prompts=(),
        floors_db=floors | {"picture": tier.picture_floor_db},
        checkpoint=sources[0].origin,
        tool_versions=tool_versions(),
        components=artifacts,
        pipeline=pipeline,
    )


def stored_bits(sources: Sequence[Source]) -> float:
    """Bits a palettized weight on average, of palettes that the sources came with."""
    palettes = {f"{source.name}.{name}": p for source in sources for name, p in source.palettes.items()}
    return average_bits(palettes) if palettes else FLOAT_BITS


def export_module(
    module: nn.Module,
    example_inputs: Mapping[str, Any],
    tier: Tier,
    name: str = "network",
    constant: Sequence[str] = (),
    backends: Sequence[str] = (),
    out: Path | None = None,
    overwrite: bool = False,
    bits: float | None = None,
    report: Report = lambda line: None,
    chunking: Chunking = Chunking(),
    resume: bool = False,
) -> ForeignResult:
    """A verified bundle of any eager module, recorded with keyword arguments `example_inputs`.

    Tensors vary unless named in `constant`. Raises InputError where the module reads a value of a varying tensor.
    """
    origin = {"kind": "module", "name": type(module).__name__}
    source = Source(name, module.float(), dict(example_inputs), origin, tuple(constant))
    return export_sources(
        type(module).__name__,
        [source],
        tier,
        backends,
        out,
        overwrite,
        bits,
        report=report,
        chunking=chunking,
        resume=resume,
    )
