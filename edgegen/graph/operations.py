"""What a network asks of a device: its operations, and the totals that time and memory are predicted from.

A Program is read from an artifact (read_coreml.py and its like) or recorded from a module on the meta device
(bench/count_module.py); nothing is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

Shape = tuple[int, ...]

# operations that move no data in any runtime: another shape of the same bytes
VIEWS = frozenset((
    "reshape", "expand_dims", "squeeze", "identity",  # MIL
    "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten",  # ONNX
    "XNNStaticReshape", "view_copy", "unsqueeze_copy", "squeeze_copy",  # ExecuTorch
    "view", "_unsafe_view", "unsqueeze", "expand", "t", "transpose", "permute", "split", "split_with_sizes", "slice",
    "select", "unbind", "alias", "detach", "chunk",  # PyTorch: strides only
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One value of a program; `bytes` as stored or declared."""

    elements: int
    bytes: int
    is_weight: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: the names of the tensors it reads and writes, and what it costs.

    macs: multiply-adds of a product, 0 of anything else. scores: attention-score elements that a softmax or a fused
    attention makes; matrix: elements of each of their matrices, queries x keys of one product.
    """

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    scores: int = 0
    matrix: int = 0


@dataclass(frozen=True)
class Totals:
    """Sums over one run of a program.

    macs: multiply-adds. weights: elements of stored parameters, each read once. weight_bytes: the same as stored.
    activations: elements that products read and write, without scores; what lies between products is taken as fused.
    scores: (elements of one score matrix, elements in all matrices of that size) of attention.
    dispatches: operations that are more than another shape of the same bytes.
    """

    macs: int
    weights: int
    weight_bytes: int
    activations: int
    scores: tuple[tuple[int, int], ...]
    dispatches: int

    @property
    def score_elements(self) -> int:
        return sum(elements for _, elements in self.scores)

    def scores_above(self, matrix: float) -> int:
        """Score elements in matrices of at least `matrix` elements."""
        return sum(elements for size, elements in self.scores if size >= matrix)

    def compressed(self, bits: float) -> Totals:
        """The same with weights stored in `bits` bits each, as published models are."""
        return replace(self, weight_bytes=round(self.weights * bits / 8))

    def batch(self, count: int) -> Totals:
        """The same with `count` inputs at once: weights are read once."""
        return replace(
            self,
            macs=count * self.macs,
            activations=count * self.activations,
            scores=tuple((size, count * elements) for size, elements in self.scores),
        )

    def to_dict(self) -> dict:
        return asdict(self) | {"scores": [list(pair) for pair in self.scores]}

    @classmethod
    def from_dict(cls, values: Mapping) -> Totals:
        return cls(**{**values, "scores": tuple((size, elements) for size, elements in values["scores"])})


@dataclass(frozen=True)
class Program:
    """Operations in order, and every tensor they name.

    `counts`: operations by type as the file lists them, those on weights alone included, which a runtime folds.
    `parameters`: numbers stored as weights and constants; of compressed ones, those they stand for. `delegated`: of an
    ExecuTorch program, how many operations its delegate took. `storage`: of a Core AI program, numbers stored by type.
    """

    operations: tuple[Operation, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    delegated: int | None = None
    storage: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The stored tensors that operations read."""
        used = {name for operation in self.operations for name in operation.inputs}
        return {name: tensor for name, tensor in self.tensors.items() if tensor.is_weight and name in used}

    def renamed(self, prefix: str, kept: Collection[str]) -> Program:
        """The same with other names for its values, but for those `kept`."""

        def name(old: str) -> str:
            return old if old in kept else f"{prefix}{old}"

        operations = tuple(
            replace(o, inputs=tuple(map(name, o.inputs)), outputs=tuple(map(name, o.outputs))) for o in self.operations
        )
        return replace(self, operations=operations, tensors={name(n): tensor for n, tensor in self.tensors.items()})

    @cached_property
    def totals(self) -> Totals:
        weights, scores, moved = self.weights.values(), Counter[int](), 0
        for operation in self.operations:
            scores[operation.matrix] += operation.scores
            if operation.macs:
                moved += sum(
                    self.tensors[name].elements
                    for name in (*operation.inputs, *operation.outputs)
                    if not self.tensors[name].is_weight
                )
            else:  # a softmax: one product wrote its scores, another reads them
                moved -= 2 * operation.scores
        return Totals(
            macs=sum(operation.macs for operation in self.operations),
            weights=sum(tensor.elements for tensor in weights),
            weight_bytes=sum(tensor.bytes for tensor in weights),
            activations=max(0, moved),
            scores=tuple(sorted((size, elements) for size, elements in scores.items() if elements)),
            dispatches=sum(operation.type not in VIEWS for operation in self.operations),
        )


def joined(programs: Sequence[Program]) -> Program:
    """Programs that run in order, each reading by name what those before it gave, as one."""
    if len(programs) == 1:
        return programs[0]
    given = {name for program in programs for name in (*program.inputs, *program.outputs)}
    apart = [program.renamed(f"{number}/", given) for number, program in enumerate(programs)]
    made = {name for program in programs for name in program.outputs}
    counts: Counter[str] = Counter()
    for program in programs:
        counts.update(program.counts)
    return Program(
        tuple(operation for program in apart for operation in program.operations),
        {name: tensor for program in apart for name, tensor in program.tensors.items()},
        tuple(dict.fromkeys(name for program in programs for name in program.inputs if name not in made)),
        programs[-1].outputs,
        dict(counts.most_common()),
        sum(program.parameters for program in programs),
    )


class Builder:
    """Collects a program operation by operation; what is made of weights alone is a weight, folded before the run."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.tensors: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.parameters = 0

    def stored(self, name: str, elements: int, size: int) -> None:
        """A weight or constant of the file."""
        self.parameters += elements
        self.weight(name, elements, size)

    def unfolded(self, name: str, elements: int, size: int, packed: int) -> None:
        """A weight of `elements` numbers that `packed` stored ones stand for, kept in `size` bytes."""
        self.parameters += elements - packed
        self.weight(name, elements, size)

    def weight(self, name: str, elements: int, size: int) -> None:
        self.tensors[name] = Tensor(elements, size, is_weight=True)

    def value(self, name: str, elements: int, size: int) -> None:
        self.tensors[name] = Tensor(elements, size)

    def add(self, operation: Operation, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Adds an operation whose outputs have the given (elements, bytes); unknown inputs are left out."""
        self.counts[operation.type] += 1
        known = tuple(name for name in operation.inputs if name in self.tensors)
        if known and all(self.tensors[name].is_weight for name in known) and not operation.macs:
            stored = sum(self.tensors[name].bytes for name in known)  # such as indices and their table
            for name in operation.outputs:
                self.weight(name, sizes[name][0], min(stored, sizes[name][1]))
            return
        for name in operation.outputs:
            self.value(name, *sizes[name])
        self.operations.append(replace(operation, inputs=known))

    def program(self, inputs: tuple[str, ...], outputs: tuple[str, ...], delegated: int | None = None) -> Program:
        counts = dict(self.counts.most_common())
        return Program(tuple(self.operations), self.tensors, inputs, outputs, counts, self.parameters, delegated)


def softmax_cost(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """Score elements, and elements of one matrix: keys along `axis`, queries along the last other axis that has any."""
    keys = shape[axis]
    others = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    return math.prod(shape), keys * next((size for size in reversed(others) if size > 1), 1)
