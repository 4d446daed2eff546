"""Files as the bundle contract wants them: digests, names, files that appear whole, and what a disk may refuse."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgegen.errors import EdgegenError, InputError, brief

CHUNK = 2**20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
LONGEST = 220  # bytes of a file's name: systems take 255, and temporary names are longer
REMEDIES = {
    errno.EROFS: "It is read-only: choose another folder.",
    errno.EACCES: "Choose another, or ask for permission.",
    errno.EPERM: "Choose another, or ask for permission.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EBUSY: "Something else uses it: choose another folder.",
}
PARTIAL = ".edgegen-"  # begins the names of files that are being written
NEARLY_FULL = 2**20  # bytes free below which a failed write is put down to a full disk


def digest(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file; of a folder, or of a file with its weights beside it, sha256 over the lines
    `<sha256>  <relative path>` sorted by path.
    """
    weights = data_beside(path)
    if path.is_file() and not weights.exists():
        return file_digest(path)
    lines, total = [], 0
    files = [(p.name, p) for p in (path, weights)] if path.is_file() else below(path)
    for name, file in files:
        sha, size = file_digest(file)
        lines.append(f"{sha}  {name}\n")
        total += size
    return hashlib.sha256("".join(lines).encode()).hexdigest(), total


def below(folder: Path) -> list[tuple[str, Path]]:
    """The files in a folder by their relative paths, sorted."""
    return sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())


def data_beside(path: Path) -> Path:
    """Where the weights of a file go that cannot hold them."""
    return path.with_name(f"{path.name}.data")


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


def replace_json(path: Path, value: Any) -> None:
    """JSON as `write_json` writes it, there whole or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    write_json(partial, value)
    partial.replace(path)


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


def user_path(path: str | Path) -> Path:
    """A path as a user gives one: `~` is the home folder; a name that no file can have or no text show is refused."""
    text = os.fspath(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"the path {brief(text)} is not UTF-8 text.", "Rename it.") from None
    if "\0" in text:
        raise InputError(f"the path {brief(text)} holds a zero byte.", "Choose another name.")
    for part in Path(text).parts:
        if len(os.fsencode(part)) > LONGEST and part != os.sep:
            raise InputError(
                f"the name {brief(part)} has {len(os.fsencode(part))} bytes, the limit is {LONGEST}.",
                "Choose a shorter one.",
            )
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user, or no home
        return Path(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a new file beside `path`, of its suffix, that takes its place when the block ends and vanishes if it
    fails. A link in its place is replaced, not followed.
    """
    with disk_errors(path.absolute()):
        handle, name = tempfile.mkstemp(path.suffix, PARTIAL, path.absolute().parent)
        partial = Path(name)
        try:
            os.fchmod(handle, 0o666 & ~umask())
            os.close(handle)
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns what the system refuses while something is written into one line, whichever library met it."""
    try:
        yield
    except EdgegenError:
        raise
    except Exception as error:
        refused = next((e for e in chain(error) if isinstance(e, OSError) and e.errno is not None), None)
        if is_disk_full(error, target):
            raise disk_full(target) from error
        if refused is not None:
            raise system_error(refused, target) from error
        raise


def disk_full(target: Path) -> InputError:
    """The error of a disk that has no room for `target`."""
    return InputError(
        f"the disk of {target.parent} is full ({free_bytes(target) / 2**20:.1f} MiB free).",
        "Free some space, or choose another folder with --out.",
    )


def system_error(error: OSError, target: Path | None = None) -> InputError:
    """One line for whatever the system refused: what, and the system's own reason."""
    what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else target
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    if error.errno == errno.EFBIG:
        return InputError(f"{what} is larger than a file may be here ({reason}).", "Raise the limit (ulimit -f).")
    return InputError(f"cannot use {what}: {reason}." if what else f"{reason}.", REMEDIES.get(error.errno or 0, ""))


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether an exception, or one it came from, tells of a full disk, or the disk of `path` is full."""
    return any(tells_of_no_space(e) for e in chain(error)) or free_bytes(path) < NEARLY_FULL


def has_no_room(error: BaseException, path: Path) -> bool:
    """Whether the disk of `path` is full, or files may not grow so large."""
    return is_disk_full(error, path) or any(tells_of(e, (errno.EFBIG,)) for e in chain(error))


def tells_of_no_space(error: BaseException) -> bool:
    """Whether an error is that of a full disk."""
    return tells_of(error, NO_SPACE)


def tells_of(error: BaseException, codes: Sequence[int]) -> bool:
    """Whether an error is one of the system's by its number; libraries in Rust say it in words."""
    coded = isinstance(error, OSError) and error.errno in codes
    return coded or any(f"(os error {code})" in str(error) for code in codes)


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
