"""From foreign networks to a verified bundle: record, check the recording, write for each back end, verify."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
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
from edgegen.capture.segments import REPEATS, in_segments
from edgegen.capture.specialize import leaf_names, output_leaves, specialize
from edgegen.chunking import Chunking
from edgegen.emit.template_error import TemplateError
from edgegen.errors import EdgegenError, InputError
from edgegen.files import digest, is_disk_full
from edgegen.folders import new_folder
from edgegen.foreign.chunks import check_chunks, cut_network, parts_of, run_pieces
from edgegen.foreign.palettes import palettize_recorded, palettize_stored
from edgegen.foreign.pipeline import FOLDER as PIPELINE_FOLDER
from edgegen.foreign.pipeline import copy_data
from edgegen.foreign.resume import noted, settings_of
from edgegen.foreign.source import Source
from edgegen.journal import Journal, has_notes
from edgegen.manifest import ForeignArtifact, ForeignManifest
from edgegen.meter import Meter, Stage
from edgegen.pipeline.artifact import open_chain
from edgegen.quantize.checkpoint import average_bits
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quietly
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.threads import threads_for
from edgegen.target import BackendTarget, Tier
from edgegen.verify import Case, Row, compare, compare_chain, psnr, require, write_rows

Report = Callable[[str], None]
CASES = 3  # fresh inputs a network is judged with
HEAVY = 200_000_000  # parameters from which it is one, and artifacts alone show whether the recording is right
FLOAT_BITS = 16.0  # of a weight that is not palettized, as Core ML stores it
REPLAY_DB = 100.0  # of the recording against the module: the same operations in the same order
FOLDER = "cases"
MAIN = "transformer"  # what --bits palettizes
STREAMING = "coreml"  # the back end that asks for a segment's weights one by one


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
    meter, artifacts, rows, networks = Meter(), [], [], {}
    with new_folder(out, MANIFEST, overwrite, has_notes, resume) as root, noted(root, settings) as journal:
        bundle = Bundle(root, foreign_manifest(model, tier, chosen, sources, {}, (), bits, resolution))
        (root / FOLDER).mkdir()
        for source in sources:
            is_main = source.name == MAIN or len(sources) == 1
            with threads_for(source.parameters):
                recorded, weights, told = recorded_source(source, bits if is_main else None, meter, report)
                networks[source.name] = described(recorded, root) | told
                for target in chosen:
                    asked = chunking.of(target) if is_main else Chunking()
                    made = emitted(recorded, target, journal, weights, asked, meter, report)
                    artifacts += made.artifacts
                    networks[source.name]["backends"][target.name] = made.moved
                    report(f"verifying {source.name} on {target.name}")
                    with meter.stage(f"verify {target.name} {source.name}"):
                        rows += judged(bundle, made, recorded, target, bool(weights))
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
        make = palettize_stored if len(source.stored) else palettize_recorded
        palettes = make(recorded, bits)
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
    """Records a module and replays the recording on fresh inputs; InputError where it gives anything else. One that is
    heavy is run once, on other inputs than the example's.
    """
    module, heavy = source.module.eval().requires_grad_(False), source.parameters > HEAVY
    if not heavy:
        with running_errors(module), torch.no_grad():
            module(**source.arguments)
    with running_errors(module):
        recording = specialize(module, source.arguments, source.constant)
    pairs = []
    for seed in [1] if heavy else range(CASES):
        arguments = source.inputs(seed)
        with torch.no_grad(), source.running():
            results = [leaf for _, leaf in output_leaves(module(**arguments))]
        values = {name: leaf for name, leaf in leaf_names(arguments) if name in recording.names}
        for name, result in zip(recording.outputs, results, strict=True):
            require_finite(name, result)
        if not heavy:
            with torch.no_grad():
                replayed = recording.graph(*[values[name] for name in recording.names])
            for name, expected, made in zip(recording.outputs, results, replayed, strict=True):
                check_replay(name, expected.numpy(), made.numpy())
        pairs.append((values, dict(zip(recording.outputs, results, strict=True))))
    traced = trace(recording)
    cases = [Case(arrays(traced.feed(values)), arrays(expected)) for values, expected in pairs]
    return Recorded(source, traced, tuple(cases))


@contextmanager
def running_errors(module: nn.Module) -> Iterator[None]:
    """Inputs that the module itself cannot take are an InputError."""
    try:
        yield
    except EdgegenError:
        raise
    except Exception as error:  # whatever a foreign module raises
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            f"{type(module).__name__} fails on the example inputs: {type(error).__name__}: {line}",
            "Check their shapes, and the size asked for.",
        ) from error


def require_finite(name: str, expected: Tensor) -> None:
    """Refuses a module whose own numbers are none."""
    if not torch.isfinite(expected).all():
        raise EdgegenError(
            f"the module's own {name} is not finite in fp32.", "Check its weights and the example inputs."
        )


def check_replay(name: str, expected: np.ndarray, made: np.ndarray) -> None:
    """A recording that gives other numbers on other inputs has a value of the example baked in."""
    reached = psnr(expected, made)
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
        "class": type(recorded.source.module).__name__,
        "parameters": recorded.source.parameters,
        "sinusoids": [{"name": s.name, "source": s.source, **s.definition} for s in traced.sinusoids],
        "constant_inputs": list(recorded.source.constant),
        "cases": {"path": path.relative_to(root).as_posix(), "sha256": sha, "bytes": size},
        "backends": {},
        **recorded.source.details,
    }


@dataclass(frozen=True)
class Emitted:
    """The programs of a network on one back end, the network as they have it, and how often its layout moves data."""

    artifacts: tuple[Artifact, ...]
    component: Component
    moved: dict[str, Any]


def emitted(
    recorded: Recorded,
    target: BackendTarget,
    journal: Journal,
    weights: StoredWeights,
    asked: Chunking,
    meter: Meter,
    report: Report,
) -> Emitted:
    """The programs of a network on one back end: written and noted, or as an interrupted export left them."""
    source, backend = recorded.source, find_backend(target.name)
    report(f"writing {source.name} for {target.name}")
    backend.check(weights, target)
    with meter.stage(f"emit {target.name} {source.name}"):
        form = Form(target.attention, target.query_chunk, target.operations)
        needed = len(source.stored) > 0 or asked.is_asked
        component = deploy(recorded.traced, form, source.name)
        component = in_segments(component, source.stored.given(), 0 if needed else REPEATS)
        require_streamable(source, component, target)
        parts = parts_of(component, cut_network(component, target, weights, asked))
        artifacts = [*written(parts, source.name, target, journal, weights)]
    module = component.module
    assert isinstance(module, Deployed)
    moved = {"moves": len(module.moves), "unknown": dict(Counter(module.unknown))}
    return Emitted(tuple(artifacts), component, moved)


def require_streamable(source: Source, component: Component, target: BackendTarget) -> None:
    """Refuses weights that are not in memory where a back end, or the network, asks for all of them at once."""
    if not len(source.stored):
        return
    if not component.segments or target.name != STREAMING or target.precision != "float16":
        raise InputError(
            f"the {source.name} is streamed from disk, which is done for networks of blocks alone, in float16.",
            f"Choose --backend {STREAMING}.",
        )
    for segment in component.segments:
        for name, held in (*segment.module.named_parameters(), *segment.module.named_buffers()):
            inside = name not in dict(segment.module.named_parameters()) or segment.full(name) not in source.stored
            if inside and held.is_floating_point() and not torch.isfinite(held).all():
                raise InputError(
                    f"{segment.name} computes with weights of the {source.name} that are streamed from disk.",
                    "Give the weights in fp32, on a machine that holds them.",
                )


def written(
    parts: Sequence[Component], network: str, target: BackendTarget, journal: Journal, weights: StoredWeights
) -> Iterator[Artifact]:
    """The artifacts of the programs of a network, each noted when it is whole; those that are there are left."""
    backend, root = find_backend(target.name), journal.root
    paths = [artifact_path(root, target.name, part.name) for part in parts]
    there = [journal.find(path.relative_to(root).as_posix()) for path in paths]
    left = [(part, path) for part, path, found in zip(parts, paths, there, strict=True) if found is None]
    fresh = write_in_order(left, network, target, weights)
    for part, found in zip(parts, there, strict=True):
        if found is None:
            next(fresh)
            inputs, outputs = backend.signature(part, target)
            options = backend.options(target, weights)
            made = describe(root, target.name, part.name, part.form, inputs, outputs, options)
            found = ForeignArtifact(**vars(made), chunk_of=network if len(parts) > 1 else "")
            journal.note(found)
        yield found


def write_in_order(
    parts: Sequence[tuple[Component, Path]], network: str, target: BackendTarget, weights: StoredWeights
) -> Iterator[Path]:
    """Writes programs of a network, and tells each when it is whole."""
    backend = find_backend(target.name)
    components, paths = [part for part, _ in parts], [path for _, path in parts]
    if backend.write_chunks and len(parts) > 1:
        steps = iter(backend.write_chunks(components, paths, target, weights))
    else:
        steps = (write_one(part, path, target, weights) for part, path in parts)
    for path in paths:
        try:
            yield quietly(lambda: next(steps))
        except EdgegenError:
            raise
        except Exception as error:  # whatever a converter raises
            if is_disk_full(error, path):
                raise
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            raise EdgegenError(f"{target.name} cannot take the {network}: {type(error).__name__}: {reason}.") from error


def write_one(part: Component, path: Path, target: BackendTarget, weights: StoredWeights) -> Path:
    """Writes a program by its segments, or whole where a converter folds their weights."""
    backend = find_backend(target.name)
    try:
        backend.write(part, path, target, weights)
    except TemplateError:
        backend.write(replace(part, segments=()), path, target, weights)
    return path


def judged(bundle: Bundle, made: Emitted, recorded: Recorded, target: BackendTarget, quantized: bool) -> Iterator[Row]:
    """The programs of a network against the module on fresh inputs: a row for each chunk by what it gives, and one for
    what comes out.
    """
    floor = target.floor_of_quantized_db if quantized else target.floor_db
    name, bundle = recorded.source.name, replace(bundle, manifest=replace(bundle.manifest, components=made.artifacts))
    chain = open_chain(bundle, name, target.name)
    if len(made.artifacts) == 1:
        return iter([compare(chain.run, recorded.cases, name, target.name, floor)])
    kept = [spec.name for artifact in made.artifacts for spec in artifact.outputs]
    cases = [with_between(case, made.component, recorded, kept) for case in recorded.cases]
    return iter(compare_chain(chain, cases, name, target.name, floor))


def with_between(case: Case, component: Component, recorded: Recorded, kept: Sequence[str]) -> Case:
    """A case with what the recorded network has between its chunks, in fp32; it must end in what the module gives."""
    values = run_pieces(component, case.feed, recorded.source.stored, kept)
    for name, expected in case.expected.items():
        check_replay(name, expected, values[name])
    return replace(case, between=values)


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
