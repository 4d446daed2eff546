"""What an unfinished export has finished: a note for each artifact, by which a resumed export goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from edgegen.backends.registry import find_backend
from edgegen.errors import InputError
from edgegen.files import data_beside, digest, replace_json
from edgegen.folders import TOKEN
from edgegen.manifest import Artifact
from edgegen.schema import from_values
from edgegen.strict_json import read_json

NOTES, SETTINGS = ".finished", "settings.json"
ANY = "[!.]*-*.json"  # names of notes


class Journal:
    """The notes in an unfinished bundle's folder; two processes may write them at a time, each of its own artifacts."""

    def __init__(self, root: Path, settings: Mapping[str, Any], kind: type[Artifact] = Artifact):
        """Takes up what is in `root`, or begins; notes of other settings are an InputError that names these. What no
        note tells of is removed.
        """
        self.root, self.notes, self.kind = root, root / NOTES, kind
        settings = json.loads(json.dumps(settings))
        if has_notes(root):
            check_settings(self.notes / SETTINGS, settings)
        self.found = {artifact.path: artifact for artifact in self.read()}
        self.clear_()
        self.notes.mkdir(exist_ok=True)
        replace_json(self.notes / SETTINGS, settings)

    def read(self) -> list[Artifact]:
        """The artifacts that were noted and are still what the notes say."""
        noted = [from_values(self.kind, read_json(path)) for path in sorted(self.notes.glob(ANY))]
        return [artifact for artifact in noted if self.is_whole(artifact)]

    def is_whole(self, artifact: Artifact) -> bool:
        """Whether an artifact lies where artifacts of its kind do, as it was when it was noted."""
        parts, path = PurePosixPath(artifact.path).parts, self.root / artifact.path
        kind = (artifact.backend, f"{artifact.name}{find_backend(artifact.backend).suffix}")
        folders = [folder for folder in path.parents if folder != self.root and folder.is_relative_to(self.root)]
        if parts[-2:] != kind or ".." in parts or len(folders) != len(parts) - 1 or not path.exists():
            return False
        links = any(entry.is_symlink() for entry in (path, *folders))
        return not links and digest(path)[0] == artifact.sha256

    def clear_(self) -> None:
        """Removes everything that is neither finished nor a note of it."""
        kept = {self.notes, self.root / TOKEN}
        for path in (self.root / artifact.path for artifact in self.found.values()):
            kept |= {path, data_beside(path)}
        remove_but_(self.root, kept, {folder for path in kept for folder in path.parents})

    def find(self, path: str) -> Artifact | None:
        """A finished artifact by its path in the bundle."""
        return self.found.get(path)

    def note(self, artifact: Artifact) -> None:
        """Notes an artifact that lies whole in its place."""
        replace_json(self.notes / f"{artifact.path.replace('/', '-')}.json", asdict(artifact))

    def close(self) -> None:
        """Removes the notes: the bundle is about to be whole."""
        shutil.rmtree(self.notes)


def has_notes(root: Path) -> bool:
    """Whether an unfinished folder has an artifact that can be taken up."""
    return (root / NOTES / SETTINGS).is_file() and any((root / NOTES).glob(ANY))


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses to go on with what other settings began."""
    found = read_json(path)
    found = found if isinstance(found, dict) else {}
    wrong = sorted(key for key in found.keys() | settings.keys() if found.get(key) != settings.get(key))
    if wrong:
        raise InputError(
            f"the unfinished export was started with another {', '.join(wrong).replace('_', ' ')}.",
            "Give what it was started with, or leave --resume out to start again.",
        )


def remove_but_(folder: Path, kept: Collection[Path], above: Collection[Path]) -> None:
    """Removes what is in a folder but for what is kept, or lies above that."""
    for entry in folder.iterdir():
        if entry in kept:
            continue
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        elif entry in above:
            remove_but_(entry, kept, above)
        else:
            shutil.rmtree(entry)
