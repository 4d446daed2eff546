"""From a checkpoint to a verified bundle: plan, emit, verify, draw, put in place."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgegen.backends.registry import fastest_first, find_backend
from edgegen.bundle import (
    COMPONENTS,
    MANIFEST,
    SAMPLE,
    Artifact,
    Bundle,
    Manifest,
    artifact_path,
    describe,
    timestep_definition,
    tool_versions,
    write_manifest,
    write_tokenizer,
)
from edgegen.errors import EdgegenError, InputError, unknown
from edgegen.files import check_free, free_bytes, is_disk_full, new_folder
from edgegen.inspection import count_operations
from edgegen.meter import Meter, Stage
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.elastic import skeleton
from edgegen.model.sampler import flow_sigmas
from edgegen.pipeline.draw import draw, to_image
from edgegen.pipeline.networks import ArtifactNetworks
from edgegen.pipeline.torch import TorchNetworks
from edgegen.quantize.stored import stored_weights
from edgegen.quiet import PROCESS, quietly
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.threads import LARGE, threads_for
from edgegen.target import Tier
from edgegen.verify import (
    PICTURE,
    Report,
    Row,
    is_whole,
    make_reference,
    require,
    verify_artifact,
    verify_picture,
    write_rows,
)

BASE_MEMORY = 2**30  # what the converters take before they see a model: 0.95 GB measured with the bundled one
MEMORY_FACTOR = 3.0  # copies of the largest component's fp32 weights at the peak; 2.8 measured at 430M parameters


@dataclass(frozen=True)
class Part:
    """An artifact to be: `bytes` is predicted from the number of parameters."""

    component: str
    backend: str
    path: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """An export that was found possible; nothing is written yet."""

    tier: Tier
    checkpoint: Checkpoint
    backends: tuple[str, ...]
    components: tuple[str, ...]
    resolution: tuple[int, int]  # pixels: width, height
    out: Path
    overwrite: bool
    parts: tuple[Part, ...]

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.checkpoint.config.latent_size(self.resolution)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (1, self.checkpoint.config.transformer.in_channels, *self.latent_size)

    @property
    def sigmas(self) -> list[float]:
        return flow_sigmas(self.checkpoint.sampler.steps, self.checkpoint.sampler.shift)

    @property
    def parameters(self) -> int:
        return max(part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        return round(BASE_MEMORY + MEMORY_FACTOR * 4 * self.parameters)

    def to_dict(self) -> dict:
        return {
            "model": self.checkpoint.config.name,
            "tier": self.tier.name,
            "width": self.tier.width,
            "resolution": list(self.resolution),
            "out": str(self.out),
            "random_weights": self.checkpoint.is_random,
            "components": [asdict(part) for part in self.parts],
            "bytes": self.bytes,
            "memory_bytes": self.memory_bytes,
            "source": "predicted",
        }


@dataclass(frozen=True)
class Result:
    """What an export made."""

    plan: Plan
    artifacts: tuple[Artifact, ...]
    operations: tuple[int, ...]  # by artifact
    rows: tuple[Row, ...]
    stages: tuple[Stage, ...]
    sample: Path | None

    @property
    def bundle(self) -> Path:
        return self.plan.out

    @property
    def peak_bytes(self) -> int:
        return max(stage.peak_bytes for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def row(self, component: str, backend: str) -> Row:
        return next(row for row in self.rows if (row.component, row.backend) == (component, backend))

    def to_dict(self) -> dict:
        components = [
            {
                "component": a.name,
                "backend": a.backend,
                "path": a.path,
                "bytes": a.bytes,
                "resident_bytes": a.resident_bytes,
                "operations": count,
            }
            for a, count in zip(self.artifacts, self.operations, strict=True)
        ]
        return {
            "bundle": str(self.plan.out),
            "model": self.plan.checkpoint.config.name,
            "tier": self.plan.tier.name,
            "width": self.plan.tier.width,
            "random_weights": self.plan.checkpoint.is_random,
            "components": components,
            "verify": [asdict(row) for row in self.rows],
            "sample": str(self.sample) if self.sample else None,
            "seconds": round(self.seconds, 1),
            "peak_bytes": self.peak_bytes,
            "stages": [asdict(stage) for stage in self.stages],
        }


def make_plan(
    checkpoint: Checkpoint,
    tier: Tier,
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Plan:
    """Checks everything that can be checked before the work starts."""
    config = checkpoint.config
    checkpoint.check_width(tier.width)
    backends = tuple(dict.fromkeys(backends)) or tuple(tier.backends)
    components = tuple(dict.fromkeys(components)) or COMPONENTS
    for name in components:
        if name not in COMPONENTS:
            raise unknown("component", name, COMPONENTS)
    components = tuple(name for name in COMPONENTS if name in components)
    resolution = resolution or tier.resolution or config.resolution
    config.latent_size(resolution)
    sizes = parameter_counts(checkpoint, tier.width)
    weights = stored_weights(checkpoint) if "transformer" in components else {}
    for backend in backends:
        find_backend(backend).check(weights, tier.backend(backend))
    parts = tuple(
        Part(
            name,
            backend,
            f"{backend}/{name}",
            sizes[name],
            find_backend(backend).predicted_bytes(
                sizes[name], weights if name == "transformer" else {}, tier.backend(backend)
            ),
        )
        for backend in backends
        for name in components
    )
    out = out or Path("out") / config.name / tier.name
    check_free(out, MANIFEST, overwrite)
    return Plan(tier, checkpoint, backends, components, resolution, out, overwrite, parts)


def parameter_counts(checkpoint: Checkpoint, width: float) -> dict[str, int]:
    """Parameters of each component at a width."""
    counts = {"transformer": sum(p.numel() for p in skeleton(checkpoint.config.transformer.at(width)).parameters())}
    for name in ("text_encoder", "decoder"):
        counts[name] = sum(int(np.prod(shape)) for shape in checkpoint.shapes(name).values())
    return counts


def export(plan: Plan, report: Report = lambda line: None) -> Result:
    """Makes the bundle of a plan; one that fails verification leaves nothing and raises VerificationError."""
    check_space(plan)
    meter = Meter()
    with new_folder(plan.out, MANIFEST, plan.overwrite) as root, scratch(root), threads_for(plan.parameters):
        networks = TorchNetworks(plan.checkpoint, plan.tier.width)
        report("running the original in PyTorch")
        with meter.stage("reference"):
            reference = make_reference(
                networks,
                plan.latent_shape,
                plan.sigmas,
                plan.checkpoint.sampler.guidance,
                plan.checkpoint.config.prompts,
                plan.parameters > LARGE,
                is_complete(plan),
            )
        artifacts = [emit_measured(plan, networks, part, root, meter, report) for part in plan.parts]
        bundle = Bundle(root, make_manifest(plan, root, artifacts))
        rows = []
        for artifact in artifacts:
            report(f"verifying {artifact.name} on {artifact.backend}")
            with meter.stage(f"verify {artifact.backend} {artifact.name}"):
                rows.append(verify_artifact(bundle, artifact, reference))
        for backend in bundle.backends if is_complete(plan) else ():
            report(f"drawing with {backend}")
            with meter.stage(f"picture {backend}"):
                rows.append(verify_picture(bundle, backend, reference)[0])
        require(rows, "No bundle was written.")
        sample = draw_sample(plan, bundle, meter, report)
        operations = tuple(count_operations(a.backend, root / a.path) for a in artifacts)
        write_rows(root, rows)
        write_manifest(root, bundle.manifest)
    return Result(plan, tuple(artifacts), operations, tuple(rows), tuple(meter.stages), sample)


def check_space(plan: Plan) -> None:
    """Refuses an export that the disk cannot hold, before the work."""
    free = free_bytes(plan.out)
    if free < plan.bytes:
        raise InputError(
            f"the disk of {plan.out} is full: {free / 2**20:.0f} MiB free, about {plan.bytes / 2**20:.0f} MiB needed.",
            "Free some space, or choose another --out.",
        )


@contextmanager
def scratch(root: Path) -> Iterator[None]:
    """Keeps the temporary files of converters inside the unfinished bundle, so that they vanish with it when killed.

    Python's temporary folder is the whole process's: a second export in another thread waits for the first.
    """
    folder = root / ".scratch"
    folder.mkdir()
    with PROCESS:
        kept, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = kept
            shutil.rmtree(folder, ignore_errors=True)


def is_complete(plan: Plan) -> bool:
    """Whether the plan has all it takes to draw."""
    return set(plan.components) == set(COMPONENTS)


def emit_measured(
    plan: Plan, networks: TorchNetworks, part: Part, root: Path, meter: Meter, report: Report
) -> Artifact:
    """Emits one part, as a stage."""
    report(f"writing {part.component} for {part.backend}")
    with meter.stage(f"emit {part.backend} {part.component}"):
        artifact = emit(plan, networks, part, root)
        gc.collect()
    return artifact


def emit(plan: Plan, networks: TorchNetworks, part: Part, root: Path) -> Artifact:
    """Rewrites a component in its back end's form and writes its artifact."""
    backend, target = find_backend(part.backend), plan.tier.backend(part.backend)
    weights = stored_weights(plan.checkpoint) if part.component == "transformer" else {}
    component = build(plan, networks, part.component, Form(target.attention, target.query_chunk, target.norm))
    path = artifact_path(root, part.backend, part.component)
    try:
        quietly(lambda: backend.write(component, path, target, weights))
    except EdgegenError:
        raise
    except Exception as error:
        if is_disk_full(error, path):
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise EdgegenError(
            f"{part.backend} cannot take the {part.component}: {type(error).__name__}: {reason}.",
            "edgegen doctor shows what is installed.",
        ) from error
    inputs, outputs = backend.signature(component, target)
    options = backend.options(target, weights)
    return describe(root, part.backend, part.component, component.form, inputs, outputs, options)


