"""What is in an artifact: its operations by type, read from the file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import Backend
from edgegen.backends.registry import find_backend, read_graph
from edgegen.bundle import Artifact, Bundle, load_bundle
from edgegen.callbacks import Report
from edgegen.errors import unknown
from edgegen.pipeline.artifact import artifact_errors

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
class Inspection:
    """Every artifact that was read of a bundle."""

    bundle: str
    components: tuple[Contents, ...]

    def to_dict(self) -> dict:
        return {"bundle": self.bundle, "components": [asdict(contents) for contents in self.components]}


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
    return Inspection(str(folder), tuple(found))


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
