"""What a pipeline reads of a network's result: seen once on zeros, given by a program afterwards, asked of a module.

A path is what is asked in turn, such as ("hidden_states", -2) or (0,); its name is that of the tensor it leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Path = tuple[str | int, ...]


class Reading:
    """A result that notes the name of every tensor that is read of it, by path."""

    def __init__(self, value: Any, reads: dict[Path, str], path: Path = (), names: tuple[str, ...] = ()):
        self._value, self._reads, self._path, self._names = value, reads, path, names

    def __getattr__(self, name: str) -> Any:
        return self._at(getattr(self._value, name), name, name)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self._at(self._value[key], key, label(self._value, key))
        return self._at(self._value[key], key, key)

    def _at(self, value: Any, key: str | int, name: str) -> Any:
        path, names = (*self._path, key), (*self._names, name)
        if isinstance(value, Tensor):
            self._reads[path] = "_".join(names)
            return value.clone()  # a mark is one number for all features, until it is read
        return Reading(value, self._reads, path, names)


def label(value: Any, index: int) -> str:
    """What a place of a result is called: its field, or its number from the first."""
    return str(list(value)[index]) if isinstance(value, Mapping) else str(index % len(value))


class Known:
    """A result made of the tensors that are read of it."""

    def __init__(self, values: Mapping[Path, Tensor], path: Path = ()):
        self._values, self._path = values, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Any:
        path = (*self._path, key)
        if path in self._values:
            return self._values[path]
        if any(known[: len(path)] == path for known in self._values):
            return Known(self._values, path)
        raise AttributeError(f"the program does not give {'.'.join(map(str, path))}")


def follow(value: Any, path: Path) -> Tensor:
    """What a path leads to."""
    for key in path:
        value = getattr(value, key) if isinstance(key, str) else value[key]
    return value