def build(plan: Plan, networks: TorchNetworks, name: str, form: Form) -> Component:
    """The component of a name, from the original modules."""
    from edgegen.rewrite.build import decoder_component, text_component, transformer_component

    text = plan.checkpoint.config.text
    word, byte = (part.length if part else None for part in (text.word, text.byte))
    if name == "transformer":
        return transformer_component(networks.transformer, plan.latent_size, (word or 0) + (byte or 0), form)
    if name == "text_encoder":
        return text_component(networks.text_encoders, word, byte, form)
    return decoder_component(networks.decoder, plan.latent_size, form)


def make_manifest(plan: Plan, root: Path, artifacts: Sequence[Artifact]) -> Manifest:
    """The manifest of a plan's artifacts; writes the tokenizer beside them."""
    config, sampler = plan.checkpoint.config, plan.checkpoint.sampler
    quantized = config.quantization
    lengths = {name: part.length for name, part in (("word", config.text.word), ("byte", config.text.byte)) if part}
    return Manifest(
        model=config.name,
        tier=plan.tier.name,
        width=plan.tier.width,
        resolution=plan.resolution,
        steps=sampler.steps,
        sigmas=tuple(plan.sigmas),
        shift=sampler.shift,
        guidance=sampler.guidance,
        bits=plan.tier.bits if quantized is None else quantized.bits,
        latent_shape=plan.latent_shape,
        timestep_features=timestep_definition(config.transformer.time_features),
        tokenizer=write_tokenizer(root, plan.checkpoint.tokenizer_files, lengths),
        prompts=config.prompts,
        floors_db=floors(plan),
        checkpoint=plan.checkpoint.origin,
        tool_versions=tool_versions(),
        components=tuple(artifacts),
    )


