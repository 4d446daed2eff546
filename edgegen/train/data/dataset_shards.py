"""A dataset as webdataset shards: tar files read as streams, the files of a sample next to each other.

A member `a/b.seg.png` belongs to sample `a/b` and is its `seg.png`. Pictures are `png`, `jpg` and so on; captions are
`txt` or `caption` (one a line) or `json` (an object).
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path
from typing import Any

from edgegen.train.data.dataset_sample import IMAGE_SUFFIXES, Problems, Sample, captions_of, clean_captions

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
CAPTION_KINDS = ("txt", "caption", "json")
MAX_BYTES = 2**28  # of one member: it is held in memory
BLOCK = 512
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError)


def read_shard(path: Path, name: str, problems: Problems) -> Iterator[Sample]:
    """The samples of one shard; what follows a damaged place is lost and said so."""
    seen: set[str] = set()
    count = 0
    try:
        for key, parts in read_groups(path, name, problems):
            if key in seen:
                problems.add(f"{name}/{key}", "duplicate key", "the first stays")
                continue
            seen.add(key)
            sample = make_sample(f"{name}/{key}", parts, problems)
            if sample is not None:
                count += 1
                yield sample
    except DAMAGE as error:
        problems.add(name, "damaged shard", f"{count} samples were read before: {error}")
        return
    if path.suffix == ".tar" and not has_end_mark(path):
        problems.add(name, "shard cut short", f"no end mark after {count} samples")


def read_groups(path: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and the parts that matter, by kind, of each run of members with one key; an unfinished last one is lost."""
    key, parts = "", {}
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if not member.isfile():
                continue
            its_key, kind = split_name(member.name)
            if its_key != key and parts:
                yield key, parts
            if its_key != key:
                key, parts = its_key, {}
            if kind not in CAPTION_KINDS and f".{kind}" not in IMAGE_SUFFIXES:
                parts.setdefault("", b"")  # so that a sample without what matters is told of
            elif kind in parts:
                problems.add(f"{name}/{member.name}", "duplicate key", "the first stays")
            elif member.size > MAX_BYTES:
                problems.add(f"{name}/{member.name}", "too large a file", f"{member.size:,} bytes of {MAX_BYTES:,}")
            else:
                parts[kind] = read_member(archive, member)
    if parts:
        yield key, parts


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member; fewer than its header says are an error."""
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data


def split_name(name: str) -> tuple[str, str]:
    """'a/b.seg.PNG' -> ('a/b', 'seg.png'): the key ends at the first dot of the file's own name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    base, _, kind = file.partition(".")
    return f"{folder}{slash}{base}", kind.lower()


def make_sample(key: str, parts: dict[str, bytes], problems: Problems) -> Sample | None:
    """A sample of the parts of one key, or a problem."""
    data = next((parts[kind] for kind in parts if f".{kind}" in IMAGE_SUFFIXES), None)
    if data is None:
        problems.add(key, "sample without a picture")
        return None
    given = [kind for kind in CAPTION_KINDS if kind in parts]
    if not given:
        problems.add(key, "picture without a caption")
        return None
    try:
        captions = clean_captions(text for kind in given for text in texts_of(kind, parts[kind]))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError
        problems.add(key, "unreadable caption", str(error))
        return None
    if not captions:
        problems.add(key, "empty caption")
        return None
    return Sample(key, captions, data)


def texts_of(kind: str, data: bytes) -> list[Any]:
    """The texts in a caption member."""
    text = data.decode("utf-8-sig")
    if kind != "json":
        return text.splitlines()
    values = json.loads(text)
    return captions_of(values) if isinstance(values, dict) else []


def has_end_mark(path: Path) -> bool:
    """Whether an uncompressed tar file ends in a block of zeros, as every whole one does."""
    size = path.stat().st_size
    if size < BLOCK or size % BLOCK:
        return False
    with path.open("rb") as file:
        file.seek(-BLOCK, 2)
        return not any(file.read(BLOCK))
