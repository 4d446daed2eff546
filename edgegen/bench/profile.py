"""Where the time of an artifact goes: its runtime's own times of operations, by the modules they come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgegen.emit.bundle import Artifact, Bundle
from edgegen.errors import InputError

NOWHERE = "(no module)"


@dataclass(frozen=True)
class TimedOperation:
    """One operation of an artifact: milliseconds (median of the runs), and when it began in the last run."""

    name: str
    kind: str
    module: str  # '' where it could not be told
    ms: float
    start_ms: float


@dataclass(frozen=True)
class Share:
    """What a group of operations takes."""

    name: str
    operations: int
    ms: float
    share: float


def profile_artifact(
    bundle: Bundle, artifact: Artifact, feed: Mapping[str, np.ndarray], threads: int, count: int
) -> list[TimedOperation]:
    """The operations of one artifact in the order they run, from `count` runs after one that does not count."""
    path = bundle.path(artifact)
    if artifact.backend == "onnx":
        from edgegen.bench.profile_onnx import profile_onnx

        return profile_onnx(path, feed, threads, count)
    if artifact.backend == "executorch":
        from edgegen.bench.profile_executorch import profile_executorch

        return profile_executorch(bundle, artifact, feed, count)
    raise InputError(
        f"there is no profile of {artifact.backend}.", "Profile onnx or executorch; Xcode profiles Core ML."
    )


def cut(module: str) -> str:
    """A module's name up to the part of a block: down.3.attn.rope_q -> down.3.attn."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 2]) or NOWHERE


def shares(operations: Sequence[TimedOperation], by: str) -> list[Share]:
    """Operations grouped by 'module' or 'kind', the longest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for operation in operations:
        groups[cut(operation.module) if by == "module" else operation.kind].append(operation.ms)
    total = sum(operation.ms for operation in operations) or 1.0
    made = [Share(name, len(ms), sum(ms), sum(ms) / total) for name, ms in groups.items()]
    return sorted(made, key=lambda share: -share.ms)


def traces(profiles: Mapping[str, Sequence[TimedOperation]]) -> dict:
    """The last run of each profile as a process of a Chrome trace, which Perfetto opens too; microseconds."""
    events: list[dict] = []
    for process, (title, operations) in enumerate(profiles.items(), 1):
        events.append({"ph": "M", "pid": process, "tid": 1, "name": "process_name", "args": {"name": title}})
        events += [
            {
                "ph": "X",
                "pid": process,
                "tid": 1,
                "name": f"{o.module or NOWHERE}: {o.kind}",
                "cat": o.kind,
                "ts": round(1e3 * o.start_ms, 3),
                "dur": round(1e3 * o.ms, 3),
                "args": {"operation": o.name, "module": o.module},
            }
            for o in operations
        ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}