def floors(plan: Plan) -> dict[str, float]:
    """The floors of a manifest; a transformer with quantized weights has its own."""
    targets = [plan.tier.backend(name) for name in plan.backends]
    found = {target.name: target.floor_db for target in targets} | {PICTURE: plan.tier.picture_floor_db}
    if plan.checkpoint.config.quantization is not None:
        found |= {f"{target.name}/transformer": target.floor_of_quantized_db for target in targets}
    return found


def draw_sample(plan: Plan, bundle: Bundle, meter: Meter, report: Report) -> Path | None:
    """sample.png: prompts of the manifest side by side, drawn by the artifacts of the fastest back end here."""
    backend = next((b for b in fastest_first() if b in bundle.backends and is_whole(bundle, b)), None)
    if backend is None:
        return None
    report(f"drawing {SAMPLE} with {backend}")
    m = bundle.manifest
    prompts = m.prompts[:1] if plan.parameters > LARGE else m.prompts[:4]
    networks = ArtifactNetworks(bundle, backend)
    with meter.stage("sample"):
        pictures = [draw(networks, prompt, m.latent_shape, m.sigmas, m.guidance, 0) for prompt in prompts]
    to_image(np.concatenate(pictures, 3)).save(bundle.root / SAMPLE)
    return plan.out / SAMPLE
