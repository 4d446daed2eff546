"""Opens an artifact of any back end as one function from named arrays to named arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bundle import Artifact, Bundle
from edgegen.callbacks import ArrayFunction
from edgegen.errors import EdgegenError, InputError, shortened
from edgegen.quiet import quietly
from edgegen.rewrite.component import TensorSpec


def open_component(
    backend: str, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], native: bool = False
) -> ArrayFunction:
    """Opens an artifact; it takes arrays of the specified shapes in any float type and returns float32.

    Core ML programs are evaluated operation by operation in fp16 (runtime/coreml.py); on macOS, if `native`, they are
    run by Core ML itself, which our tests cannot exercise.
    """
    record = find_backend(backend)
    with artifact_errors(path, f"does not open in {backend}"):
        record.check_file(path, inputs, outputs)
        run = quietly(lambda: record.open(path, [s.name for s in inputs], [s.name for s in outputs], native))

    def checked(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {spec.name: fitted(feed, spec) for spec in inputs}
        with artifact_errors(path, f"does not run in {backend}"):
            results = run(given)
            return {spec.name: np.asarray(results[spec.name], np.float32) for spec in outputs}

    return checked


@contextmanager
def artifact_errors(path: Path, what: str) -> Iterator[None]:
    """Whatever a runtime raises about a file is an error of one line that names the file."""
    try:
        yield
    except EdgegenError:
        raise
    except Exception as error:
        reason = shortened(str(error), 120) or type(error).__name__
        raise InputError(f"{path} {what}: {reason}.", "Export the bundle again.") from error


def open_artifact(bundle: Bundle, artifact: Artifact, native: bool = False) -> ArrayFunction:
    """Opens a component of a bundle."""
    return open_component(artifact.backend, bundle.path(artifact), artifact.inputs, artifact.outputs, native)


def fitted(feed: Mapping[str, np.ndarray], spec: TensorSpec) -> np.ndarray:
    """The array of an input in its type; another shape is an error."""
    if spec.name not in feed:
        raise InputError(f"input {spec.name} is missing.", f"Given: {', '.join(feed)}.")
    value = np.asarray(feed[spec.name])
    if value.shape != tuple(spec.shape):
        raise InputError(f"input {spec.name} is {value.shape}, the artifact takes {tuple(spec.shape)}.")
    return np.ascontiguousarray(value, dtype=spec.dtype)
