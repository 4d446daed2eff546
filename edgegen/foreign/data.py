"""What of a pipeline a bundle holds beside programs, in `pipeline/`: its index, schedulers and tokenizers, all data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.foreign.folder import PIPELINE, read_object
from edgegen.foreign.observe import part_of

FOLDER = "pipeline"
DATA = (".json", ".txt", ".model", ".jinja")  # what a tokenizer or scheduler is made of
TOKENIZER = "tokenizer.json"
Told = dict[str, Any]


def copy_data(folder: Path, root: Path) -> None:
    """Copies what a pipeline needs beside its networks into a bundle: data only."""
    if not (folder / PIPELINE).is_file():
        return
    (root / FOLDER).mkdir()
    shutil.copyfile(folder / PIPELINE, root / FOLDER / PIPELINE)
    for name, entry in read_object(folder / PIPELINE).items():
        source = folder / name
        if name.startswith("_") or not isinstance(entry, list) or not source.is_dir():
            continue
        whole = not (source / "config.json").is_file()
        (root / FOLDER / name).mkdir()
        for path in sorted(source.iterdir()):
            if path.name == "config.json" or (whole and path.suffix in DATA):
                shutil.copyfile(path, root / FOLDER / name / path.name)


def told_tokenizers(root: Path, told: Mapping[str, Told]) -> dict[str, Told]:
    """A manifest's tokenizers with their files in a bundle; of one that came in parts the file is written."""
    index, made = root / FOLDER / PIPELINE, {}
    for name, entry in told.items():
        path = root / FOLDER / name / TOKENIZER
        if not path.is_file():
            write_tokenizer(part_of(name, read_object(index)[name], path.parent, no_network), path)
        made[name] = entry | told_file(path, root)
    return made


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Writes the one file that apps read, of a tokenizer that is made of a vocabulary and merges or of pieces."""
    if hasattr(tokenizer, "backend_tokenizer"):
        path.write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")


def told_file(path: Path, root: Path) -> Told:
    if not path.is_file():
        return {}
    sha, size = digest(path)
    return {"path": path.relative_to(root).as_posix(), "sha256": sha, "bytes": size}


def no_network(name: str, kind: Any, folder: Path) -> Any:
    """For `part_of`, of what is to be made of data alone."""
    raise InputError(f"{folder} is a network, no {name}.", "Copy the folder again from where it was made.")
