"""Inputs that become part of a program, known again by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgegen.capture.specialize import leaf_names


def content(value: Tensor) -> str:
    """The sha256 of a tensor's numbers in fp32; types and axes of size 1 do not count."""
    plain = torch.view_as_real(value) if value.is_complex() else value
    return hashlib.sha256(plain.detach().float().contiguous().numpy().tobytes()).hexdigest()


def fixed_content(arguments: Mapping[str, Any], constant: Sequence[str]) -> dict[str, str]:
    """The content of each input that is named constant."""
    return {name: content(leaf) for name, leaf in leaf_names(arguments) if name in constant}
