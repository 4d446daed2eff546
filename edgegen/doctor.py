"""What works on this machine: which back end can convert, verify and run here."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgegen.emit.bundle import tool_versions
from edgegen.files import free_bytes
from edgegen.model.checkpoint import BUNDLED, bundled_folder
from edgegen.quiet import quietly
from edgegen.target import targets_folder


@dataclass(frozen=True)
class Ability:
    """Whether something works here, and why not."""

    works: bool
    note: str


@dataclass(frozen=True)
class BackendHealth:
    """The three things a back end is for."""

    backend: str
    convert: Ability
    verify: Ability
    run: Ability


@dataclass(frozen=True)
class Health:
    """All that `edgegen doctor` tells."""

    backends: tuple[BackendHealth, ...]
    versions: dict[str, str]
    python: str
    system: str
    cores: int  # this process may use
    memory_bytes: int  # of the machine; 0 if unknown
    free_disk_bytes: int  # of the current folder's disk
    bundled_checkpoint: bool
    targets: str


def examine() -> Health:
    """Tries every back end's libraries."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Health(
        backends=(examine_coreml(), examine_onnx(), examine_executorch()),
        versions=tool_versions(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=cores,
        memory_bytes=machine_memory(),
        free_disk_bytes=free_bytes(Path.cwd()),
        bundled_checkpoint=(bundled_folder(BUNDLED) / "config.json").is_file(),
        targets=str(targets_folder()),
    )


def machine_memory() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def attempt(work: Callable[[], object], note: str) -> Ability:
    """Whether something runs without an error; the error is the note otherwise."""
    try:
        quietly(work)
        return Ability(True, note)
    except Exception as error:  # anything a broken installation raises is a finding
        reason = (str(error).strip().splitlines() or [""])[0]
        return Ability(False, f"{type(error).__name__}: {reason}"[:200])


def importing(*names: str) -> Callable[[], object]:
    return lambda: [importlib.import_module(name) for name in names]


def examine_coreml() -> BackendHealth:
    verify = attempt(importing("edgegen.runtime.coreml"), "MIL evaluator, fp16")
    native = sys.platform == "darwin"
    run = Ability(native, "Core ML" if native else "on macOS and iOS; here the program is evaluated")
    return BackendHealth("coreml", attempt(importing("coremltools.converters.mil"), "coremltools"), verify, run)


def examine_onnx() -> BackendHealth:
    run = attempt(importing("onnxruntime"), "ONNX Runtime, CPU")
    return BackendHealth("onnx", attempt(importing("onnx", "onnxscript"), "onnx, onnxscript"), run, run)


def examine_executorch() -> BackendHealth:
    convert = attempt(
        importing("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner"), "XNNPACK partitioner"
    )
    run = attempt(find_xnnpack, "XNNPACK, CPU")
    return BackendHealth("executorch", convert, run, run)


def find_xnnpack() -> None:
    """Raises unless ExecuTorch's runtime here has XNNPACK."""
    from executorch.runtime import Runtime

    names = Runtime.get().backend_registry.registered_backend_names
    if "XnnpackBackend" not in names:
        raise RuntimeError(f"no XnnpackBackend among {', '.join(names)}")
