"""From a plan to a verified bundle: emit, verify, draw, put in place."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from edgegen.backends.backend import Backend
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
from edgegen.callbacks import Advance, Report, advance_of
from edgegen.errors import EdgegenError, VerificationError
from edgegen.files import is_disk_full
from edgegen.folders import new_folder, newest_left
from edgegen.inspection import count_operations
from edgegen.jobs import can_share, share
from edgegen.journal import Journal, has_notes
from edgegen.manifest import TierPart
from edgegen.meter import Meter, Stage, available_bytes, give_back
from edgegen.pipeline.draw import draw, to_image
from edgegen.pipeline.networks import ArtifactNetworks
from edgegen.pipeline.torch import TorchNetworks
from edgegen.plan import Part, Plan, check_space
from edgegen.quantize.stored import StoredWeights, stored_weights
from edgegen.quiet import PROCESS, quietly
from edgegen.rewrite.chunks import chunk_components, chunk_name
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.threads import LARGE, threads_for
from edgegen.schema import from_values
from edgegen.target import BackendTarget
from edgegen.verify import (
    PICTURE,
    Reference,
    Row,
    is_whole,
    make_reference,
    require,
    verify_network,
    verify_picture,
    write_rows,
)

PLAIN_BITS = 16  # a weight, as checkpoints store those that are not quantized


@dataclass(frozen=True)
class Result:
    """What an export made."""

    plan: Plan
    artifacts: tuple[Artifact, ...]
    operations: tuple[int, ...]  # by artifact
    rows: tuple[Row, ...]
    stages: tuple[Stage, ...]
    sample: Path | None
    seconds: float  # from start to end, of which stages in two processes have more
    others: tuple[Result, ...] = ()  # of several tiers the further ones: what is their own

    @property
    def bundle(self) -> Path:
        return self.plan.out

    @property
    def peak_bytes(self) -> int:
        return max((stage.peak_bytes for result in (self, *self.others) for stage in result.stages), default=0)

    def require(self) -> None:
        """Raises VerificationError that names every row below its floor, and the back ends that were written."""
        rows = [row for result in (self, *self.others) for row in result.rows]
        try:
            written = f"{self.plan.out} has {', '.join(dict.fromkeys(a.backend for a in self.artifacts))}."
            require(rows, f"{written}{advice(self.plan, rows)}")
        except VerificationError as error:
            error.kept = self
            raise

    @property
    def kept_rows(self) -> list[Row]:
        """The rows of back ends that were written."""
        kept = {artifact.backend for artifact in self.artifacts}
        return [row for row in self.rows if row.backend in kept]

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
            **({"tiers": [other.to_dict() for other in self.others]} if self.others else {}),
        }


def export(plan: Plan, report: Report = lambda line: None) -> Result:
    """Makes the bundle of a plan. A back end that fails verification is left out of it and raises VerificationError,
    which has the Result of what was written as `kept`; where all fail, nothing is written. Artifacts that are finished
    when it is interrupted stay beside the bundle's place, for a plan that resumes.
    """
    check_space(plan)
    start = time.perf_counter()
    with (
        told_to_resume(plan),
        new_folder(plan.out, MANIFEST, plan.overwrite, has_notes, plan.resume) as root,
        noted(plan, root) as journal,
        scratch(root),
        threads_for(max(each.parameters for each in (plan, *plan.others))),
    ):
        first, bundle = make_tier(plan, journal, None, report)
        others = [make_tier(other, journal, bundle, report) for other in plan.others]
        tiers = tuple(tier_part(further) for _, further in others if further.own)
        results = [first, *(result for result, _ in others)]
        write_rows(root, [row for result in results for row in result.kept_rows])
        write_manifest(root, replace(bundle.manifest, tiers=tiers))
    seconds = time.perf_counter() - start
    result = replace(first, seconds=seconds, others=tuple(results[1:]))
    result.require()
    return result


def make_tier(plan: Plan, journal: Journal, first: Bundle | None, report: Report) -> tuple[Result, Bundle]:
    """Makes, verifies and draws with one tier's artifacts; a further tier has all else from the `first`. Returns also
    the bundle of this tier without the back ends that failed.
    """
    meter, root, start = Meter(), journal.root, time.perf_counter()
    reference, own = reference_and_artifacts(plan, journal, meter, report)
    bundle = Bundle(root, make_manifest(plan, root, own)) if first is None else further(plan, first, own)
    rows = verify_own(plan, bundle, own, reference, meter, report)
    kept = keep_passing_(plan, bundle, rows)
    sample = draw_sample(plan, kept, meter, report)
    artifacts = tuple(artifact for artifact in own if artifact.backend in kept.backends)
    operations = tuple(count_operations(a.backend, root / a.path) for a in artifacts)
    seconds = time.perf_counter() - start
    return Result(plan, artifacts, operations, tuple(rows), tuple(meter.stages), sample, seconds), kept


def further(plan: Plan, first: Bundle, own: Sequence[Artifact]) -> Bundle:
    """The bundle of a further tier: its own artifacts, and the first tier's of the back ends that are left."""
    part = TierPart(plan.tier.name, plan.tier.width, floors(plan), tuple(own))
    return replace(first, manifest=replace(first.manifest, tiers=(part,))).at(plan.tier.name)


