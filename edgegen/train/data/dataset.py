"""A user's pictures with captions: a folder, webdataset shards or Hugging Face parquet, told apart by what is there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgegen.errors import InputError, unknown
from edgegen.files import user_path
from edgegen.train.data.dataset_folder import TABLES, files_below, read_folder
from edgegen.train.data.dataset_parquet import PARQUET_SUFFIXES, read_parquet
from edgegen.train.data.dataset_sample import IMAGE_SUFFIXES, Problems, Sample
from edgegen.train.data.dataset_shards import SHARD_SUFFIXES, read_shard

KINDS = {"parquet": PARQUET_SUFFIXES, "shards": SHARD_SUFFIXES, "folder": IMAGE_SUFFIXES}
LIMITS = {
    "pixels": (0, 2**26),
    "max_ratio": (1, 16),
    "max_enlarge": (1, 1000),
    "max_crop": (0, 0.95),
    "validation": (0, 0.5),
    "validation_pictures": (1, 10**6),
    "text_cache_mb": (0, 10**6),
    "scenes": (0, 10**7),
    "single_share": (0, 0.9),
}


@dataclass(frozen=True)
class DataConfig:
    """The `[data]` table of a recipe; without a path the bundled emoji are trained on."""

    path: str = ""  # a folder, or one .tar or .parquet file
    kind: str = "auto"  # folder, shards, parquet
    image_column: str = ""  # parquet; "": the one that holds pictures
    text_column: str = ""  # parquet; "": text, caption, captions or prompt
    pixels: int = 0  # of a picture after cropping, about; 0: what the model's grid takes
    max_ratio: float = 2.0  # of the long side of a bucket to its short one
    max_enlarge: float = 4.0  # pictures that would be scaled up by more are left out
    max_crop: float = 0.5  # pictures that would lose a larger share are left out
    validation: float = 0.05  # share of the pictures whose loss is only watched
    validation_pictures: int = 256  # at most
    encoders: str = ""  # a checkpoint's folder, or "bundled"; "": this run's own stages, or else the bundled ones
    cache: str = ""  # a folder for latents and text; "": `cache` among the runs
    text_cache_mb: int = 2048  # beyond, captions are encoded at every step
    scenes: int = 0  # without a path: how many scenes of one to three emoji are drawn; 0: single emoji alone
    single_share: float = 0.2  # of the rows of a batch that are single emoji filling the frame, where there are scenes

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise unknown("data.kind", self.kind, ("auto", *KINDS))
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"data.{name} is {getattr(self, name)}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class Dataset:
    """Files of one kind below `root`."""

    kind: str
    root: Path
    files: tuple[Path, ...]
    other_splits: tuple[Path, ...] = ()  # files that are not for training
    image_column: str = ""
    text_column: str = ""

    def samples(self, problems: Problems) -> Iterator[Sample]:
        """Every usable sample in a fixed order; what is left out is added to `problems`."""
        if self.kind == "folder":
            yield from read_folder(self.root, problems)
            return
        for path in self.other_splits:
            problems.add(path.relative_to(self.root).as_posix(), "file of another split", "its name says so")
        for path in self.files:
            name = path.relative_to(self.root).as_posix()
            if self.kind == "shards":
                yield from read_shard(path, name, problems)
            else:
                yield from read_parquet(path, name, problems, self.image_column, self.text_column)

    def stamp(self) -> str:
        """A digest of the names, sizes and times of all files: the same as long as nothing was touched."""
        files = self.files
        if self.kind == "folder":
            files = tuple(files_below(self.root, (*IMAGE_SUFFIXES, ".txt", ".jsonl")))
        told = [f"{p.relative_to(self.root).as_posix()} {file_stamp(p)}" for p in files]
        columns = [self.kind, self.image_column, self.text_column]
        return hashlib.sha256("\n".join([*columns, *told]).encode("utf-8", "surrogateescape")).hexdigest()


def file_stamp(path: Path) -> str:
    """Size and time of a file; of a link that leads nowhere, that it does."""
    try:
        found = path.stat()
    except OSError as error:
        return error.strerror or "unreadable"
    return f"{found.st_size} {found.st_mtime_ns}"


def open_dataset(config: DataConfig) -> Dataset:
    """The dataset at `config.path`; InputError, with what was looked for, when there is none or more than one."""
    path = user_path(config.path)
    if not path.exists():
        raise InputError(f"data.path {path} does not exist.", "Give a folder, or one .tar or .parquet file.")
    root = path if path.is_dir() else path.parent
    there = {
        kind: files_below(path, suffixes) if path.is_dir() else [path] * path.name.lower().endswith(suffixes)
        for kind, suffixes in KINDS.items()
        if path.is_dir() or kind != "folder"
    }
    kinds = [kind for kind, files in there.items() if files and config.kind in ("auto", kind)]
    if not kinds:
        raise nothing_found(path)
    if len(kinds) > 1:
        counts = " and ".join(f"{len(there[kind])} of {kind}" for kind in kinds)
        raise InputError(f"{path} holds files of several datasets: {counts}.", "Say which with --set data.kind=KIND.")
    files = there[kinds[0]]
    chosen = training_files(files) if kinds[0] != "folder" else files
    others = tuple(file for file in files if file not in set(chosen))
    return Dataset(kinds[0], root, tuple(chosen), others, config.image_column, config.text_column)


def training_files(files: list[Path]) -> list[Path]:
    """Those of the split `train` where files are named by split, as on the Hugging Face hub; otherwise all."""
    split = {path: path.name.split("-")[0].split(".")[0].lower() for path in files}
    if not {"train", "test", "validation", "valid", "dev"} & set(split.values()) or "train" not in split.values():
        return files
    return [path for path, name in split.items() if name == "train"]


def nothing_found(path: Path) -> InputError:
    """What was looked for, and what is there instead."""
    names = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    found = Counter(p.suffix.lower() or p.name for p in names).most_common(4)
    told = ", ".join(f"{count} {suffix}" for suffix, count in found) or "nothing"
    return InputError(
        f"{path} holds no dataset: looked for pictures (.png, .jpg, ...) with {' or '.join(TABLES)} or .txt files, "
        f"shards ({', '.join(SHARD_SUFFIXES)}), {', '.join(PARQUET_SUFFIXES)}; found {told}.",
        "Give the folder that holds one of these.",
    )
