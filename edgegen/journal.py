"""What an unfinished export has finished: a note for each artifact, by which a resumed export goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgegen.backends.registry import find_backend
from edgegen.errors import InputError
from edgegen.files import data_beside, digest, replace_json
from edgegen.folders import TOKEN
from edgegen.manifest import Artifact
from edgegen.schema import from_values
from edgegen.strict_json import read_json

NOTES, SETTINGS = ".finished", "settings.json"


class Journal:
    """The notes in an unfinished bundle's folder; two processes may write them at a time, each of its own artifacts."""

    def __init__(self, root: Path, settings: Mapping[str, Any]):
        """Takes up what is in `root`, or begins; notes of other settings are an InputError that names these. What no
        note tells of is removed.
        """
        self.root, self.notes = root, root / NOTES
        settings = json.loads(json.dumps(settings))
        if has_notes(root):
            check_settings(self.notes / SETTINGS, settings)
        self.found = {(artifact.name, artifact.backend): artifact for artifact in self.read()}
        self.clear_()
        self.notes.mkdir(exist_ok=True)
        replace_json(self.notes / SETTINGS, settings)

    def read(self) -> list[Artifact]:
        """The artifacts that were noted and are still what the notes say."""
        artifacts = []
        for path in sorted(self.notes.glob("*-*.json")):
            artifact = from_values(Artifact, read_json(path))
            if self.is_whole(artifact):
                artifacts.append(artifact)
        return artifacts

    def is_whole(self, artifact: Artifact) -> bool:
        """Whether an artifact lies where artifacts of its kind do, as it was when it was noted."""
        path = self.root / f"{artifact.backend}/{artifact.name}{find_backend(artifact.backend).suffix}"
        own = path == self.root / artifact.path and path.exists() and not path.is_symlink()
        return own and digest(path)[0] == artifact.sha256

    def clear_(self) -> None:
        """Removes everything that is neither finished nor a note of it."""
        kept = {self.notes, self.root / TOKEN}
        for artifact in self.found.values():
            path = self.root / artifact.path
            kept |= {path, data_beside(path), path.parent}
        folders = {artifact.backend for artifact in self.found.values()}
        for entry in (*self.root.iterdir(), *(e for name in folders for e in (self.root / name).iterdir())):
            if entry not in kept:
                remove_entry_(entry)

    def find(self, name: str, backend: str) -> Artifact | None:
        """A finished component on a back end."""
        return self.found.get((name, backend))

    def note(self, artifact: Artifact) -> None:
        """Notes an artifact that lies whole in its place."""
        replace_json(self.notes / f"{artifact.backend}-{artifact.name}.json", asdict(artifact))

    def close(self) -> None:
        """Removes the notes: the bundle is about to be whole."""
        shutil.rmtree(self.notes)


def has_notes(root: Path) -> bool:
    """Whether an unfinished folder has an artifact that can be taken up."""
    return (root / NOTES / SETTINGS).is_file() and any((root / NOTES).glob("*-*.json"))


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


def remove_entry_(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