def tier_part(bundle: Bundle) -> TierPart:
    """What a manifest says of a further tier."""
    m = bundle.manifest
    return TierPart(m.tier, m.width, m.floors_db, bundle.own)


def verify_own(
    plan: Plan, bundle: Bundle, own: Sequence[Artifact], reference: Reference, meter: Meter, report: Report
) -> list[Row]:
    """The rows of every component, and one for each back end's picture."""
    rows = []
    for name, backend in dict.fromkeys((artifact.network, artifact.backend) for artifact in own):
        report(f"verifying {name} on {backend}")
        with meter.stage(f"verify {backend} {name}"):
            rows += verify_network(bundle, name, backend, reference)
    for backend in bundle.backends if is_complete(plan) else ():
        if is_whole(bundle, backend):
            report(f"drawing with {backend}")
            with meter.stage(f"picture {backend}"):
                rows.append(verify_picture(bundle, backend, reference)[0])
    return rows


@contextmanager
def told_to_resume(plan: Plan) -> Iterator[None]:
    """Says of what ends an export before its end that artifacts are kept, where some are."""
    try:
        yield
    except BaseException as error:
        if newest_left(plan.out, has_notes) is not None:
            error.add_note("What was finished is kept: the same command with --resume goes on.")
        raise


@contextmanager
def noted(plan: Plan, root: Path) -> Iterator[Journal]:
    """The notes of what is finished, in the unfinished bundle until it is whole, or has failed."""
    journal = Journal(root, plan.settings())
    try:
        yield journal
    except VerificationError:
        journal.close()
        raise
    journal.close()


def advice(plan: Plan, rows: Sequence[Row]) -> str:
    """What a tier can ask for where float16 is what failed."""
    failed = {row.backend for row in rows if not row.passed}
    half = [name for name in plan.backends if name in failed and plan.tier.backend(name).precision == "float16"]
    could = [name for name in half if "float32" in find_backend(name).precisions]
    if not could or plan.checkpoint.config.quantization is not None:
        return ""
    return f' A tier with precision = "float32" for {could[0]} takes twice the bytes and no Neural Engine.'


def keep_passing_(plan: Plan, bundle: Bundle, rows: Sequence[Row]) -> Bundle:
    """The bundle without the back ends of which a row is below its floor, their files removed; where none is left of
    the first tier, VerificationError.
    """
    failed = {row.backend for row in rows if not row.passed}
    kept = tuple(a for a in bundle.manifest.components if a.backend not in failed)
    if not kept and not plan.inside:
        require(rows, f"No bundle was written.{advice(plan, rows)}")
    for backend in failed:
        shutil.rmtree(bundle.folder / backend)
    return replace(bundle, manifest=replace(bundle.manifest, components=kept))


def reference_and_artifacts(
    plan: Plan, journal: Journal, meter: Meter, report: Report
) -> tuple[Reference, list[Artifact]]:
    """What the original gives, and the artifacts of all parts; where memory and cores allow, a second process begins to
    write them, the largest first, while this one runs the original.
    """
    networks, references = TorchNetworks(plan.checkpoint, plan.tier.width), []
    order, two, here = hardest_first(plan), fits_two(plan), os.getpid()
    if two:
        load_(networks, plan)  # once, before the process is copied

    def run_original() -> None:
        report("running the original in PyTorch")
        with meter.stage("reference"):
            references.append(make_reference_of(plan, networks, advance_of(report)))
            give_back()

    def work(job: int) -> dict:
        own, tell = Meter(), report if os.getpid() == here else silent
        if tell is silent:
            torch.set_num_threads(1)  # a copied process has no pool of threads, and would wait for it
        artifacts = finished(plan, networks, plan.parts[order[job]], journal, own, tell)
        return {"artifacts": [asdict(a) for a in artifacts], "stages": [asdict(stage) for stage in own.stages]}

    results = dict(zip(order, share(len(order), work, run_original, two), strict=True))
    for part in range(len(order)):
        meter.stages += [Stage(**stage) for stage in results[part]["stages"]]
    made = [json.loads(json.dumps(results[part]["artifacts"])) for part in range(len(order))]
    return references[0], [from_values(Artifact, values) for artifacts in made for values in artifacts]


def silent(line: str) -> None:
    """A report of a process that has no terminal of its own."""


def hardest_first(plan: Plan) -> list[int]:
    """The parts in the order of how long they may take: transformers first, of them those of the last back ends."""
    return sorted(range(len(plan.parts)), key=lambda i: (plan.parts[i].component != "transformer", -i))


