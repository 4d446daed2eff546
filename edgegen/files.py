"""Files as the bundle contract wants them: digests, and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgegen.errors import EdgegenError, InputError

CHUNK = 2**20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NEARLY_FULL = 2**20  # bytes free below which a failed write is put down to a full disk


def digest(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file; of a folder, sha256 over the lines `<sha256>  <relative path>` sorted by path."""
    if path.is_file():
        return file_digest(path)
    lines, total = [], 0
    files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
    for name, file in files:
        sha, size = file_digest(file)
        lines.append(f"{sha}  {name}\n")
        total += size
    return hashlib.sha256("".join(lines).encode()).hexdigest(), total


def file_digest(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file, read in pieces."""
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return sha.hexdigest(), size


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; a NaN or infinity is an error, for it is no JSON."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `target` that becomes `target` when the block ends, and vanishes if it fails.

    `marker` is the file that makes such a folder look finished; a folder loses it first when removed. What an
    interrupted run left behind is cleaned up. An occupied target is refused unless `overwrite`, which replaces a folder
    with a marker only, and only once the new one is whole. A full disk is an InputError.
    """
    target = Path(os.path.abspath(target))
    check_free(target, marker, overwrite)
    clean_up_(target, marker)
    created = make_parents(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with disk_errors(target):
            partial.mkdir()
            yield partial
            sync(partial)
            check_free(target, marker, overwrite)  # again: another run may have been faster
            put_in_place_(partial, target, marker)
    except BaseException:
        remove_(partial, marker)
        for folder in created:
            remove_if_empty_(folder)
        raise


def check_free(target: Path, marker: str, overwrite: bool) -> None:
    """Refuses a target that holds something, or, to overwrite, something that is not ours."""
    if target.is_file():
        raise InputError(f"{target} is a file.", "Choose another folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target} is not empty.", "Choose another folder with --out, or pass --overwrite.")
    if not (target / marker).is_file():
        raise InputError(
            f"{target} is not empty and has no {marker}: --overwrite replaces only what was made here.",
            "Choose another folder with --out.",
        )


def clean_up_(target: Path, marker: str) -> None:
    """Removes what interrupted runs left beside a target; a folder that was being replaced is put back."""
    if not target.parent.is_dir():
        return
    for left in sorted(target.parent.glob(f".{target.name}.*")):
        match = re.fullmatch(rf"\.{re.escape(target.name)}\.(partial|replaced)-(\d+)", left.name)
        if match is None or is_running(int(match[2])):
            continue
        if match[1] == "replaced" and not target.exists() and (left / marker).is_file():
            left.rename(target)
        else:
            remove_(left, marker)


def is_running(pid: int) -> bool:
    """Whether another process of this number lives."""
    if pid == os.getpid():
        return False  # ours has made nothing yet: a number used again, as in containers
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def make_parents(target: Path) -> list[Path]:
    """Makes the missing folders above a target; returns them, deepest first."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {target.parent}: {error.strerror}.", "Choose another folder.") from None
    return missing


def put_in_place_(partial: Path, target: Path, marker: str) -> None:
    """Renames a whole folder to its target; what was there is moved aside first and removed last."""
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    if target.exists() and any(target.iterdir()):
        target.rename(replaced)
    try:
        partial.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync_folder(target.parent)
    remove_(replaced, marker)


def remove_(folder: Path, marker: str) -> None:
    """Removes a folder, the file that makes it look finished first."""
    (folder / marker).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_if_empty_(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def sync(folder: Path) -> None:
    """Waits until every file and folder below, and the folder itself, is on the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Waits until a folder's own entries are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns the errors of a full or unwritable disk into one line, whichever library met them."""
    try:
        yield
    except EdgegenError:
        raise
    except Exception as error:
        if is_disk_full(error, target):
            raise InputError(
                f"the disk of {target.parent} is full ({free_bytes(target) / 2**20:.1f} MiB free).",
                "Free some space, or choose another folder with --out.",
            ) from error
        if isinstance(error, PermissionError):
            raise InputError(
                f"cannot write {error.filename or target}: {error.strerror}.", "Choose another folder."
            ) from error
        raise


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether an exception, or one it came from, tells of a full disk, or the disk of `path` is full."""
    return any(tells_of_no_space(e) for e in chain(error)) or free_bytes(path) < NEARLY_FULL


def tells_of_no_space(error: BaseException) -> bool:
    """Whether an error is that of a full disk; libraries in Rust say it in words."""
    coded = isinstance(error, OSError) and error.errno in NO_SPACE
    return coded or any(f"(os error {code})" in str(error) for code in NO_SPACE)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def free_bytes(path: Path) -> int:
    """Bytes free on the disk of a path, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
