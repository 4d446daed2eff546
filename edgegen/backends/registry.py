"""The registry: the back ends that ship, and those that other packages add by an entry point of `edgegen.backends`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.backends.backend import Backend
from edgegen.errors import EdgegenError, InputError, unknown
from edgegen.quiet import quietly

if TYPE_CHECKING:
    from edgegen.graph.operations import Program

GROUP = "edgegen.backends"  # an entry point NAME = "module:RECORD" adds a back end


@cache
def list_backends() -> tuple[Backend, ...]:
    """Every back end, those that ship first; reading a record imports no converter and no runtime."""
    from edgegen.backends import coreai, coreml, executorch, onnx

    ours = (coreml.BACKEND, onnx.BACKEND, executorch.BACKEND, coreai.BACKEND)
    found = {backend.name: backend for backend in ours}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        backend = load_entry(entry)
        if backend.name in found:
            raise InputError(
                f"the entry point {entry.value} adds back end {backend.name!r}, which exists.", "Give it another name."
            )
        found[backend.name] = backend
    return tuple(found.values())


def load_entry(entry: EntryPoint) -> Backend:
    """The record behind an entry point; anything else is an error that names it."""
    try:
        backend = entry.load()
    except Exception as error:  # whatever a foreign module raises
        raise InputError(
            f"the back end {entry.value} cannot be loaded: {type(error).__name__}: {error}.",
            "Repair or uninstall the package that adds it.",
        ) from error
    if not isinstance(backend, Backend):
        raise InputError(f"the entry point {entry.value} is no edgegen.backends.backend.Backend.", "Correct it.")
    return backend


def backend_names() -> tuple[str, ...]:
    """Names in the registry's order."""
    return tuple(backend.name for backend in list_backends())


def find_backend(name: str) -> Backend:
    """A back end by name; an unknown one is an error that suggests the closest."""
    for backend in list_backends():
        if backend.name == name:
            return backend
    raise unknown("back end", name, backend_names())


def fastest_first() -> tuple[str, ...]:
    """Names in the order in which back ends draw quickly here."""
    return tuple(backend.name for backend in sorted(list_backends(), key=lambda backend: backend.speed_rank))


def read_graph(backend: str, path: Path) -> Program:
    """The operations of one artifact from its own file; InputError for one that cannot be read, or whose sizes are
    not all static.
    """
    try:
        return quietly(lambda: find_backend(backend).read_graph(path))
    except EdgegenError:
        raise
    except Exception as error:  # whatever a parser raises on a broken file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read as {backend}: {reason}.", "Export the bundle again.") from error
