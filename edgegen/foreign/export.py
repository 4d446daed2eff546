"""From foreign networks to a verified bundle: record, check the recording, write for each back end, verify."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgegen.backends.registry import find_backend
from edgegen.bundle import (
    MANIFEST,
    Artifact,
    Bundle,
    artifact_path,
    describe,
    tool_versions,
    write_manifest,
)
from edgegen.capture.deploy import Deployed, Traced, deploy, trace
from edgegen.capture.specialize import leaf_names, output_leaves, specialize
from edgegen.errors import EdgegenError, InputError
from edgegen.files import digest, is_disk_full
from edgegen.folders import new_folder
from edgegen.foreign.fixed import fixed_content
from edgegen.foreign.palettes import palettize_recorded
from edgegen.foreign.pipeline import FOLDER as PIPELINE_FOLDER
from edgegen.foreign.pipeline import copy_data
from edgegen.foreign.source import Source
from edgegen.manifest import ForeignManifest
from edgegen.meter import Meter, Stage
from edgegen.pipeline.artifact import open_artifact
from edgegen.quantize.checkpoint import average_bits
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quietly
from edgegen.rewrite.component import Form
from edgegen.target import BackendTarget, Tier
from edgegen.verify import Case, Row, compare, psnr, require, write_rows

Report = Callable[[str], None]
CASES = 3  # fresh inputs a network is judged with
FLOAT_BITS = 16.0  # of a weight that is not palettized, as Core ML stores it
REPLAY_DB = 100.0  # of the recording against the module: the same operations in the same order
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


@dataclass(frozen=True)
class Recorded:
    """A source that was recorded, with the cases its artifacts are judged by."""

    source: Source
    traced: Traced
    cases: tuple[Case, ...]


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
) -> ForeignResult:
    """A bundle of foreign networks; one that fails verification leaves nothing and raises VerificationError.

    bits: palettize the transformer, or a lone network, to so many a weight on average. folder: of a pipeline, whose
    schedulers and tokenizers the bundle then holds. pipeline: what else its manifest says, see `open_sources`.
    """
    chosen = targets_of(tier, backends)
    out = out or Path("out") / model / tier.name
    meter, artifacts, rows, networks = Meter(), [], [], {}
    with new_folder(out, MANIFEST, overwrite) as root:
        bundle = Bundle(root, foreign_manifest(model, tier, chosen, sources, {}, (), bits, resolution))
        (root / FOLDER).mkdir()
        for source in sources:
            asked = bits if source.name == MAIN or len(sources) == 1 else None
            recorded, weights, told = recorded_source(source, asked, meter, report)
            networks[source.name] = described(recorded, root) | told
            for target in chosen:
                made = emitted(recorded, target, root, weights, meter, report)
                artifacts.append(made[0])
                networks[source.name]["backends"][target.name] = made[1]
                report(f"verifying {source.name} on {target.name}")
                with meter.stage(f"verify {target.name} {source.name}"):
                    rows.append(judged(bundle, made[0], recorded.cases, target, bool(weights)))
            gc.collect()
        require(rows, "No bundle was written.")
        write_rows(root, rows)
        if folder is not None:
            copy_data(folder, root)
        kind = "pipeline" if (root / PIPELINE_FOLDER).is_dir() else "network"
        details = {"kind": kind, "networks": networks, **(pipeline or {})}
        write_manifest(
            root, foreign_manifest(model, tier, chosen, sources, details, tuple(artifacts), bits, resolution)
        )
    return ForeignResult(
        out,
        model,
        tier,
        tuple(artifacts),
        tuple(rows),
        tuple(meter.stages),
        networks,
        (pipeline or {}).get("left_out", {}),
    )


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
        palettes = palettize_recorded(recorded, bits)
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


def record(source: Source) -> Recorded:
    """Records a module and replays the recording on fresh inputs; InputError where it gives anything else."""
    module = source.module.eval().requires_grad_(False)
    run_once(module, source.arguments)
    recording = specialize(module, source.arguments, source.constant)
    pairs = []
    for seed in range(CASES):
        arguments = source.inputs(seed)
        with torch.no_grad():
            results = [leaf for _, leaf in output_leaves(module(**arguments))]
            values = {name: leaf for name, leaf in leaf_names(arguments) if name in recording.names}
            replayed = recording.graph(*[values[name] for name in recording.names])
        for name, expected, made in zip(recording.outputs, results, replayed, strict=True):
            check_replay(name, expected, made)
        pairs.append((values, dict(zip(recording.outputs, results, strict=True))))
    traced = trace(recording)
    cases = [Case(arrays(traced.feed(values)), arrays(expected)) for values, expected in pairs]
    return Recorded(source, traced, tuple(cases))


def run_once(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Refuses inputs that the module itself cannot take."""
    try:
        with torch.no_grad():
            module(**arguments)
    except Exception as error:  # whatever a foreign module raises
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            f"{type(module).__name__} fails on the example inputs: {type(error).__name__}: {line}",
            "Check their shapes, and the size asked for.",
        ) from error


