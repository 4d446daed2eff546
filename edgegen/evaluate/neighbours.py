"""Precision and recall of drawn pictures by nearest neighbours of their features.

Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", arXiv 1904.06991.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgegen.evaluate.checks import check_same_width, check_samples

NEIGHBOURS = 3  # as in the paper


def precision_recall(real: Tensor, drawn: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision, the share of drawn samples (M,D) on the real set's manifold, and recall, the converse.

    A set's manifold is the union of balls around its samples that reach to their k-th neighbour in the set.
    """
    check_same_width(real, drawn)
    for name, samples in (("real", real), ("drawn", drawn)):
        check_samples(name, samples, neighbours + 1, f"a manifold of {neighbours} neighbours")
    return share_on_manifold(drawn, real, neighbours), share_on_manifold(real, drawn, neighbours)


def share_on_manifold(samples: Tensor, of: Tensor, neighbours: int) -> float:
    """The share of samples (M,D) that lie in some ball of a set (N,D)."""
    of, samples = of.double(), samples.double()
    within = torch.cdist(of, of, compute_mode="donot_use_mm_for_euclid_dist")  # (N,N)
    radii = within.fill_diagonal_(torch.inf).kthvalue(neighbours, dim=1).values  # (N,)
    distances = torch.cdist(samples, of, compute_mode="donot_use_mm_for_euclid_dist")  # (M,N)
    return float((distances <= radii).any(1).double().mean())
