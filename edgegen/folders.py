"""Folders that appear whole or not at all, and replace only what was made here.

A folder is ours if its marker, a JSON file such as manifest.json, lists in `files` every file that is in it. An
unfinished one beside the target holds `TOKEN` until it is whole. Links are never followed to write or to delete.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgegen.errors import InputError, brief
from edgegen.files import disk_errors, sync, sync_folder, system_error, user_path, write_json
from edgegen.strict_json import read_json

FILES = "files"  # the marker's list
TOKEN = ".edgegen-unfinished"
LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*")  # what systems leave in folders that people look at
ELSEWHERE = "Choose another folder with --out."
Keep = Callable[[Path], bool]


def nothing_kept(folder: Path) -> bool:
    """For those whose work is not worth to be taken up again."""
    return False


@contextmanager
def new_folder(
    target: Path, marker: str, overwrite: bool = False, keep: Keep = nothing_kept, resume: bool = False
) -> Iterator[Path]:
    """Yields a temporary folder beside `target` that becomes `target` when the block ends, and vanishes if it fails.

    `marker` is the JSON file, written in the block, that makes such a folder look finished; a folder loses it first
    when removed. What an interrupted run left behind is cleaned up. An occupied target is refused unless `overwrite`,
    which replaces a folder made here only, and only once the new one is whole. A full disk is an InputError.

    `keep` tells whether an unfinished folder is worth to be taken up again: then it stays when the block fails, and
    with `resume` the newest that an earlier run left is yielded, as it is.
    """
    target = checked_target(target)
    check_free(target, marker, overwrite)
    left = newest_left(target, keep) if resume else None
    clean_up_(target, marker, left)
    created = make_parents(target)
    partial, made = target.with_name(f".{target.name}.partial-{os.getpid()}"), False
    try:
        with disk_errors(target):
            left.rename(partial) if left else partial.mkdir()
            made = True
            (partial / TOKEN).touch()
            yield partial
            list_files(partial, marker)
            sync(partial)
            check_free(target, marker, overwrite)  # again: another run may have been faster
            put_in_place_(partial, target, marker)
    except BaseException:
        if made and not (is_unfinished(partial) and keep(partial)):
            remove_(partial, marker)
        for folder in created:
            remove_if_empty_(folder)
        raise


def checked_target(target: Path) -> Path:
    """A target as an absolute path; one that is, or lies below, what cannot be replaced by a rename is refused."""
    target = Path(os.path.abspath(user_path(target)))
    if target.is_symlink():
        raise InputError(f"{target} is a link to {brief(os.readlink(target))}.", "Give the folder it leads to.")
    if Path.cwd().is_relative_to(os.path.realpath(target)):
        raise InputError(f"{target} is the working folder, or above it.", ELSEWHERE)
    if os.path.ismount(target):
        raise InputError(f"{target} is a mount point, which no rename can replace.", f"Give {target / 'bundle'}.")
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise InputError(f"{above} is no folder.", ELSEWHERE)
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{above} cannot be written to.", ELSEWHERE)
    return target


def check_free(target: Path, marker: str, overwrite: bool) -> None:
    """Refuses a target that holds something, or, to overwrite, something that was not made here."""
    target = checked_target(target)
    try:
        if not os.path.lexists(target):
            return
        if not target.is_dir():
            raise InputError(f"{target} is a file." if target.is_file() else f"{target} is no folder.", ELSEWHERE)
        if not any(target.iterdir()):
            return
    except OSError as error:
        raise system_error(error, target) from None
    if not overwrite:
        raise InputError(f"{target} is not empty.", "Choose another folder with --out, or pass --overwrite.")
    check_ours(target, marker)


def check_apart(target: Path, source: Path | None, what: str) -> None:
    """Refuses a target that is, holds or lies in a folder that is read."""
    if source is None:
        return
    target, source = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if target.is_relative_to(source) or source.is_relative_to(target):
        where = "is" if target == source else "lies in" if target.is_relative_to(source) else "holds"
        raise InputError(f"{target} {where} the {what} {source}.", ELSEWHERE)


def check_ours(folder: Path, marker: str) -> None:
    """Refuses a folder whose marker does not list every file in it, or that holds a link: not all was made here."""
    kept = "--overwrite replaces only what was made here."
    listed = listed_files(folder / marker)
    if listed is None:
        raise InputError(
            f"{folder} is not empty and has no {marker} of edgegen: {kept}", "Choose another folder with --out."
        )
    for name in files_below(folder):
        if name not in listed and not LITTER.fullmatch(name.rpartition("/")[2]):
            raise InputError(f"{folder} holds {brief(name)}, which its {marker} does not list: {kept}", ELSEWHERE)
        if os.path.islink(folder / name) or not os.path.isfile(folder / name):
            raise InputError(f"{folder} holds {brief(name)}, which is no file: {kept}", ELSEWHERE)


def listed_files(marker: Path) -> frozenset[str] | None:
    """The files that a marker lists; none where it is no file of ours, or a link."""
    if marker.is_symlink() or not marker.is_file():
        return None
    try:
        values = read_json(marker)
    except InputError:
        return None
    listed = values.get(FILES) if isinstance(values, dict) else None
    if not isinstance(listed, list) or marker.name not in listed or not all(isinstance(name, str) for name in listed):
        return None
    return frozenset(listed)


def list_files(folder: Path, marker: str) -> None:
    """Writes into the marker the names of all files in the folder; then the token goes."""
    values: Any = read_json(folder / marker)
    write_json(folder / marker, values | {FILES: [name for name in files_below(folder) if name != TOKEN]})
    (folder / TOKEN).unlink()


def files_below(folder: Path) -> list[str]:
    """The paths of all files, links and other entries that are no folders, with forward slashes, sorted."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [Path(root, name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(found)