def fits_two(plan: Plan) -> bool:
    """Whether two processes can write artifacts at a time: there are cores, and memory for both."""
    return len(plan.parts) > 1 and can_share() and available_bytes() > 2 * plan.memory_bytes


def load_(networks: TorchNetworks, plan: Plan) -> None:
    """Makes the original's networks on one thread, since a process with a pool of threads must not be copied."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("transformer", "text_encoders", "decoder"):
        getattr(networks, name)
    torch.set_num_threads(threads)


def make_reference_of(plan: Plan, networks: TorchNetworks, advance: Advance) -> Reference:
    """The original's answers that the artifacts are held against."""
    return make_reference(
        networks,
        plan.latent_shape,
        plan.sigmas,
        plan.checkpoint.sampler.guidance,
        plan.checkpoint.config.prompts,
        plan.parameters > LARGE,
        is_complete(plan),
        between=[spec.name for part in plan.parts for chunk in part.chunks[:-1] for spec in chunk.outputs],
        components=plan.components,
        advance=advance,
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


def finished(
    plan: Plan, networks: TorchNetworks, part: Part, journal: Journal, meter: Meter, report: Report
) -> list[Artifact]:
    """The artifact of one part, or those of its chunks: emitted as a stage and noted, or as an interrupted export left
    them.
    """
    paths = [f"{path}{find_backend(part.backend).suffix}" for path in part.paths]
    made = {path: found for path in paths if (found := journal.find(path)) is not None}
    if len(made) == len(paths):
        report(f"{part.component} for {part.backend} is there")
        return list(made.values())
    report(f"writing {part.component} for {part.backend}{f', tier {plan.tier.name}' if plan.inside else ''}")
    with meter.stage(f"emit {part.backend} {part.component}"):
        for artifact in emit(plan, networks, part, journal.root, [path in made for path in paths]):
            journal.note(artifact)
            made[artifact.path] = artifact
        gc.collect()
        give_back()
    return [made[path] for path in paths]


def emit(
    plan: Plan, networks: TorchNetworks, part: Part, root: Path, is_there: Sequence[bool] = ()
) -> Iterator[Artifact]:
    """Rewrites a component in its back end's form and writes its artifact, or those of its chunks that are not there;
    yields each when it is whole.
    """
    backend, target = find_backend(part.backend), plan.tier.backend(part.backend)
    weights = stored_weights(plan.checkpoint) if part.component == "transformer" else {}
    whole = build(plan, networks, part.component, Form(target.attention, target.query_chunk, target.operations))
    folder = root / plan.inside
    folder.mkdir(exist_ok=True)
    components = [c for c, there in zip_longest(chunk_components(whole, part.chunks), is_there) if not there]
    paths = [artifact_path(folder, part.backend, component.name) for component in components]
    options = backend.options(target, weights)
    writing = write(backend, components, paths, target, weights)
    for component, path in zip(components, paths, strict=True):
        with told_of_converter(part, path):
            quietly(lambda: next(writing))
        signature = backend.signature(component, target)
        artifact = describe(folder, part.backend, component.name, component.form, *signature, options)
        check_limit(part, artifact)
        yield replace(artifact, path=path.relative_to(root).as_posix())


def write(
    backend: Backend, components: list[Component], paths: list[Path], target: BackendTarget, weights: StoredWeights
) -> Iterator[Path]:
    """Writes components, of which a back end that takes no chunks has one; yields each path when it is whole."""
    if backend.write_chunks is not None:
        yield from backend.write_chunks(components, paths, target, weights)
        return
    for component, path in zip(components, paths, strict=True):
        backend.write(component, path, target, weights)
        yield path


@contextmanager
def told_of_converter(part: Part, path: Path) -> Iterator[None]:
    """Whatever a converter raises is an error of one line that names the component."""
    try:
        yield
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


def check_limit(part: Part, artifact: Artifact) -> None:
    """Refuses a chunk with more bytes of weights than the plan, which counts the most there can be."""
    for number, chunk in enumerate(part.chunks):
        if artifact.name == chunk_name(part.component, number) and artifact.resident_bytes > chunk.bytes:
            raise EdgegenError(
                f"{artifact.name} has {artifact.resident_bytes} bytes of weights, the plan allows {chunk.bytes}.",
                "This is a bug of edgegen; a larger --chunk-mib is a way around it.",
            )


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
        bits=PLAIN_BITS if quantized is None else quantized.bits,
        latent_shape=plan.latent_shape,
        timestep_features=timestep_definition(config.transformer.time_features),
        tokenizer=write_tokenizer(root, plan.checkpoint.tokenizer_files, lengths),
        prompts=config.prompts,
        floors_db=floors(plan),
        checkpoint=plan.checkpoint.origin,
        tool_versions=tool_versions(),
        asked=plan.asked,
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
    to_image(np.concatenate(pictures, 3)).save(bundle.folder / SAMPLE)
    return plan.out / plan.inside / SAMPLE
