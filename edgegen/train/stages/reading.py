"""What a caption says of each thing, to be read off the thing's own token: its colour, place, relation and number.

A sentence embedding tells which words a caption has and little of which belong together; a transformer that draws from
the tokens needs to know that the dog is the blue one. So the text encoders also learn, through linear heads that are
thrown away, to have all that is said of a thing in the token its name ends with.

Shapes: K captions, M mentions of things, A attributes, L tokens of one encoder, T text width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.emoji.captions import STYLES
from edgegen.emoji.scenes import COLOURS, NUMBERS, PLACES, RELATIONS, Scene, Thing, plural
from edgegen.model.text import Tokenizers

SIDES = ("first", "second")
ATTRIBUTES: dict[str, tuple[str, ...]] = {  # the value "" is: nothing was said
    "colour": ("", *COLOURS),
    "relation": ("", *(f"{relation} {side}" for relation in RELATIONS for side in SIDES)),
    "number": ("", *NUMBERS.values()),
    "place": ("", *PLACES),
    "style": ("", *STYLES),
    "background": ("", "white", *COLOURS),
}


@dataclass(frozen=True)
class Mention:
    """A thing in a caption: where its name ends, in characters, and what is said of it by attribute."""

    end: int
    said: dict[str, str]


def mentions(scene: Scene, caption: str) -> list[Mention]:
    """Each thing that a caption of a scene names; several of a kind are one mention."""
    things = scene.things[:1] if scene.kind == "counting" else scene.things
    found = []
    for index, thing in enumerate(things):
        name = plural(thing.concept) if scene.kind == "counting" else thing.concept
        place = re.search(rf"\b{re.escape(name)}\b", caption)
        if place is not None:
            found.append(Mention(place.end(), said_of(scene, thing, index, caption)))
    return found


def said_of(scene: Scene, thing: Thing, index: int, caption: str) -> dict[str, str]:
    """The attributes of one thing, as far as the caption says them."""
    told = re.search(r"\b(\w+) background|\bon (\w+)$", caption)
    return {
        "colour": thing.colour or "",
        "relation": f"{scene.relation} {SIDES[index]}" if scene.relation else "",
        "number": NUMBERS[len(scene.things)] if scene.kind == "counting" else "",
        "place": next((place for place in PLACES if f" {place}" in caption), ""),
        "style": next((style for style in STYLES if re.search(rf"\b{style}\b", caption)), ""),
        "background": (told[1] or told[2]) if told else "",
    }


@dataclass(frozen=True)
class Readings:
    """Captions with their mentions: `row` (M,) of the captions, token (M,) by encoder, `labels` (M,A) by attribute."""

    ids: dict[str, Tensor]  # encoder: (K,L) int32
    row: Tensor
    token: dict[str, Tensor]
    labels: Tensor

    @classmethod
    def of(cls, source: Callable[[int], Scene], count: int, tokenizers: Tokenizers) -> Readings:
        """Those of a source's first `count` scenes, one caption each, without mentions past an encoder's length."""
        scenes = [source(index) for index in range(count)]
        captions = [scene.captions[0] for scene in scenes]
        word, byte = tokenizers.encode(captions).tensors()
        ids = {name: tensor for name, tensor in (("word", word), ("byte", byte)) if tensor is not None}
        rows, tokens, labels = [], [], []
        for row, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
            for mention in mentions(scene, caption):
                at = {name: token_at(tokenizers, name, caption, mention.end) for name in ids}
                if all(place is not None and place < ids[name].shape[1] for name, place in at.items()):
                    rows.append(row)
                    tokens.append([at[name] for name in ids])
                    labels.append([values.index(mention.said[name]) for name, values in ATTRIBUTES.items()])
        places = torch.tensor(tokens)  # (M, encoders)
        return cls(ids, torch.tensor(rows), {name: places[:, i] for i, name in enumerate(ids)}, torch.tensor(labels))

    def batch(self, count: int, seed: int, step: int) -> Readings:
        """The mentions of `count` captions, which depend on (seed, step) alone; columns that none uses are left out."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        captions = len(next(iter(self.ids.values())))
        picked = torch.randperm(captions, generator=generator)[:count]
        new_row = torch.full((captions,), -1)
        new_row[picked] = torch.arange(len(picked))
        kept = new_row[self.row] >= 0
        ids = {name: tensor[picked] for name, tensor in self.ids.items()}
        ids = {name: tensor[:, : int((tensor != 0).sum(1).max())] for name, tensor in ids.items()}
        return Readings(ids, new_row[self.row[kept]], {n: t[kept] for n, t in self.token.items()}, self.labels[kept])


def token_at(tokenizers: Tokenizers, encoder: str, caption: str, end: int) -> int | None:
    """The token of an encoder that ends where a name ends, in characters of an ASCII caption."""
    if encoder == "byte":
        return end  # after the id that begins
    offsets = tokenizers.word.encode(caption).offsets
    return next((index for index, (start, stop) in enumerate(offsets) if stop == end and stop > start), None)


class Readers(nn.Module):
    """Linear heads (T to an attribute's values), the same for both encoders."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Scores of each attribute's values for tokens (M,T)."""
        return [head(tokens) for head in self.heads.values()]


def reading_loss(
    encode: Callable[[str, Tensor], tuple[Tensor, Tensor]], readers: Readers, batch: Readings
) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy over encoders and attributes, and each encoder's share of mentions read right in all."""
    losses, right = [], {}
    for name, ids in batch.ids.items():
        text, _ = encode(name, ids)  # (K,L,T)
        scores = readers(text[batch.row, batch.token[name]])  # A of (M, values)
        losses += [F.cross_entropy(score, label) for score, label in zip(scores, batch.labels.T, strict=True)]
        hits = torch.stack([score.argmax(1) == label for score, label in zip(scores, batch.labels.T, strict=True)])
        right[f"read_{name}"] = float(hits.all(0).float().mean())
    return torch.stack(losses).mean(), right
