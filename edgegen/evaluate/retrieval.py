"""Caption retrieval: does a picture's own caption lie nearest to it among many?

A small head maps picture features to the sentence embeddings of captions; it is trained on real pictures.
Shapes: N pictures, D = 1280 features, E = 384 embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.evaluate.checks import check_samples

POOL = 200  # captions a picture chooses from
LEAST_STD = 1e-3  # some embeddings never vary in some dimensions


class RetrievalHead(nn.Module):
    """Features (N,D) to unit vectors (N,E) in the space that captions' embeddings are mapped to."""

    def __init__(self, inputs: int = 1280, embedding: int = 384, width: int = 512):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.register_buffer("text_mean", torch.zeros(embedding))
        self.hidden = nn.Linear(inputs, width)
        self.out = nn.Linear(width, embedding)
        self.words = nn.Linear(embedding, embedding)  # so that the words which pictures show weigh more than others
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        nn.init.eye_(self.words.weight)
        nn.init.zeros_(self.words.bias)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.hidden((features - self.mean) / self.std))  # (N,width)
        return F.normalize(self.out(F.dropout(hidden, 0.2, self.training)), dim=-1)

    def read(self, embeddings: Tensor) -> Tensor:
        """Captions' embeddings (N,E) in the common space, unit vectors."""
        return F.normalize(self.words(embeddings - self.text_mean), dim=-1)


@dataclass(frozen=True)
class HeadTraining:
    """How the head is trained."""

    steps: int = 1500
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0


def train_head(features: Tensor, embeddings: Tensor, training: HeadTraining = HeadTraining()) -> RetrievalHead:
    """A head of real pictures' features (N,D) and their captions' embeddings (N,E), in eval mode.

    The loss asks each picture for its caption among the batch's, and each caption for its picture (arXiv 2103.00020).
    """
    check_samples("real", features, 2, "a retrieval head")
    check_samples("caption", embeddings, 2, "a retrieval head")
    if len(features) != len(embeddings):
        raise InputError(f"{len(features)} pictures have {len(embeddings)} captions.", "Give one caption a picture.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        head = RetrievalHead(features.shape[1], embeddings.shape[1]).train()
        head.mean.copy_(features.mean(0))
        head.std.copy_(features.std(0).clamp_min(LEAST_STD))
        head.text_mean.copy_(embeddings.mean(0))
        optimizer = torch.optim.AdamW(head.parameters(), training.rate, weight_decay=training.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.rate, training.steps)
        for _ in range(training.steps):
            rows = torch.randperm(len(features))[: training.batch]
            loss = contrast(head(features[rows]), head.read(embeddings[rows]), head.log_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval().requires_grad_(False)


def contrast(pictures: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """The symmetric cross-entropy of pairs of unit vectors (N,E)."""
    scores = scale * pictures @ captions.T  # (N,N)
    own = torch.arange(len(scores))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def retrieval(pictures: Tensor, embeddings: Tensor, captions: Sequence[str], pool: int = POOL) -> dict[str, float]:
    """Recall at 1 and 5 of vectors (N,E) of pictures among captions' vectors (N,E), and the size of the pools.

    Pictures are taken in order in pools of at most `pool`, whose captions are all different; recall is over all.
    """
    check_samples("picture", pictures, 2, "caption retrieval")
    check_samples("caption", embeddings, 2, "caption retrieval")
    ranks, sizes = [], []
    for rows in pools(captions, pool):
        scores = pictures[rows] @ embeddings[rows].T  # (n,n)
        ranks.append((scores > scores.diagonal()[:, None]).sum(1))
        sizes += [len(rows)] * len(rows)
    rank, chance = torch.cat(ranks), sum(min(1.0, 1 / size) for size in sizes) / len(sizes)
    return {
        "recall_at_1": float((rank < 1).double().mean()),
        "recall_at_5": float((rank < 5).double().mean()),
        "chance_at_1": chance,
        "pool": max(sizes),
        "count": len(rank),
    }


def pools(captions: Sequence[str], size: int) -> list[list[int]]:
    """Rows in groups of at most `size` different captions, each row in one group; groups of one are left out."""
    groups: list[dict[str, int]] = []
    for row, caption in enumerate(captions):
        open_groups = (group for group in groups if len(group) < size and caption not in group)
        group = next(open_groups, None)
        if group is None:
            groups.append({caption: row})
        else:
            group[caption] = row
    return [list(group.values()) for group in groups if len(group) > 1]
