"""JSON of users and of foreign folders, read in one way: what cannot be meant is refused in one line.

Beyond the grammar: UTF-8, no key twice in an object, no NaN or infinity, no number beyond 64 bits, no half of a
surrogate pair, no nesting deeper than `DEPTH`, no more than `LARGEST` bytes.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from edgegen.errors import InputError, brief

DEPTH = 64  # of objects and lists; what edgegen writes has 6
LARGEST = 2**28  # bytes of one file
NUMBER = 2**63
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # a string of JSON, maybe not closed
SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, remedy: str = "Correct the file.") -> Any:
    """The value in a JSON file; whatever is wrong with the file or the JSON is an InputError that names it."""
    return parse_json(read_bytes(path, remedy), str(path), remedy)


def read_bytes(path: Path, remedy: str = "Correct the file.", largest: int = LARGEST) -> bytes:
    """The bytes of a regular file of a size that can be meant; anything else is an InputError that names it."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is no file.", remedy)
        if found.st_size > largest:
            raise InputError(f"{path} has {found.st_size} bytes, the limit is {largest}.", remedy)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing.", remedy) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", remedy) from None


def read_text(path: Path, remedy: str = "Correct the file.") -> str:
    """The text of a UTF-8 file, with or without a byte-order mark."""
    return decoded(read_bytes(path, remedy), str(path), remedy)


def decoded(data: bytes, where: str, remedy: str) -> str:
    """Text of UTF-8 bytes; other bytes are an InputError that says where the first is."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 text: byte {data[error.start]:#04x} at {error.start}.", remedy
        ) from None


def parse_json(data: str | bytes, where: str, remedy: str = "Correct the file.") -> Any:
    """The value of JSON text; `where` names it in errors."""
    try:
        text = data if isinstance(data, str) else decoded(data, where, remedy)
        check_depth(text)
        value = json.loads(
            text, parse_constant=no_constant, parse_float=finite, parse_int=whole, object_pairs_hook=without_twins
        )
        if ESCAPED.search(text) or SURROGATE.search(text):
            refuse_surrogates(value)
        return value
    except InputError as error:
        if error.message.startswith(where):
            raise
        raise InputError(f"{where}: {error.message}", remedy) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}.", remedy) from None


def check_depth(text: str) -> None:
    """Refuses nesting that readers cannot follow, before any of them sees it."""
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for match in re.finditer(r"[\[\]{}]", TEXT.sub("", text)):
        depth += 1 if match[0] in "[{" else -1
        if depth > DEPTH:
            raise InputError(f"objects and lists are nested deeper than {DEPTH}.")


def no_constant(name: str) -> float:
    raise InputError(f"{name} is not a JSON number.")


def finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise InputError(f"{brief(text)} is beyond what a number can hold.")
    return number


def whole(text: str) -> int:
    if len(text) > 20 or not -NUMBER <= int(text) < NUMBER:
        raise InputError(f"{brief(text)} is beyond 64 bits.")
    return int(text)


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"the key {brief(twin)} is there twice.")
    return found


def refuse_surrogates(value: Any) -> None:
    """Refuses text with half of a surrogate pair, which no file or stream can hold."""
    if isinstance(value, str) and not is_text(value):
        raise InputError(f"{brief(value)} has half of a surrogate pair, which is no character.")
    for inner in (*value.keys(), *value.values()) if isinstance(value, dict) else value if type(value) is list else ():
        refuse_surrogates(inner)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8."""
    return SURROGATE.search(value) is None
