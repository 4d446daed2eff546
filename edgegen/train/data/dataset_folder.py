"""A dataset as a folder of pictures: captions in captions.jsonl or metadata.jsonl, or one .txt beside each picture."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgegen.errors import InputError
from edgegen.strict_json import decoded, is_text
from edgegen.train.data.dataset_sample import (
    CAPTION_KEYS,
    IMAGE_SUFFIXES,
    Problems,
    Sample,
    captions_of,
    clean_captions,
)

TABLES = ("captions.jsonl", "metadata.jsonl")
MAX_BYTES = 2**28  # of one file: it is held in memory


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder whose names end so, in capitals or not, sorted; linked folders are looked into, each
    once; hidden files and folders are passed over.
    """
    found, seen = [], {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for name, place in real.items() if place not in seen]
        seen |= {real[name] for name in folders}
        found += [Path(root, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_folder(folder: Path, problems: Problems) -> Iterator[Sample]:
    """Every picture that has a caption, by path; a table's captions go before a text file's."""
    tables = read_tables(folder, problems)
    beside = {path.with_suffix(""): path for path in files_below(folder, (".txt",))}
    for path in files_below(folder, IMAGE_SUFFIXES):
        key = path.relative_to(folder).as_posix()
        texts, caption = tables.pop(path, None), beside.get(path.with_suffix(""))
        if not is_text(key):
            problems.add(key, "name that is not UTF-8")
        elif texts is None and caption is None:
            problems.add(key, "picture without a caption")
        else:
            sample = make_sample(key, path, texts, caption, problems)
            if sample is not None:
                yield sample
    for path in tables:
        problems.add(path.relative_to(folder).as_posix(), "caption without a picture")


def make_sample(
    key: str, path: Path, texts: list[Any] | None, caption: Path | None, problems: Problems
) -> Sample | None:
    """A picture with a table's texts, or those of the file beside it; whatever is wrong with either is a problem."""
    try:
        if texts is None:
            assert caption is not None  # one of them is there
            texts = read_plain(caption).decode("utf-8-sig").splitlines()
        captions = clean_captions(texts)
    except (ValueError, OSError) as error:
        problems.add(key, "unreadable caption", reason(error))
        return None
    if not captions:
        problems.add(key, "empty caption")
        return None
    try:
        return Sample(key, captions, read_plain(path))
    except (ValueError, OSError) as error:
        problems.add(key, "unreadable file", reason(error))
        return None


def read_plain(path: Path) -> bytes:
    """The bytes of a file; ValueError for what is no file, such as a pipe that nobody writes to, or too large a one."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"{found.st_size:,} bytes of {MAX_BYTES:,}")
    return path.read_bytes()


def reason(error: Exception) -> str:
    """Why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "it is missing: a link that leads nowhere"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_tables(folder: Path, problems: Problems) -> dict[Path, list[Any]]:
    """The captions of each picture that tables name, all rows of a picture together."""
    captions: dict[Path, list[Any]] = {}
    for table in files_below(folder, TABLES):
        if table.name.lower() not in TABLES:
            continue
        for line, row in read_rows(folder, table, problems):
            path = Path(os.path.normpath(table.parent / row["file_name"]))
            if not path.is_relative_to(os.path.normpath(folder)) or "\0" in row["file_name"]:
                problems.add(f"{table.name}:{line}", "path outside the dataset", row["file_name"])
                continue
            captions.setdefault(path, []).extend(captions_of(row))
    return captions


def read_rows(folder: Path, table: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that has a file name and a caption key."""
    told = table.relative_to(folder).as_posix()
    try:
        if not stat.S_ISREG(table.stat().st_mode):
            raise ValueError("it is no file")
        file = table.open("rb")
    except (ValueError, OSError) as error:
        problems.add(told, "unreadable table", reason(error))
        return
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            name = f"{told}:{number}"
            try:
                row = json.loads(decoded(line, name, ""))
            except (InputError, ValueError, RecursionError) as error:
                problems.add(name, "line that is not JSON", str(error))
                continue
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                problems.add(name, "line without file_name")
            elif not any(key in row for key in CAPTION_KEYS):
                problems.add(name, "line without a caption", f"looked for {', '.join(CAPTION_KEYS)}")
            else:
                yield number, row
