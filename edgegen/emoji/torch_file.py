"""Reads the tensors of a file that `torch.save` wrote before version 1.6, without unpickling anything.

The file holds four pickles (magic number, protocol, machine, state), one with the order of the storages, and then each
storage: its length as eight bytes and its numbers. `pickletools.genops` takes pickles apart and runs nothing; of what
they would do, only building a dictionary of tensors is understood here, and every other thing is an error.
Source: torch/serialization.py, `_legacy_save`.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from edgegen.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"torch FloatStorage": torch.float32, "torch HalfStorage": torch.float16, "torch LongStorage": torch.int64}
PLAIN = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "BINFLOAT")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(frozen=True)
class Name:
    """A name that a pickle would import; nothing is imported."""

    text: str


@dataclass(frozen=True)
class Storage:
    """Numbers that follow in the file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class View:
    """A tensor as a window on a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name, from the bytes of the file `name`. Raises InputError for anything else."""
    try:
        return tensors(data)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{name} is not a file of tensors by torch.save before 1.6: {error}.", "Fetch it again."
        ) from error


def tensors(data: bytes) -> dict[str, Tensor]:
    """The same; what is wrong is an error of whichever kind."""
    file = BytesIO(data)
    if value(file) != MAGIC:
        raise ValueError("the magic number is missing")
    value(file), value(file)  # protocol and machine
    state, order = value(file), value(file)
    storages = {}
    found = {view.storage.key: view.storage for view in state.values() if isinstance(view, View)}
    for key in order:
        count = int.from_bytes(file.read(8), "little")
        storage = found[key]
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} numbers, not {storage.count}")
        raw = file.read(count * storage.dtype.itemsize)
        storages[key] = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
    return {
        name: storages[view.storage.key].as_strided(view.shape, view.stride, view.offset).clone()
        for name, view in state.items()
        if isinstance(view, View)
    }


def value(file: BytesIO) -> Any:
    """What the next pickle of a file describes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for code, given, _ in pickletools.genops(file):
        argument: Any = given
        name = code.name
        if name == "STOP":
            return stack.pop()
        if name in PLAIN:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(Name(argument))
        elif name != "PROTO":
            apply_(name, stack, marks)
    raise ValueError("a pickle has no end")


def apply_(name: str, stack: list[Any], marks: list[int]) -> None:
    """One operation on the stack; one that is not listed is an error."""
    if name.startswith("EMPTY_"):
        stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
    elif name in ("TUPLE", "SETITEMS", "APPENDS"):
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        if name == "TUPLE":
            stack.append(tuple(items))
        elif name == "SETITEMS":
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        else:
            stack[-1].extend(items)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "SETITEM":
        item = stack.pop()
        stack[-2][stack.pop()] = item
    elif name == "APPEND":
        stack[-2].append(stack.pop())
    elif name == "BINPERSID":
        stack.append(storage(*stack.pop()))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(make_described(stack.pop(), arguments))
    elif name == "BUILD":  # attributes of a state dict: versions of its modules
        stack.pop()
    else:
        raise ValueError(f"operation {name} is not understood")


def storage(kind: str, of: Name, key: str, device: str, count: int, view: object) -> Storage:
    """A persistent id as torch writes it."""
    if kind != "storage" or of.text not in STORAGES or view is not None:
        raise ValueError(f"{kind} {of.text} is not understood")
    return Storage(key, STORAGES[of.text], count)


def make_described(of: Name, arguments: tuple[Any, ...]) -> Any:
    """What a call would make: an ordered dictionary, a tensor, or a parameter; any other call is an error."""
    if of.text == "collections OrderedDict" and not arguments:
        return OrderedDict()
    if of.text == "torch._utils _rebuild_tensor_v2":
        kept, offset, shape, stride = arguments[:4]
        return View(kept, offset, shape, stride)
    if of.text == "torch._utils _rebuild_parameter":
        return arguments[0]
    raise ValueError(f"a call of {of.text} is not understood")
