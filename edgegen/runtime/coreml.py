"""Runs a Core ML package: with Core ML on macOS, and anywhere by evaluating its MIL program operation by operation.

The evaluator computes each operation in fp32 and rounds the result to the dtype the program declares, overflow to
infinity included. It shows what the package on disk computes, weights and lookup tables included; it does not imitate
the order of additions or the fused kernels of a chip. fp16 values are held as fp32 tensors between operations.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import edgegen.runtime.mil_constexpr  # noqa: F401  (enters its operations in the table)
import edgegen.runtime.mil_layout  # noqa: F401
from edgegen.errors import EdgegenError, InputError
from edgegen.runtime.mil_file import (
    Constant,
    OperationRecord,
    ProgramFile,
    TensorInfo,
    import_coremltools,
    read_program,
)
from edgegen.runtime.mil_ops import OPERATIONS, Call

FP16_MAX = 65504.0
RESIDENT_ELEMENTS = 4096  # constants up to this size stay decoded between runs
SOUND = "Check the package with coremltools; if it is sound, the evaluator has a bug."
ABSENT = 0  # the slot of an optional input that an operation does not have

# how values are held between operations; what is not listed is held as declared
HELD = {
    "float16": torch.float32, "float64": torch.float32, "uint16": torch.int32, "uint32": torch.int64,
    "uint64": torch.int64, "uint1": torch.uint8, "uint2": torch.uint8, "uint3": torch.uint8, "uint4": torch.uint8,
    "uint6": torch.uint8, "int4": torch.int8,
}  # fmt: skip


class UnsupportedOperationError(EdgegenError):
    """A program uses an operation the evaluator does not implement."""


class EvaluationError(EdgegenError):
    """An operation failed, or gave a shape other than the one the program declares."""


@dataclass(frozen=True)
class OperationInfo:
    """One operation for a linter: `constants` names the parameters bound to constants of the program."""

    type: str
    name: str
    inputs: dict[str, tuple[TensorInfo, ...]]
    outputs: tuple[TensorInfo, ...]
    constants: frozenset[str]
    _program: ProgramFile = field(repr=False, compare=False)
    _record: OperationRecord = field(repr=False, compare=False)

    def value(self, parameter: str, default: Any = None) -> Any:
        """The constant value of a parameter as numpy array or str; `default` if it is absent or computed."""
        constant = Call(self._program, self._record).constant(parameter)
        return default if constant is None else constant.array()


@dataclass
class RangeReport:
    """The largest |value| each operation computed, before rounding, and the first that went non-finite."""

    max_abs: dict[str, float] = field(default_factory=dict)  # output name -> largest finite or infinite |value|
    types: dict[str, str] = field(default_factory=dict)  # output name -> operation type
    first_nonfinite: str | None = None  # output name
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def above(self, limit: float = FP16_MAX) -> dict[str, float]:
        """The outputs beyond `limit` (fp16's largest value), in program order."""
        return {name: value for name, value in self.max_abs.items() if not value <= limit}

    def summary(self) -> str:
        """One line: the largest value, and the operation that first left the finite numbers."""
        name = max(self.max_abs, key=lambda n: np.nan_to_num(self.max_abs[n], nan=np.inf), default=None)
        if name is None:
            return "no floating-point values"
        peak = f"largest |value| {self.max_abs[name]:.6g} in {self.types[name]} '{name}'"
        bad = self.first_nonfinite
        return f"{peak}; first non-finite: {self.types[bad]} '{bad}'" if bad else f"{peak}; all finite"


class CoreMLProgram:
    """The ML program of one .mlpackage.

    `inputs` and `outputs` are TensorInfo (name, shape, dtype by numpy's name), in the program's order.
    """

    def __init__(self, file: ProgramFile):
        self._file = file
        self.path = file.path
        self.inputs = file.inputs
        self.outputs = file.outputs

    @classmethod
    def load(cls, path: str | Path, function: str = "main") -> "CoreMLProgram":
        """Reads the program; weights are mapped, not read. InputError if `path` is not an ML program package."""
        return cls(read_program(path, function))

    def operations(self) -> Iterator[OperationInfo]:
        """Every operation in program order, constants excluded and weight decompression included."""
        for record in self._file.operations:
            call = Call(self._file, record)
            inputs = {key: call.infos(key) for key in record.inputs}
            constants = frozenset(key for key in record.inputs if call.constant(key) is not None)
            yield OperationInfo(record.type, record.name, inputs, record.outputs, constants, self._file, record)

    def operation_counts(self) -> Counter[str]:
        """How many operations of each type the program has, constants excluded."""
        return Counter(record.type for record in self._file.operations)

    def constants(self) -> Iterator[TensorInfo]:
        """What the program declares about each of its constants; `constant` reads one."""
        return (constant.info for constant in self._file.constants.values())

    def constant(self, name: str) -> np.ndarray | str:
        """The value of a constant; InputError if the program has none of that name."""
        if name not in self._file.constants:
            raise InputError(f"'{name}' is not a constant of {self.path}.", "constants() lists them.")
        return self._file.constants[name].array()

    def run(self, feed: Mapping[str, np.ndarray], fp16: bool = True) -> dict[str, np.ndarray]:
        """Evaluates the program on numpy arrays by input name; returns them by output name.

        `fp16=True` rounds every result to its declared dtype and returns that dtype. `fp16=False` keeps all
        floating-point values in fp32, ignoring casts to fp16, and takes and returns fp32: what remains against
        the reference is an error of emission, not of rounding.
        """
        return self._schedule.evaluate(feed, fp16, None)

    def ranges(self, feed: Mapping[str, np.ndarray], fp16: bool = True) -> RangeReport:
        """Evaluates like `run` and reports the range of every operation (an fp16 overflow makes a black image)."""
        report = RangeReport()

        def observe(record: OperationRecord, info: TensorInfo, computed: Tensor, kept: Tensor) -> None:
            if record.type == "const" or not kept.is_floating_point():
                return
            report.max_abs[info.name] = float(computed.abs().max()) if computed.numel() else 0.0
            report.types[info.name] = record.type
            if report.first_nonfinite is None and not bool(torch.isfinite(kept).all()):
                report.first_nonfinite = info.name

        report.outputs = self._schedule.evaluate(feed, fp16, observe)
        return report

    def predict(self, feed: Mapping[str, np.ndarray], compute_units: str = "CPU_AND_NE") -> dict[str, np.ndarray]:
        """Runs the package with Core ML itself, macOS only; not exercised by the tests, which run on Linux."""
        if sys.platform != "darwin":
            raise EdgegenError(f"Core ML prediction needs macOS, this is {sys.platform}.", "Use run() to evaluate.")
        ct = import_coremltools()
        model = ct.models.MLModel(str(self.path), compute_units=ct.ComputeUnit[compute_units])
        return model.predict({name: np.asarray(value) for name, value in feed.items()})

    @cached_property
    def _schedule(self) -> "Schedule":
        return Schedule(self._file)


Observe = Callable[[OperationRecord, TensorInfo, Tensor, Tensor], None]


def _hold(array: np.ndarray, dtype: str) -> Tensor:
    """A numpy array as the tensor that stands for it between operations."""
    if dtype in ("uint16", "uint32", "uint64"):  # torch computes with signed integers only
        array = array.astype({"uint16": np.int32}.get(dtype, np.int64))
    array = np.ascontiguousarray(array) if array.ndim else np.array(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(HELD.get(dtype, tensor.dtype))


def _to_fp16(value: Tensor) -> Tensor:
    return value.half().float()


def _to_dtype(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda value: value if value.dtype is dtype else value.to(dtype)


class Output(NamedTuple):
    """Where a result goes, the static shape it must have, and how it is rounded with fp16 and without."""

    slot: int
    info: TensorInfo
    shape: tuple[int | None, ...] | None
    rounded: Callable[[Tensor], Tensor] | None
    held: Callable[[Tensor], Tensor] | None


@dataclass(slots=True)
class Step:
    """One operation ready to run: its function, the slots of its inputs, its outputs, and the slots free after it."""

    record: OperationRecord
    run: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[Output, ...]
    free: tuple[int, ...] = ()


class Schedule:
    """A program resolved for evaluation: functions, constant parameters and tensor slots are looked up once.

    Large constants and compressed weights are decoded right before their first consumer, and every tensor is
    dropped after its last one.
    """

    def __init__(self, file: ProgramFile):
        self._file = file
        self._slots: dict[str, int] = {}
        self._resident: list[Tensor | None] = [None]  # slot 0 is ABSENT
        self._steps: list[Step] = []
        self._pending = {  # weights wait for their first consumer
            info.name: record
            for record in file.operations
            if record.type.startswith("constexpr_")
            for info in record.outputs
        }
        _require_implemented(file)
        for info in file.inputs:
            self._slot(info.name)
        self._feeds = [self._slots[info.name] for info in file.inputs]
        for record in file.operations:
            if not record.type.startswith("constexpr_"):
                self._add(record)
        self._fetches = [self._source(info.name) for info in file.outputs]
        self._mark_free()

    def _slot(self, name: str) -> int:
        self._slots[name] = len(self._resident)
        self._resident.append(None)
        return self._slots[name]

    def _add(self, record: OperationRecord) -> None:
        implementation, call = OPERATIONS[record.type], Call(self._file, record)
        inputs = []
        for parameter in implementation.data:
            bound = record.inputs.get(parameter.lstrip("*"), ())
            inputs += [self._source(b) for b in bound] or ([] if parameter.startswith("*") else [ABSENT])
        run = _planned(implementation.plan, call)
        declared = {info.dtype for key in implementation.data for info in call.infos(key.lstrip("*"))}
        outputs = []
        for info in record.outputs:
            exact = implementation.exact and info.dtype in declared
            shape = None if None in info.shape else info.shape
            held = _to_dtype(HELD.get(info.dtype) or getattr(torch, info.dtype))
            rounded = None if exact else _to_fp16 if info.dtype == "float16" else held
            outputs.append(Output(self._slot(info.name), info, shape, rounded, None if exact else held))
        self._steps.append(Step(record, run, tuple(inputs), tuple(outputs)))

    def _source(self, bound: str | Constant) -> int:
        """The slot that holds a value when it is needed, scheduling its decoding if that has not happened."""
        if isinstance(bound, Constant):
            return self._constant(bound, f"constant {len(self._resident)}")
        if bound in self._slots:
            return self._slots[bound]
        if bound in self._pending:
            self._add(self._pending[bound])
            return self._slots[bound]
        return self._constant(self._file.constants[bound], bound)

    def _constant(self, constant: Constant, name: str) -> int:
        info, slot = constant.info, self._slot(name)
        if math.prod(info.sizes()) <= RESIDENT_ELEMENTS:
            self._resident[slot] = _hold(np.asarray(constant.array()), info.dtype)
            return slot
        record = OperationRecord("const", info.name, {}, (info,))
        output = Output(slot, info, info.shape, None, None)
        self._steps.append(Step(record, lambda: _hold(np.asarray(constant.array()), info.dtype), (), (output,)))
        return slot

    def _mark_free(self) -> None:
        seen = {ABSENT, *self._fetches, *(i for i, value in enumerate(self._resident) if value is not None)}
        for step in reversed(self._steps):
            used = dict.fromkeys((*step.inputs, *(output.slot for output in step.outputs)))
            step.free = tuple(slot for slot in used if slot not in seen)
            seen.update(step.free)

    @torch.inference_mode()
    def evaluate(self, feed: Mapping[str, np.ndarray], fp16: bool, observe: Observe | None) -> dict[str, np.ndarray]:
        """Runs every step; see CoreMLProgram.run."""
        slots = list(self._resident)
        for slot, value in zip(self._feeds, _checked_feed(self._file, feed, fp16), strict=True):
            slots[slot] = value
        for step in self._steps:
            try:
                result = step.run(*[slots[i] for i in step.inputs])
            except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as problem:
                raise _failure(step, [slots[i] for i in step.inputs], problem) from problem
            results = (result,) if isinstance(result, Tensor) else result
            if len(results) != len(step.outputs):
                raise _wrong_count(step, len(results))
            for value, (slot, info, shape, rounded, held) in zip(results, step.outputs, strict=True):
                if shape is not None and value.shape != shape:
                    raise _wrong_shape(step, info, value)
                finish = rounded if fp16 else held
                kept = value if finish is None else finish(value)
                if observe is not None:
                    observe(step.record, info, value, kept)
                slots[slot] = kept
            for slot in step.free:
                slots[slot] = None
        return {
            info.name: _released(slots[slot], info, fp16)
            for info, slot in zip(self._file.outputs, self._fetches, strict=True)
        }


def _require_implemented(file: ProgramFile) -> None:
    unknown = [record for record in file.operations if record.type not in OPERATIONS]
    if not unknown:
        return
    others = sorted({record.type for record in unknown[1:]} - {unknown[0].type})
    also = f" (also: {', '.join(others)})" if others else ""
    raise UnsupportedOperationError(
        f"Operation {unknown[0].type} '{unknown[0].name}' of {file.path} is not implemented by the evaluator{also}.",
        "Rewrite the model without it, or add it to edgegen/runtime/mil_ops.py.",
    )


def _checked_feed(file: ProgramFile, feed: Mapping[str, np.ndarray], fp16: bool) -> Iterator[Tensor]:
    names = [info.name for info in file.inputs]
    for name in feed:
        if name not in names:
            raise InputError(f"The program has no input '{name}'.", f"Its inputs are: {', '.join(names)}.")
    for info in file.inputs:
        if info.name not in feed:
            raise InputError(f"Input '{info.name}' is missing.", f"Pass {info.dtype} of shape {info.shape}.")
        yield _checked_input(np.asarray(feed[info.name]), info, fp16)


def _checked_input(value: np.ndarray, info: TensorInfo, fp16: bool) -> Tensor:
    allowed = {info.dtype} if fp16 or info.dtype != "float16" else {"float16", "float32"}
    if value.dtype.name not in allowed:
        raise InputError(
            f"Input '{info.name}' is {value.dtype.name}, the program declares {info.dtype}.",
            f"Pass value.astype('{info.dtype}').",
        )
    same = len(value.shape) == len(info.shape) and all(
        want in (None, have) for have, want in zip(value.shape, info.shape, strict=True)
    )
    if not same:
        raise InputError(
            f"Input '{info.name}' has shape {value.shape}, the program declares {info.shape}.",
            "Pass that shape, or export for this one.",
        )
    return _hold(value, info.dtype)


def _released(value: Tensor | None, info: TensorInfo, fp16: bool) -> np.ndarray:
    """A result as numpy: in its declared dtype, or fp32 where fp16 rounding is off."""
    assert value is not None  # outputs are never freed
    array = value.numpy()
    dtype = "float32" if info.dtype == "float16" and not fp16 else info.dtype
    with np.errstate(over="ignore"):
        return array.astype(dtype if hasattr(np, dtype) else array.dtype)  # a copy: `array` may view the feed


def _planned(plan: Callable[[Call], Callable[..., Any]], call: Call) -> Callable[..., Any]:
    try:
        return plan(call)
    except (TypeError, ValueError, KeyError, IndexError) as problem:
        raise EvaluationError(
            f"Operation {call.type} '{call.record.name}' has parameters the evaluator cannot use: {problem!r}.",
            "Export with static shapes, or extend its plan in edgegen/runtime.",
        ) from problem


def _wrong_count(step: Step, count: int) -> EvaluationError:
    return EvaluationError(
        f"Operation {step.record.type} '{step.record.name}' gave {count} results, "
        f"the program declares {len(step.outputs)}.",
        SOUND,
    )


def _failure(step: Step, inputs: list[Tensor | None], problem: Exception) -> EvaluationError:
    shapes = ", ".join("none" if value is None else str(tuple(value.shape)) for value in inputs)
    return EvaluationError(
        f"Operation {step.record.type} '{step.record.name}' failed on shapes {shapes}: {problem}.",
        SOUND,
    )


def _wrong_shape(step: Step, info: TensorInfo, value: Tensor) -> EvaluationError:
    return EvaluationError(
        f"Operation {step.record.type} '{step.record.name}' gave shape {tuple(value.shape)} for '{info.name}', "
        f"the program declares {info.shape}.",
        SOUND,
    )
