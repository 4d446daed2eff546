"""One reader for values of configurations and manifests: types, ranges, missing and unknown keys.

A schema is a frozen dataclass whose fields say their range: `depth: Annotated[int, Range(1, 128)]`. `from_values` makes
one from parsed JSON or TOML; what a class checks of its fields together it checks when it is made. A field whose name
would be a word of Python, such as `class`, ends in an underscore that its key has not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edgegen.errors import InputError, brief
from edgegen.strict_json import NUMBER, is_text

Made = TypeVar("Made")
NAMES = {int: "int", float: "float", bool: "bool", str: "str", dict: "an object"}


@dataclass(frozen=True)
class Range:
    """A number from `least` to `most`; with `above`, `least` itself is too little."""

    least: float
    most: float
    above: bool = False

    def check(self, value: Any, where: str) -> None:
        if not (self.least < value if self.above else self.least <= value) or not value <= self.most:
            wanted = (
                f"above {self.least:g} and up to {self.most:g}" if self.above else f"{self.least:g} to {self.most:g}"
            )
            raise InputError(f"{where} is {brief(value)}; {wanted} is allowed.")


@dataclass(frozen=True)
class Size:
    """A text, list or object of `least` to `most` entries."""

    least: int
    most: int

    def check(self, value: Any, where: str) -> None:
        if not self.least <= len(value) <= self.most:
            what = "characters" if isinstance(value, str) else "entries"
            raise InputError(f"{where} has {len(value)} {what}; {self.least} to {self.most} are allowed.")


@dataclass(frozen=True)
class OneOf:
    """A text out of a few."""

    known: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        if value not in self.known:
            raise InputError(f"{where} is {brief(value)}, not one of {', '.join(self.known)}.")


@dataclass(frozen=True)
class Form:
    """A text that a regular expression matches whole; `what` says it in words."""

    pattern: str
    what: str

    def check(self, value: Any, where: str) -> None:
        if not re.fullmatch(self.pattern, value):
            raise InputError(f"{where} is {brief(value)}; it must be {self.what}.")


Rule = Range | Size | OneOf | Form
Name = Annotated[str, Form(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits, '.', '_' and '-', 64 at most")]
Sha256 = Annotated[str, Form(r"[0-9a-f]{64}", "64 hexadecimal digits")]
Text = Annotated[str, Size(0, 4096)]


def from_values(kind: type[Made], values: Any, where: str = "", strangers: bool = False) -> Made:
    """A dataclass from parsed values; a wrong type or range, a missing or (unless `strangers` may be there) an unknown
    key is an InputError that names the field as `where` leads to it.
    """
    at = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise InputError(f"{where or 'the file'} must be an object, found {brief(values)}.")
    known: dict[str, Field] = {f.name.removesuffix("_"): f for f in fields(kind)}  # type: ignore[arg-type]
    hints = hints_of(kind)
    if not strangers:
        for key in values:
            if key not in known:
                raise unknown_key(f"{at}{key}", key, known)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{at}{name} is missing.")
    given = {
        f.name: parsed(hints[f.name], values[name], f"{at}{name}", strangers)
        for name, f in known.items()
        if name in values
    }
    try:
        return kind(**given)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{where or 'config'} is wrong: {error}.") from error


HINTS: dict[Any, dict[str, Any]] = {}  # by dataclass: names in annotations take time to look up


def hints_of(kind: Any) -> dict[str, Any]:
    if kind not in HINTS:
        HINTS[kind] = get_type_hints(kind, include_extras=True)
    return HINTS[kind]


def unknown_key(where: str, key: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(key[:64], known, 1, cutoff=0.4)
    return InputError(
        f"unknown key {brief(where)[1:-1]}.", f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
    )


def parsed(kind: Any, value: Any, where: str, strangers: bool = False) -> Any:
    """A value of a field's type from a parsed one."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        container = get_origin(inner[0])
        if (container is tuple and isinstance(value, list | tuple)) or (container is dict and isinstance(value, dict)):
            apply(inner[1:], value, where)  # how many, before each is looked at
            return parsed(inner[0], value, where, strangers)
        made = parsed(inner[0], value, where, strangers)
        if made is not None:
            apply(inner[1:], made, where)
        return made
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        return parsed(next(option for option in inner if option is not NoneType), value, where, strangers)
    if hasattr(kind, "__dataclass_fields__"):
        return value if isinstance(value, kind) else from_values(kind, value, where, strangers)
    if origin is tuple:
        return parsed_tuple(inner, value, where, strangers)
    if origin is dict:
        check_type(dict, value, where)
        return {key: parsed(inner[1], item, f"{where}.{shown(key)}", strangers) for key, item in value.items()}
    check_type(kind, value, where)
    return value


def parsed_tuple(inner: tuple[Any, ...], value: Any, where: str, strangers: bool) -> tuple[Any, ...]:
    """A tuple of any length (`tuple[int, ...]`) or of a fixed one (`tuple[int, int]`) from a list."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} must be a list, found {brief(value)}.")
    if inner[-1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise InputError(f"{where} must have {len(inner)} entries, found {len(value)}.")
    return tuple(
        parsed(kind, item, f"{where}[{i}]", strangers) for i, (kind, item) in enumerate(zip(inner, value, strict=True))
    )


def shown(key: str) -> str:
    return key if len(key) <= 40 and key.isprintable() else brief(key)


def check_type(kind: Any, value: Any, where: str) -> None:
    """Refuses a value that is not of a plain type; true is no number, a whole number is a float."""
    if kind is Any or kind not in NAMES:
        return
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} must be {NAMES[kind]}, found {brief(value)}.")
    if isinstance(value, str) and not is_text(value):
        raise InputError(f"{where} has half of a surrogate pair: {brief(value)}.")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= NUMBER:
        raise InputError(f"{where} is {brief(value)}, beyond 64 bits.")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise InputError(f"{where} is {value}; it must be finite.")


def apply(rules: Iterable[Any], value: Any, where: str) -> None:
    """Holds a value to the rules among a type's annotations."""
    for rule in rules:
        if isinstance(rule, Rule):
            rule.check(value, where)


def check_ranges(made: Any) -> None:
    """Holds a dataclass made in Python to the types and ranges of its fields; for its `__post_init__`."""
    hints = hints_of(type(made))
    for f in fields(made):
        parsed(hints[f.name], getattr(made, f.name), f.name)
