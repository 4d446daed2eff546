"""Cases that a bundle of foreign networks holds: inputs and what the original gave, to verify it anew anywhere."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from edgegen.bundle import Bundle, check_inside
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.manifest import ForeignManifest

Arrays = dict[str, np.ndarray]


def read_cases(bundle: Bundle, name: str) -> list[tuple[Arrays, Arrays]]:
    """The cases of a network, each what it is given and what the original gave; a file that is
    missing, changed or holds none is an error that names it.
    """
    assert isinstance(bundle.manifest, ForeignManifest)  # the only kind with cases
    entry = bundle.manifest.pipeline["networks"][name]["cases"]
    check_inside(bundle.root, entry["path"])
    path = bundle.root / entry["path"]
    if not path.is_file() or digest(path)[0] != entry["sha256"]:
        raise InputError(f"{path} is missing or has changed.", "Export the bundle again.")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Export the bundle again.") from None
    cases: dict[str, tuple[Arrays, Arrays]] = {}
    for key, value in tensors.items():
        number, kind, field = key.split(".", 2)
        cases.setdefault(number, ({}, {}))[kind == "out"][field] = value
    if not cases:
        raise InputError(f"{path} holds no case.", "Export the bundle again.")
    return [cases[number] for number in sorted(cases)]
