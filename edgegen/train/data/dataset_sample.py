"""What a dataset yields, one picture with its captions at a time, and the record of what had to be left out."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from edgegen.errors import brief, shortened
from edgegen.strict_json import is_text
from edgegen.train.data.dataset_picture import decode_picture

READ_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif",
    ".hif",
)  # fmt: skip
# taken for pictures too, so that each is told by name as one that cannot be used
TOLD_SUFFIXES = (".jxl", ".jp2", ".psd", ".tga", ".svg", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf")
IMAGE_SUFFIXES = READ_SUFFIXES + TOLD_SUFFIXES
CAPTION_KEYS = ("text", "caption", "captions", "prompt")  # of a JSON object, the first one there counts
SHOWN = 20  # problems told one by one


@dataclass(frozen=True)
class Sample:
    """One picture as it is stored, its captions (at least one), and a name that is unique in its dataset."""

    key: str
    captions: tuple[str, ...]
    data: bytes

    @property
    def digest(self) -> str:
        """sha256 of the stored bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def image(self) -> Image.Image:
        """The picture in RGB; BadPicture when it cannot be used."""
        return decode_picture(self.data)


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass
class Problems:
    """What was left out and why: told one by one at first, counted, listed in a file."""

    tell: Callable[[str], None] = to_stderr
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # name, kind of problem, detail

    def add(self, name: str, kind: str, detail: str = "") -> None:
        """Notes that `name` is left out; `kind` is what problems are counted by."""
        name, detail = shortened(name, 200), shortened(detail, 200)
        self.rows.append((name, kind, detail))
        if len(self.rows) <= SHOWN:
            self.tell(f"left out {name}: {kind}{f' ({detail})' if detail else ''}")
        elif len(self.rows) == SHOWN + 1:
            self.tell("more is left out; the rest is counted at the end")

    def summary(self) -> str:
        """'7 left out: 4 empty caption, 3 unreadable picture', or nothing."""
        counts = Counter(kind for _, kind, _ in self.rows)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return f"{len(self.rows)} left out: {kinds}" if counts else ""

    def save(self, path: Path) -> None:
        """One JSON object a line."""
        lines = (json.dumps({"name": name, "problem": kind, "detail": detail}) for name, kind, detail in self.rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def clean_captions(texts: Iterable[Any]) -> tuple[str, ...]:
    """The texts that say something, white space made single, each once; ValueError for one that no file can hold."""
    words = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    for text in words:
        if not is_text(text):
            raise ValueError(f"{brief(text)} has half of a surrogate pair")
    return tuple(dict.fromkeys(text for text in words if text))


def captions_of(values: dict[str, Any]) -> list[Any]:
    """What a JSON object of a picture gives under one of CAPTION_KEYS: a text or a list of texts."""
    found = next((values[key] for key in CAPTION_KEYS if values.get(key)), [])
    return found if isinstance(found, list) else [found]
