"""What is in an artifact: its operations by type, read from the file itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import Backend
from edgegen.backends.registry import find_backend, read_graph
from edgegen.bundle import Artifact, Bundle, load_bundle
from edgegen.callbacks import Report
from edgegen.errors import InputError, unknown
from edgegen.manifest import ForeignManifest
from edgegen.pipeline.artifact import artifact_errors
from edgegen.schema import from_values

if TYPE_CHECKING:
    from edgegen.lint import Finding

TRANSPOSES = ("transpose", "Transpose", "XNNStaticTranspose", "permute_copy", "transpose_copy")
RESHAPES = ("reshape", "Reshape", "XNNStaticReshape", "view_copy", "expand_dims", "squeeze", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Contents:
    """What `inspect` tells of one artifact; `operations` counts those that run, by the back end's own names."""

    component: str
    backend: str
    form: str
    operations: dict[str, int]  # most frequent first
    transposes: int
    reshapes: int
    parameters: int  # numbers stored as weights and constants
    bytes: int
    resident_bytes: int
    delegated: int | None  # ExecuTorch: operations inside XNNPACK
    storage: dict[str, int]  # Core AI: numbers stored by type, most first
    findings: tuple[Finding, ...]  # Core ML and Core AI: the Neural Engine's rules

    @property
    def not_delegated(self) -> dict[str, int]:
        """ExecuTorch: the operations outside XNNPACK, by name."""
        if self.delegated is None:
            return {}
        return {name: count for name, count in self.operations.items() if not name.startswith("XNN")}

    @property
    def operation_count(self) -> int:
        return sum(self.operations.values())


@dataclass(frozen=True)
class Layout:
    """How the layout of a foreign network was found on a back end, as its manifest tells: how often it moves data, and
    operations that the pass does not know, each done in its own layout between two transposes.
    """

    component: str
    backend: str
    moves: int
    unknown: dict[str, int]


@dataclass(frozen=True)
class Inspection:
    """Every artifact that was read of a bundle; of foreign networks, their layout."""

    bundle: str
    components: tuple[Contents, ...]
    layouts: tuple[Layout, ...] = ()

    def to_dict(self) -> dict:
        made = {"bundle": self.bundle, "components": [asdict(contents) for contents in self.components]}
        return made | ({"layouts": [asdict(layout) for layout in self.layouts]} if self.layouts else {})


def inspect_folder(folder: Path, backends: Sequence[str] = (), report: Report = lambda line: None) -> Inspection:
    """Every artifact of a bundle on disk, or those of some back ends."""
    bundle = load_bundle(folder)
    for backend in backends:
        if backend not in bundle.backends:
            raise unknown("back end", backend, bundle.backends)
    found, read = [], set()
    for tier in bundle.tiers:
        for artifact in tier.manifest.components:
            if artifact.path not in read and (not backends or artifact.backend in backends):
                report(f"reading {artifact.name} of {artifact.backend}")
                found.append(inspect_artifact(tier, artifact))
                read.add(artifact.path)
    return Inspection(str(folder), tuple(found), tuple(layouts_of(bundle, backends)))


def layouts_of(bundle: Bundle, backends: Sequence[str]) -> Iterator[Layout]:
    """What the manifest tells of each foreign network; what it does not tell, or not so, is left out."""
    if not isinstance(bundle.manifest, ForeignManifest):
        return
    for name, backend in bundle.networks:
        told = bundle.manifest.pipeline["networks"][name].get("backends")
        found = told.get(backend) if isinstance(told, dict) else None
        if isinstance(found, dict) and (not backends or backend in backends):
            try:
                yield from_values(Layout, found | {"component": name, "backend": backend}, strangers=True)
            except InputError:
                continue


def inspect_artifact(bundle: Bundle, artifact: Artifact) -> Contents:
    """Reads one artifact."""
    path, backend = bundle.path(artifact), find_backend(artifact.backend)
    program = read_graph(artifact.backend, path)
    return Contents(
        component=f"{bundle.inside}/{artifact.name}" if bundle.inside else artifact.name,
        backend=artifact.backend,
        form=artifact.form,
        operations=dict(program.counts),
        transposes=total(program.counts, TRANSPOSES),
        reshapes=total(program.counts, RESHAPES),
        parameters=program.parameters,
        bytes=artifact.bytes,
        resident_bytes=artifact.resident_bytes,
        delegated=program.delegated,
        storage=dict(program.storage),
        findings=findings_of(backend, path),
    )


def findings_of(backend: Backend, path: Path) -> tuple[Finding, ...]:
    """What the lint says of an artifact; one whose constants cannot be read is an error that names the file."""
    if backend.lint is None:
        return ()
    with artifact_errors(path, f"cannot be read as {backend.name}"):
        return tuple(backend.lint(path))


def count_operations(backend: str, path: Path) -> int:
    """How many operations an artifact runs."""
    return sum(read_graph(backend, path).counts.values())


def total(counts: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(counts.get(name, 0) for name in names)
