"""The folder of stages beside a quantized checkpoint that is not whole yet: ours by what is in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgegen.errors import InputError, brief
from edgegen.folders import LITTER, files_below

STAGES = (
    "settings.json",
    "gradients.json",
    "sensitivity.json",
    "bits.json",
    "weights.safetensors",
    "tuning.safetensors",
)
AGAIN = "Pass --overwrite to start again."
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


@contextmanager
def reading_stage(path: Path) -> Iterator[None]:
    """While a stage is read: whatever is wrong with it is an InputError, for only a run of ours writes one."""
    try:
        yield
    except BROKEN as error:
        told = f"{type(error).__name__} {error}"
        raise InputError(f"{path} is not what an unfinished run wrote: {told}.", AGAIN) from error


def stages_folder(out: Path) -> Path:
    """Where the stages of an output lie."""
    return out.with_name(f".{out.name}.unfinished")


def check_stages(folder: Path) -> None:
    """Refuses a folder of that name which is a link, or holds what no run of ours has put there."""
    remedy = "Move it away, or choose another --out."
    if folder.is_symlink():
        raise InputError(f"{folder} is a link, not the folder of an unfinished run.", remedy)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is not the folder of an unfinished run.", remedy)
    for name in files_below(folder):
        if name.removesuffix(".tmp") not in STAGES and not LITTER.fullmatch(name) or (folder / name).is_symlink():
            raise InputError(f"{folder} holds {brief(name)}, which no unfinished run has.", remedy)


def remove_stages_(folder: Path) -> None:
    """Removes the stages; a folder that holds anything else is an error."""
    check_stages(folder)
    shutil.rmtree(folder, ignore_errors=True)
