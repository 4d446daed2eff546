"""The retrieval head of a data folder, trained once on real pictures that no evaluation shows and kept there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgegen.callbacks import Report
from edgegen.emoji.assets import emoji_names
from edgegen.emoji.captions import STYLES, common_concepts, unit_hash, with_article
from edgegen.emoji.data import load_rendered
from edgegen.emoji.minilm import MiniLM
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import scene_concepts
from edgegen.emoji.teacher import MODEL
from edgegen.errors import InputError
from edgegen.evaluate.efficientnet import SIDE, features
from edgegen.evaluate.prompts import SCENES, pictures_of, scenes_of
from edgegen.evaluate.retrieval import HeadTraining, RetrievalHead, train_head
from edgegen.files import disk_errors
from edgegen.model.states import open_safetensors, write_tensors

SEED = 8_000  # of the head's scenes
SCENE_COUNTS = {"seen": 1800, "combinations": 600, "unseen": 600}
EMOJI_COUNT = 1500
FOLDER = "evaluation"  # in the data folder: what evaluation derives from it


def open_head(data: Path, report: Report = lambda line: None) -> RetrievalHead:
    """The head of a data folder; trained and kept where it is not there yet, or was trained on other pictures."""
    path = head_path(data)
    if not path.is_file():
        pictures, captions = head_pictures(data)
        report(f"features of {len(pictures)} real pictures for the retrieval head, once")
        seen = features(pictures, data)
        report("training the retrieval head")
        head = train_head(seen, open_minilm(data).embed(captions))
        with disk_errors(path.absolute()):
            write_tensors(path, dict(head.state_dict()))
    file, head = open_safetensors(path), RetrievalHead()
    head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    return head.eval().requires_grad_(False)


def head_path(data: Path) -> Path:
    """Where the head lies; its name tells what it was trained on and how."""
    told = json.dumps([asdict(HeadTraining()), SEED, SCENE_COUNTS, EMOJI_COUNT, SIDE, scene_concepts()], sort_keys=True)
    return data / FOLDER / f"head-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"


def open_minilm(data: Path) -> MiniLM:
    """The sentence encoder that was fetched; an error where it was not."""
    folder = data / "minilm" / MODEL
    if not folder.is_dir():
        raise InputError(f"data folder {data} has no minilm.", f"Fetch it: edgegen train fetch --data {data}")
    return MiniLM(folder)


def head_pictures(data: Path) -> tuple[np.ndarray, list[str]]:
    """Real pictures (N,H,W,3) with a caption each: scenes of every split, and emoji that no set of prompts has."""
    sprites = Sprites.load(data)
    scenes = [scene for name, count in SCENE_COUNTS.items() for scene in scenes_of(SCENES[name], count, SEED)]
    images, names = emoji_pictures(data)
    return (np.concatenate([pictures_of(sprites, scenes), images]), [*(scene.captions[0] for scene in scenes), *names])


def emoji_pictures(data: Path, count: int = EMOJI_COUNT) -> tuple[np.ndarray, list[str]]:
    """Single emoji but for those of the prompt sets, the common concepts' other styles before the rest."""
    rendered, names = load_rendered(data), emoji_names(data)
    common = {concept.unicode_name: concept.name for concept in common_concepts()}
    rows = [
        (names[key] not in common, unit_hash(f"{style} {key}", 0), row)
        for row, (key, style) in enumerate(zip(rendered.keys, rendered.styles, strict=True))
        if not (names[key] in common and style in STYLES)
    ]
    kept = [row for _, _, row in sorted(rows)[:count]]
    said = [
        f"a {rendered.styles[row]} emoji of {with_article(common.get(name := names[rendered.keys[row]], name))}"
        for row in kept
    ]
    return rendered.images[kept], said


@torch.no_grad()
def caption_vectors(head: RetrievalHead, data: Path, captions: list[str]) -> Tensor:
    """Captions (N,E) in the head's space."""
    return head.read(open_minilm(data).embed(captions))
