"""Ways to spoil JSON, TOML, bytes and files; everything follows from a random.Random."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

LONG = "x" * 10_000
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 10**9, 10**30, -(10**30), 0.5, -0.0, 1e308, -1e-300, "", " ", LONG, "\ud83c",
    "[/x]", "[bold]", "../escaped", "/etc/passwd", "~", "a\0b", "а́", "🍎" * 99, "NaN", "float64", "object",
    "V1000000000", [], {}, [[]], {"": 0}, [0] * 1000, ["\udcff"], {"a": {"b": []}},
)  # fmt: skip


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """The paths of all values inside one."""
    found = [at] if at else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*at, key))
    return found


def changed(rng: Random, value: Any) -> Any:
    """A value of JSON with one to three things about it otherwise: replaced, removed, renamed, repeated."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(made)
        if not found:
            return rng.choice(STRANGE)
        path = rng.choice(found)
        holder = made
        for key in path[:-1]:
            holder = holder[key]
        spoil_(rng, holder, path[-1])
    return made


def spoil_(rng: Random, holder: Any, key: Any) -> None:
    """One change of one entry of an object or list."""
    how = rng.randrange(6)
    old = holder[key]
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(("", LONG, f"{key}s", "\ud800"))] = holder.pop(key)
    elif how == 2 and isinstance(old, list):
        holder[key] = old * rng.choice((0, 2, 50)) + old[:1]
    elif how == 3 and isinstance(old, int | float):
        holder[key] = rng.choice((-old, old * 2, old + 1, old * 10**9, float(old), str(old), 10**30))
    elif how == 4 and isinstance(old, str):
        holder[key] = rng.choice((old.upper(), old[:-1], old + "/../..", old + "\0", old * 50, [old]))
    else:
        holder[key] = copy.deepcopy(rng.choice(STRANGE))


def text_of(rng: Random, value: Any) -> bytes:
    """A changed value as the bytes of a JSON file, that may be no JSON any more."""
    how = rng.randrange(12)
    if how < 8:
        return json.dumps(changed(rng, value)).encode()
    text = json.dumps(value)
    return (
        ("[" * 10_000 + "]" * 10_000).encode(),
        text.replace("{", '{"name": "twice", "name": 1, ', 1).encode(),
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        flipped(rng, text.encode()),
    )[how - 8]


def flipped(rng: Random, data: bytes) -> bytes:
    """Bytes that were cut, flipped, doubled, emptied or replaced by others."""
    if not data:
        return b"\0"
    how, made = rng.randrange(8), bytearray(data)
    if how < 4:
        for _ in range(rng.choice((1, 2, 8, 64))):
            at = rng.randrange(len(made)) if how else rng.randrange(min(len(made), 256))
            made[at] ^= 1 << rng.randrange(8)
        return bytes(made)
    at, count = rng.randrange(len(data)), rng.choice((1, 4, 64, 4096))
    return (
        data[:at],
        data[:at] + rng.randbytes(count) + data[at + count :],
        data[:at] + data[at : at + count] * 2 + data[at + count :],
        rng.choice((b"", b"\0" * len(data), b"\xff" * 64, rng.randbytes(64), b"version https://git-lfs.github.com")),
    )[how - 4]


def toml_value(rng: Random) -> str:
    """A TOML value that no recipe, tier or device means."""
    return rng.choice((
        "inf", "-inf", "nan", "1" + "0" * 30, "-1", "true", '""', '"x"', "[]", "[1, 2, 3, 4]", "{}", f'"{LONG}"',
        "1e308", '"[/x]"', "2024-01-01", '"../x"', "0.1",
    ))  # fmt: skip


def changed_toml(rng: Random, text: str) -> bytes:
    """A TOML file with one line otherwise."""
    lines = text.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if "=" in line] or [0])
    key = lines[at].split("=")[0].strip()
    how = rng.randrange(8)
    if how < 5:
        lines[at] = f"{key} = {toml_value(rng)}"
    elif how == 5:
        lines[at] = rng.choice((f"{key}x = 1", f"{key} = ", lines[at] * 2, "[" * 5000, f"{LONG} = 1", ""))
    elif how == 6:
        lines.insert(at, lines[at])
    else:
        return flipped(rng, text.encode())
    return "\n".join(lines).encode()