def clean_up_(target: Path, marker: str, taken: Path | None = None) -> None:
    """Removes what interrupted runs left beside a target, but for what is `taken` up; a folder that was being replaced
    is put back.

    Only what is ours by what is in it; a folder or a link of such a name that is not is let be.
    """
    for kind, left in left_behind(target):
        if left == taken:
            continue
        if kind == "replaced" and not target.exists() and listed_files(left / marker) is not None:
            left.rename(target)
        elif is_unfinished(left) or is_ours(left, marker):
            remove_(left, marker)


def left_behind(target: Path) -> list[tuple[str, Path]]:
    """The folders beside a target that bear the name of what a run that has ended was making, or replacing."""
    found = []
    for entry in sorted(target.parent.iterdir()) if target.parent.is_dir() else ():
        match = re.fullmatch(rf"\.{re.escape(target.name)}\.(partial|replaced)-(\d+)", entry.name)
        if match and not entry.is_symlink() and entry.is_dir() and not is_running(int(match[2])):
            found.append((match[1], entry))
    return found


def newest_left(target: Path, keep: Keep) -> Path | None:
    """The unfinished folder to take up: of those that are worth it the one changed last."""
    left = [folder for kind, folder in left_behind(target) if kind == "partial" and is_unfinished(folder)]
    return max((folder for folder in left if keep(folder)), key=lambda folder: folder.stat().st_mtime, default=None)


def left_bytes(target: Path) -> int:
    """Bytes of what ended runs left beside a target, which the next one takes up or removes."""
    left = [folder for _, folder in left_behind(checked_target(target)) if is_unfinished(folder)]
    return sum((folder / name).lstat().st_size for folder in left for name in files_below(folder))


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is one that we were filling, or removing, or had just made."""
    token = folder / TOKEN
    if folder.is_symlink() or not folder.is_dir() or token.is_symlink():
        return False
    return token.is_file() or not any(folder.iterdir())


def is_ours(folder: Path, marker: str) -> bool:
    with suppress(InputError):
        check_ours(folder, marker)
        return True
    return False


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
    if replaced.exists():
        remove_(replaced, marker)


def remove_(folder: Path, marker: str) -> None:
    """Removes a folder of ours: it is marked unfinished, then loses its marker, its files, and the mark last."""
    with suppress(OSError):
        (folder / TOKEN).touch()
        (folder / marker).unlink(missing_ok=True)
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != TOKEN:
                entry.unlink(missing_ok=True)
        (folder / TOKEN).unlink(missing_ok=True)
        folder.rmdir()


def remove_if_empty_(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
