"""The programs of a recorded network on one back end: written by its blocks, whole or in chunks, and judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgegen.backends.registry import find_backend
from edgegen.bundle import Artifact, Bundle, artifact_path, describe
from edgegen.capture.deploy import Deployed, deploy
from edgegen.capture.segments import REPEATS, in_segments
from edgegen.chunking import Chunking
from edgegen.emit.template_error import TemplateError
from edgegen.errors import EdgegenError, InputError
from edgegen.files import is_disk_full
from edgegen.foreign.chunks import PieceChain, cut_network, run_pieces
from edgegen.foreign.recording import Recorded, check_replay
from edgegen.foreign.scaling import mended_
from edgegen.foreign.source import Source
from edgegen.journal import Journal
from edgegen.manifest import ForeignArtifact
from edgegen.pipeline.artifact import open_chain
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quietly
from edgegen.rewrite.chunks import chunk_components
from edgegen.rewrite.component import Component, Form
from edgegen.target import BackendTarget
from edgegen.verify import Case, Row, compare, compare_chain

HALF = "float16"
STREAMING = "coreml"  # the back end that asks for a segment's weights one by one


@dataclass(frozen=True)
class Emitted:
    """The programs of a network on one back end, the network as they have it, and how often its layout moves data."""

    artifacts: tuple[Artifact, ...]
    component: Component
    moved: dict[str, Any]


def emitted(
    recorded: Recorded, target: BackendTarget, journal: Journal, weights: StoredWeights, asked: Chunking
) -> Emitted:
    """The programs of a network on one back end: written and noted, or as an interrupted export left them."""
    source = recorded.source
    find_backend(target.name).check(weights, target)
    component = deploy(recorded.traced, Form(target.attention, target.query_chunk, target.operations), source.name)
    module = component.module
    assert isinstance(module, Deployed)
    moved: dict[str, Any] = {"moves": len(module.moves), "unknown": dict(Counter(module.unknown))}
    if target.precision == HALF and (exponents := mended_(recorded, component)):
        moved["scaled"] = exponents
    is_cut = len(source.stored) > 0 or asked.mib is not None or (asked.count or 1) > 1
    component = in_segments(component, source.stored.given(), 0 if is_cut else REPEATS)
    require_streamable(source, component, target)
    parts = chunk_components(component, cut_network(component, target, weights, asked), PieceChain)
    return Emitted(tuple(written(parts, source.name, target, journal, weights)), component, moved)


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
        held = dict(segment.module.named_parameters())
        own = [t for name, t in held.items() if segment.full(name) not in source.stored]
        if not all(torch.isfinite(t).all() for t in (*own, *segment.module.buffers()) if t.is_floating_point()):
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
