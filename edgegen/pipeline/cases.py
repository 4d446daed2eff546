"""Cases that a bundle of foreign networks holds: inputs and what the original gave, to verify it anew anywhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from edgegen.bundle import Bundle, check_inside
from edgegen.chain import signature
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.manifest import ForeignManifest
from edgegen.rewrite.component import TensorSpec

AGAIN = "Export the bundle again."
Arrays = dict[str, np.ndarray]


def read_cases(bundle: Bundle, name: str) -> list[tuple[Arrays, Arrays]]:
    """The cases of a network, each what it is given and what the original gave; a file that is
    missing, changed, holds none or another network's is an error that names it.
    """
    assert isinstance(bundle.manifest, ForeignManifest)  # the only kind with cases
    entry = bundle.manifest.pipeline["networks"][name]["cases"]
    check_inside(bundle.root, entry["path"])
    path = bundle.root / entry["path"]
    if not path.is_file() or digest(path)[0] != entry["sha256"]:
        raise InputError(f"{path} is missing or has changed.", AGAIN)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:  # of a type that NumPy has not
        raise InputError(f"{path} cannot be read: {error}.", AGAIN) from None
    cases: dict[str, tuple[Arrays, Arrays]] = {}
    for key, value in tensors.items():
        number, kind, field = (key.split(".", 2) + ["", ""])[:3]
        cases.setdefault(number, ({}, {}))[kind == "out"][field] = value
    if not cases:
        raise InputError(f"{path} holds no case.", AGAIN)
    inputs, outputs = (names_of(specs) for specs in signature(bundle.programs(name, backend_of(bundle, name))))
    for number, (given, expected) in cases.items():
        if not (given.keys() >= inputs and expected.keys() == outputs):
            raise InputError(f"{path}: case {number[:20]} is not of the inputs and outputs of the {name}.", AGAIN)
    return [cases[number] for number in sorted(cases)]


def names_of(specs: Iterable[TensorSpec]) -> set[str]:
    return {spec.name for spec in specs}


def backend_of(bundle: Bundle, name: str) -> str:
    """A back end that has a network; its inputs and outputs are named alike on each."""
    return next(backend for network, backend in bundle.networks if network == name)
