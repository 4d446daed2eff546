"""What works on this machine: which back end can convert, verify and run here."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from edgegen.backends.health import BackendHealth
from edgegen.backends.registry import list_backends
from edgegen.bundle import tool_versions
from edgegen.files import free_bytes
from edgegen.model.checkpoint import BUNDLED, bundled_folder
from edgegen.target import targets_folder


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
        backends=tuple(backend.examine() for backend in list_backends()),
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
