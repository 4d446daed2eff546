"""Which device a run uses, and what it can do."""

from __future__ import annotations

import os
import platform
import shutil

import torch

from edgegen.errors import InputError, unknown

DEVICES = ("cpu", "cuda", "mps")


def pick_device(name: str) -> str:
    """'cpu', 'cuda', 'cuda:1' or 'mps', refused where it is not there; a process of torchrun takes its own GPU."""
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()) or (index and kind != "cuda"):
        raise unknown("device", name, DEVICES)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not available here.", "Use --device cpu.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        wanted = int(index or os.environ.get("LOCAL_RANK", "0"))
        if wanted >= count:
            raise InputError(f"device {name} is not available: {count} CUDA devices are there.", "Use --device cpu.")
        return f"cuda:{wanted}"
    return kind


def native_bfloat16() -> bool:
    """Whether this is an x86-64 processor with bfloat16 instructions; on others of them it is emulated and slow.

    What other architectures do is not known here, and False.
    """
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return platform.machine() == "x86_64" and instructions


def check_compiler() -> None:
    """Refuses torch.compile where the C++ compiler that it calls is missing."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"compile needs a C++ compiler, and {' or '.join(names)} is not there.",
            "Install one, or leave compile out.",
        )
