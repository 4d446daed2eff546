"""A dataset as a folder of pictures: captions in captions.jsonl or metadata.jsonl, or one .txt beside each picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgegen.train.data.dataset_sample import (
    CAPTION_KEYS,
    IMAGE_SUFFIXES,
    Problems,
    Sample,
    captions_of,
    clean_captions,
)

TABLES = ("captions.jsonl", "metadata.jsonl")


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder whose names end so, sorted; hidden files and folders are passed over."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_folder(folder: Path, problems: Problems) -> Iterator[Sample]:
    """Every picture that has a caption, by path; a table's captions go before a text file's."""
    tables = read_tables(folder, problems)
    for path in files_below(folder, IMAGE_SUFFIXES):
        key = path.relative_to(folder).as_posix()
        texts = tables.pop(path, None)
        try:
            captions = clean_captions(texts if texts is not None else read_text(path.with_suffix(".txt")))
            data = path.read_bytes() if captions else b""
        except FileNotFoundError:
            problems.add(key, "picture without a caption")
            continue
        except UnicodeDecodeError:
            problems.add(key, "unreadable caption", f"{path.with_suffix('.txt').name} is not UTF-8")
            continue
        except OSError as error:
            problems.add(key, "unreadable file", error.strerror or str(error))
            continue
        if captions:
            yield Sample(key, captions, data)
        else:
            problems.add(key, "empty caption")
    for path in tables:
        problems.add(path.relative_to(folder).as_posix(), "caption without a picture")


def read_text(path: Path) -> list[str]:
    """The captions in a text file, one a line."""
    return path.read_text(encoding="utf-8-sig").splitlines()


def read_tables(folder: Path, problems: Problems) -> dict[Path, list[Any]]:
    """The captions of each picture that tables name, all rows of a picture together."""
    captions: dict[Path, list[Any]] = {}
    root = folder.resolve()
    for table in files_below(folder, TABLES):
        if table.name not in TABLES:
            continue
        for line, row in read_rows(folder, table, problems):
            path = table.parent / row["file_name"]
            if not path.resolve().is_relative_to(root):
                problems.add(f"{table.name}:{line}", "path outside the dataset", row["file_name"])
                continue
            captions.setdefault(Path(os.path.normpath(path)), []).extend(captions_of(row))
    return captions


def read_rows(folder: Path, table: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that has a file name and a caption key."""
    with table.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            name = f"{table.relative_to(folder).as_posix()}:{number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                problems.add(name, "line that is not JSON", str(error))
                continue
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                problems.add(name, "line without file_name")
            elif not any(key in row for key in CAPTION_KEYS):
                problems.add(name, "line without a caption", f"looked for {', '.join(CAPTION_KEYS)}")
            else:
                yield number, row
