"""Where the time of an artifact goes: its runtime's own times of operations, by the modules they come from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgegen.backends.backend import ProfileRequest
from edgegen.backends.registry import find_backend, list_backends
from edgegen.bundle import Artifact, Bundle
from edgegen.errors import EdgegenError, InputError
from edgegen.graph.timed import TimedOperation
from edgegen.model.random_checkpoint import reopen
from edgegen.pipeline.torch import TorchNetworks

NOWHERE = "(no module)"


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
    profile = find_backend(artifact.backend).profile
    if profile is None:
        able = ", ".join(backend.name for backend in list_backends() if backend.profile)
        raise InputError(f"there is no profile of {artifact.backend} here.", f"Profile {able}.")
    inputs = tuple(spec.name for spec in artifact.inputs)
    modules = partial(module_keys, bundle, artifact.name)
    return profile(ProfileRequest(bundle.path(artifact), inputs, feed, threads, count, modules))


def module_keys(bundle: Bundle, component: str) -> dict[str, str]:
    """sha256 of a weight's bytes -> its module's name; nothing where the bundle's checkpoint is gone."""
    try:
        networks = TorchNetworks(reopen(bundle.manifest.checkpoint), bundle.manifest.width)
    except EdgegenError:
        return {}
    module = {
        "transformer": lambda: networks.transformer,
        "decoder": lambda: networks.decoder,
        "text_encoder": lambda: networks.text_encoders,
    }[component]()
    keys: dict[str, str] = {}
    for name, value in module.state_dict().items():
        key = hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        keys[key] = "" if key in keys else name.rpartition(".")[0]  # two alike, such as zeros, name nothing
    return keys


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