def check_replay(name: str, expected: Tensor, made: Tensor) -> None:
    """A recording that gives other numbers on other inputs has a value of the example baked in."""
    if not torch.isfinite(expected).all():
        raise EdgegenError(
            f"the module's own {name} is not finite in fp32.", "Check its weights and the example inputs."
        )
    reached = psnr(expected.numpy(), made.numpy())
    if reached < REPLAY_DB:
        raise InputError(
            f"the recording gives {reached:.0f} dB for {name} on other inputs: the module decides by values it reads.",
            "Make the input it depends on constant, or move the decision out of the module.",
        )


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}


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
        "parameters": sum(p.numel() for p in recorded.source.module.parameters()),
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


def emitted(
    recorded: Recorded, target: BackendTarget, root: Path, weights: StoredWeights, meter: Meter, report: Report
) -> tuple[Artifact, dict[str, Any]]:
    """The artifact of a network on one back end, and how often its layout moves data."""
    name, backend = recorded.source.name, find_backend(target.name)
    report(f"writing {name} for {target.name}")
    backend.check(weights, target)
    path = artifact_path(root, target.name, name)
    with meter.stage(f"emit {target.name} {name}"):
        component = deploy(recorded.traced, Form(target.attention, target.query_chunk, target.operations), name)
        try:
            quietly(lambda: backend.write(component, path, target, weights))
        except EdgegenError:
            raise
        except Exception as error:  # whatever a converter raises
            if is_disk_full(error, path):
                raise
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            raise EdgegenError(f"{target.name} cannot take the {name}: {type(error).__name__}: {reason}.") from error
    module = component.module
    assert isinstance(module, Deployed)
    moved = {"moves": len(module.moves), "unknown": dict(Counter(module.unknown))}
    inputs, outputs = backend.signature(component, target)
    options = backend.options(target, weights)
    return describe(root, target.name, name, component.form, inputs, outputs, options), moved


def judged(bundle: Bundle, artifact: Artifact, cases: Sequence[Case], target: BackendTarget, quantized: bool) -> Row:
    """An artifact against the module on fresh inputs."""
    floor = target.floor_of_quantized_db if quantized else target.floor_db
    return compare(open_artifact(bundle, artifact), cases, artifact.name, artifact.backend, floor)


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
) -> ForeignResult:
    """A verified bundle of any eager module, recorded with keyword arguments `example_inputs`.

    Tensors vary unless named in `constant`. Raises InputError where the module reads a value of a varying tensor.
    """
    origin = {"kind": "module", "name": type(module).__name__}
    source = Source(name, module.float(), dict(example_inputs), origin, tuple(constant))
    return export_sources(type(module).__name__, [source], tier, backends, out, overwrite, bits, report=report)
