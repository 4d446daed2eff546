"""Writes tests/vectors/: what edgegen computes, for the apps in Kotlin and Swift to compute again.

    python tests/make_vectors.py

tests/vectors/README.md tells what each file holds. tests/test_vectors.py fails when a file is no longer what edgegen
gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vector_bundle import broken_bundles, bundle_vectors, digest_vectors, tier_vectors
from vector_foreign import foreign_vectors
from vector_numbers import (
    euler_vectors,
    feature_vectors,
    guidance_vectors,
    noise_vectors,
    pixel_vectors,
    sigma_vectors,
    statistics_vectors,
)
from vector_prompts import prompt_vectors
from vector_rows import row_vectors

FOLDER = Path(__file__).parent / "vectors"
MAKERS: dict[str, Callable[[], Any]] = {
    "prompts.json": prompt_vectors,
    "noise.json": noise_vectors,
    "sigmas.json": sigma_vectors,
    "features.json": feature_vectors,
    "guidance.json": guidance_vectors,
    "euler.json": euler_vectors,
    "pixels.json": pixel_vectors,
    "statistics.json": statistics_vectors,
    "bundle.json": bundle_vectors,
    "broken_bundles.json": broken_bundles,
    "tiers.json": tier_vectors,
    "foreign.json": foreign_vectors,
    "digests.json": digest_vectors,
    "rows.json": row_vectors,
}


def text_of(vectors: Any) -> str:
    """JSON in ASCII; lists of numbers stay on one line each, so that a change shows where it is."""
    if not isinstance(vectors, dict):
        raise TypeError("a file of vectors is an object")
    lines = []
    for key, value in vectors.items():
        if isinstance(value, list):
            value = "[\n" + ",\n".join(f"  {json.dumps(item, allow_nan=False)}" for item in value) + "\n ]"
        else:
            value = json.dumps(value, allow_nan=False)
        lines.append(f" {json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Writes every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        (FOLDER / name).write_text(text_of(make()), encoding="ascii")


if __name__ == "__main__":
    main()
