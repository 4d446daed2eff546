"""Opens an artifact of any back end as one function from named arrays to named arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bundle import Artifact, Bundle
from edgegen.callbacks import ArrayFunction
from edgegen.errors import EdgegenError, InputError, shortened
from edgegen.quiet import quietly
from edgegen.rewrite.component import TensorSpec

Watch = Callable[[Artifact, dict[str, np.ndarray]], None]


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


class Chain:
    """Programs that run in order, each given inputs of the network and what those before it gave, by name. A value is
    let go after the last that reads it.
    """

    def __init__(self, programs: Sequence[Artifact], runs: Sequence[ArrayFunction]):
        self.programs, self.runs = tuple(programs), tuple(runs)

    def run(self, feed: Mapping[str, np.ndarray], watch: Watch = lambda program, given: None) -> dict[str, np.ndarray]:
        """What the last program gives; `watch` is told what each gives."""
        values = dict(feed)
        for index, (program, run) in enumerate(zip(self.programs, self.runs, strict=True)):
            given = run(values)
            watch(program, given)
            read = {spec.name for later in self.programs[index + 1 :] for spec in later.inputs}
            values = {name: value for name, value in (values | given).items() if name in read}
        return given


def open_chain(bundle: Bundle, network: str, backend: str, native: bool = False) -> Chain:
    """Opens the programs of a component, most often one."""
    programs = bundle.programs(network, backend)
    return Chain(programs, [open_artifact(bundle, program, native) for program in programs])


def open_network(bundle: Bundle, network: str, backend: str, native: bool = False) -> ArrayFunction:
    """Opens a component, all its programs, as one function."""
    return open_chain(bundle, network, backend, native).run


def fitted(feed: Mapping[str, np.ndarray], spec: TensorSpec) -> np.ndarray:
    """The array of an input in its type; another shape is an error."""
    if spec.name not in feed:
        raise InputError(f"input {spec.name} is missing.", f"Given: {', '.join(feed)}.")
    value = np.asarray(feed[spec.name])
    if value.shape != tuple(spec.shape):
        raise InputError(f"input {spec.name} is {value.shape}, the artifact takes {tuple(spec.shape)}.")
    return np.ascontiguousarray(value, dtype=spec.dtype)
