"""What a back end is: how it takes a network, what it writes, and how that is opened, read, judged and timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgegen.callbacks import ArrayFunction

if TYPE_CHECKING:  # a record is read by every command: torch and the converters wait until they are needed
    import numpy as np

    from edgegen.backends.health import BackendHealth
    from edgegen.graph.operations import Program
    from edgegen.graph.timed import TimedOperation
    from edgegen.lint import Finding
    from edgegen.quantize.stored import StoredWeights
    from edgegen.rewrite.component import Component, TensorSpec
    from edgegen.target import BackendTarget

Signature: TypeAlias = "tuple[Iterable[TensorSpec], Iterable[TensorSpec]]"  # inputs in call order, outputs
Specs: TypeAlias = "Sequence[TensorSpec]"
WriteChunks: TypeAlias = "Callable[[Sequence[Component], Sequence[Path], BackendTarget, StoredWeights], Iterable[Path]]"
Profile: TypeAlias = "Callable[[ProfileRequest], list[TimedOperation]]"


@dataclass(frozen=True)
class RuntimeMemory:
    """How a runtime holds a model; physical constants, each of which can be measured alone.

    packed_copies: of the weights that products read, kept in the order of its kernels or as stored; other weights,
    such as a table that is gathered from, are kept once. opening_copies: of the same as they are in the file, mapped
    until they are packed. operation_bytes: of its own records, for each operation. base_bytes: the runtime itself.
    """

    packed_copies: float
    opening_copies: float
    operation_bytes: float
    base_bytes: float


@dataclass(frozen=True)
class ProfileRequest:
    """What a runtime is to time: an artifact, its inputs, threads, and how many runs after one that does not count.

    `modules` gives the module of a weight by the sha256 of its bytes; it is asked only where a file names no modules.
    """

    path: Path
    inputs: tuple[str, ...]  # in call order
    feed: Mapping[str, np.ndarray]
    threads: int
    count: int
    modules: Callable[[], Mapping[str, str]]


def nothing_to_set(threads: int) -> None:
    """For a runtime that takes its threads from the environment."""


def no_options(target: BackendTarget, weights: StoredWeights) -> dict[str, str]:
    """For a runtime without options of its own."""
    return {}


def nothing_to_check(path: Path, inputs: Specs, outputs: Specs) -> None:
    """For a runtime that refuses whatever is wrong with a file by itself."""


def no_known_options() -> Collection[Mapping[str, str]]:
    """For a runtime whose artifacts ask for nothing."""
    return ()


def three_copies(target: BackendTarget, parameters: int) -> float:
    """For a converter that takes a network whole: 2.8 were measured at 430M parameters."""
    return 3.0


@dataclass(frozen=True)
class Backend:
    """One back end; functions import what they need when they are called, so that a record costs nothing.

    check: refuses quantized weights it has no form for (InputError). write: the artifact of a component, whole or not
    at all. write_chunks: several programs of a network, each by its component and path, which it yields when it is
    whole; None: the back end takes networks in one program alone. signature: names, shapes and dtypes as the artifact
    has them. options: of the session that verification runs it with, kept in the manifest. known_options: all that a
    manifest may hold. check_file: refuses a file whose structure, inputs or outputs are none that `write` makes, before
    a runtime sees it. predicted_bytes: of an artifact, from its number of parameters. resident_bytes: of a written
    artifact's weights as its runtime holds them, counted. open: a function from arrays to arrays; `native` asks for the
    maker's own runtime where there is another. read_graph: the operations of a file. evaluator: what ran an artifact,
    for the record. examine: what works here, for `edgegen doctor`.
    """

    name: str
    title: str
    suffix: str  # of an artifact
    packages: tuple[str, ...]  # whose versions a manifest keeps
    precisions: tuple[str, ...]  # of what is written
    activations: tuple[str, ...]  # of layers with quantized weights; the first unless the tier says
    forms: tuple[str, ...]  # of attention that it runs
    speed_rank: int  # among back ends by how quickly a picture is drawn here; 0 draws fastest
    unit: str  # of a device, that it runs on: "npu" or "cpu"
    compute: str  # the arithmetic there
    compute_unit: str  # as a row of measurements names it
    memory: RuntimeMemory
    check: Callable[[StoredWeights, BackendTarget], None]
    write: Callable[[Component, Path, BackendTarget, StoredWeights], None]
    signature: Callable[[Component, BackendTarget], Signature]
    predicted_bytes: Callable[[int, StoredWeights, BackendTarget], int]
    resident_bytes: Callable[[Path, bool], int]  # whether weights are quantized
    palette_bits: Callable[[BackendTarget], int]  # of one weight of a 4-bit palette in memory
    open: Callable[[Path, Sequence[str], Sequence[str], bool], ArrayFunction]
    read_graph: Callable[[Path], Program]
    evaluator: Callable[[], str]
    examine: Callable[[], BackendHealth]
    runs_here: Callable[[], bool]  # at the speed of the device, so that timing means something
    warm: Callable[[], None]  # imports the runtime, so that its code counts to the process and not to the model
    write_chunks: WriteChunks | None = None
    options: Callable[[BackendTarget, StoredWeights], dict[str, str]] = no_options
    check_file: Callable[[Path, Specs, Specs], None] = nothing_to_check
    known_options: Callable[[], Collection[Mapping[str, str]]] = no_known_options
    export_copies: Callable[[BackendTarget, int], float] = three_copies
    set_threads: Callable[[int], None] = nothing_to_set  # before anything is opened
    profile: Profile | None = None
    lint: Callable[[Path], list[Finding]] | None = None
    releases: tuple[str, ...] = ()  # of the system, that an artifact can be written for, oldest first
    release: str = ""  # where a tier says none
    chips: str = ""  # regular expression of the chips that have it; all if empty

    @property
    def precision_bytes(self) -> int:
        """Bytes of a number as it is written by default."""
        return {"float16": 2, "float32": 4}[self.precisions[0]]


def dense_bytes(parameters: int, weights: StoredWeights, target: BackendTarget) -> tuple[int, dict[str, int]]:
    """Bytes of the weights that are not quantized, and how many numbers each quantized one has."""
    size = {"float16": 2, "float32": 4}[target.precision]
    stored = {name: prod(weight.shape) for name, weight in weights.items()}
    return (parameters - sum(stored.values())) * size, stored


def same_signature(component: Component, target: BackendTarget) -> Signature:
    """For a back end whose artifacts have the component's own types."""
    return component.inputs, component.outputs
