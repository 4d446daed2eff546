"""Which text encoders a tier's devices can hold; the rest is left out, with its size said."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from edgegen.foreign.folder import Part, read_header, weight_files
from edgegen.target import Tier, list_devices

BYTES = {"float16": 2, "float32": 4}


def memory_limit(tier: Tier) -> int | None:
    """Bytes that an app may use on the smallest device of a tier; None where none is known."""
    known = [d.app_memory_gb.value for d in list_devices() if d.tier == tier.name and d.app_memory_gb]
    return int(1e9 * min(known)) if known else None


def weight_count(folder: Path) -> int:
    """Numbers in a folder's safetensors, read from their headers."""
    entries = (entry for path in weight_files(folder) for entry in read_header(path).values())
    return sum(prod(entry["shape"]) for entry in entries)


def too_large(parts: Sequence[Part], tier: Tier, backends: Sequence[str]) -> dict[str, Any]:
    """Of these parts, those whose weights alone are more than an app of the tier may hold, on the leanest back end."""
    limit = memory_limit(tier)
    width = min(BYTES[tier.backend(name).precision] for name in backends)
    sizes = {part.name: (part, width * weight_count(part.folder)) for part in parts}
    return {
        name: {"class": part.class_name, "bytes": size, "limit_bytes": limit}
        for name, (part, size) in sizes.items()
        if limit is not None and size > limit
    }
