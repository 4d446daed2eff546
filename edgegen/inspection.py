"""What is in an artifact: its operations by type, read from the file itself."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgegen.emit.bundle import Artifact, Bundle, load_bundle
from edgegen.errors import EdgegenError
from edgegen.quiet import quietly
from edgegen.target import unknown

if TYPE_CHECKING:
    from edgegen.lint import Finding

Report = Callable[[str], None]
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
    findings: tuple[Finding, ...]  # Core ML: the Neural Engine's rules

    @property
    def not_delegated(self) -> dict[str, int]:
        """ExecuTorch: the operations outside XNNPACK, by name."""
        if self.delegated is None:
            return {}
        return {name: count for name, count in self.operations.items() if not name.startswith("XNN")}

    @property
    def operation_count(self) -> int:
        return sum(self.operations.values())


def inspect_folder(folder: Path, backends: Sequence[str] = (), report: Report = lambda line: None) -> list[Contents]:
    """Every artifact of a bundle on disk, or those of some back ends."""
    bundle = load_bundle(folder)
    for backend in backends:
        if backend not in bundle.backends:
            raise unknown("back end", backend, bundle.backends)
    found = []
    for artifact in bundle.manifest.components:
        if not backends or artifact.backend in backends:
            report(f"reading {artifact.name} of {artifact.backend}")
            found.append(inspect_artifact(bundle, artifact))
    return found


def inspect_artifact(bundle: Bundle, artifact: Artifact) -> Contents:
    """Reads one artifact."""
    path = bundle.path(artifact)
    counts, parameters, delegated = READERS[artifact.backend](path)
    findings = engine_findings(path) if artifact.backend == "coreml" else ()
    return Contents(
        artifact.name, artifact.backend, artifact.form, dict(counts.most_common()), total(counts, TRANSPOSES),
        total(counts, RESHAPES), parameters, artifact.bytes, artifact.resident_bytes, delegated, findings,
    )  # fmt: skip


def engine_findings(path: Path) -> tuple[Finding, ...]:
    """What the Neural Engine's rules say of a Core ML program."""
    from edgegen.lint import lint

    return tuple(lint(path))


def count_operations(backend: str, path: Path) -> int:
    """How many operations an artifact runs."""
    return sum(READERS[backend](path)[0].values())


def total(counts: Counter[str], names: tuple[str, ...]) -> int:
    return sum(counts[name] for name in names)


def read_coreml(path: Path) -> tuple[Counter[str], int, None]:
    """Operations of the MIL program and the numbers in its constants; of a compressed one, those it stands for."""
    from edgegen.runtime.coreml import CoreMLProgram

    program = CoreMLProgram.load(path)
    parameters = sum(elements(info.shape) for info in program.constants())
    for op in program.operations():
        if op.type.startswith("constexpr_"):
            stored = {info.name: info.shape for infos in op.inputs.values() for info in infos}
            parameters += elements(op.outputs[0].shape) - sum(map(elements, stored.values()))
    return program.operation_counts(), parameters, None


def read_onnx(path: Path) -> tuple[Counter[str], int, None]:
    """Nodes of the graph and the numbers in its initializers."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node if node.op_type != "Constant")
    return counts, sum(elements(tensor.dims) for tensor in graph.initializer), None


def elements(shape) -> int:
    """The product of a shape."""
    count = 1
    for size in shape or ():
        count *= int(size)
    return count


def read_executorch(path: Path) -> tuple[Counter[str], int, int]:
    """Operations of the program and of the XNNPACK graphs in it; parameters counts the fp32 numbers it stores."""
    file, schema = quietly(lambda: read_program(path))
    program = file.program
    counts: Counter[str] = Counter()
    delegated = 0
    for plan in program.execution_plan:
        for instruction in (i for chain in plan.chains for i in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, schema.KernelCall):
                counts[plan.operators[call.op_index].name.removeprefix("aten::")] += 1
            elif isinstance(call, schema.DelegateCall):
                inside = xnnpack_operations(
                    program.backend_delegate_data[plan.delegates[call.delegate_index].processed.index].data
                )
                counts += inside
                delegated += sum(inside.values())
    stored = [len(data) for data in (file.named_data.buffers if file.named_data else ())]
    stored += [len(data.storage) for data in program.constant_buffer]
    return counts, sum(stored) // 4, delegated


def read_program(path: Path) -> tuple[Any, Any]:
    """A .pte file decoded, and the module of its types."""
    from executorch.exir import schema
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(path.read_bytes()), schema


def xnnpack_operations(payload: bytes) -> Counter[str]:
    """Operations of one XNNPACK graph."""
    return Counter(node["xnode_union_type"].removeprefix("_") for node in xnnpack_graph(payload)["xnodes"])


def xnnpack_graph(payload: bytes) -> dict[str, Any]:
    """One XNNPACK graph, decoded with the schema and the flatc that ExecuTorch installs."""
    import executorch
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

    root = Path(executorch.__path__[0])
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    graph = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "graph.bin"
        binary.write_bytes(graph)
        schema = root / "backends/xnnpack/serialization/schema.fbs"
        command = [
            str(root / "data/bin/flatc"),
            "--json",
            "--strict-json",
            "--raw-binary",
            "-o",
            folder,
            str(schema),
            "--",
            str(binary),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EdgegenError(f"flatc cannot read an XNNPACK graph: {done.stderr.strip()[:200]}.")
        text = (Path(folder) / "graph.json").read_text()
    return json.loads(re.sub(r": (-?inf|nan)\b", ": null", text))  # flatc writes infinities, which JSON has not


READERS = {"coreml": read_coreml, "onnx": read_onnx, "executorch": read_executorch}
