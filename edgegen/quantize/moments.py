"""What reaches a layer, as far as the error of its output depends on it: the second moment of its inputs.

With inputs x and a change D of the weight, the mean squared change of the output is tr(D E[x x'] D') an output. A layer
too wide for the (in, in) matrix keeps a sample of its inputs instead. Convolutions are unfolded, a group apart.

Shapes: G groups, I inputs of a group (channels times kernel), O outputs of a group, R rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE = 1024  # rows kept of a layer with more inputs than that
EMPTY = 2.0  # the key of no row: others lie in [0, 1)


def unfold(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of a linear layer or convolution as rows (G, R, I)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # (B, G*I, places)
    return columns.transpose(1, 2).reshape(-1, layer.groups, columns.shape[1] // layer.groups).transpose(0, 1)


def matrices(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight (or a change of it) as (G, O, I)."""
    return weight.reshape(getattr(layer, "groups", 1), -1, weight[0].numel())


class Moments:
    """The second moment of one layer's inputs, added to batch by batch."""

    def __init__(self, layer: nn.Module, seed: int = 0):
        self.layer, self.count = layer, 0
        groups = getattr(layer, "groups", 1)
        size = layer.get_parameter("weight")[0].numel()
        self.sampled = size > SAMPLE
        self.table = torch.zeros(groups, SAMPLE if self.sampled else size, size)  # rows, or sum of x x'
        self.keys = torch.full((SAMPLE,), EMPTY) if self.sampled else None
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def add(self, x: Tensor) -> None:
        """Takes the inputs of one call."""
        rows = unfold(self.layer, x.detach().float())  # (G, R, I)
        self.count += rows.shape[1]
        if self.keys is None:
            self.table += rows.transpose(1, 2) @ rows
            return
        drawn = torch.rand(rows.shape[1], generator=self.generator)
        keys = torch.cat([self.keys, drawn])  # the rows of the smallest keys so far are an even sample of all
        kept = keys.topk(SAMPLE, largest=False).indices
        kept = kept[keys[kept] < EMPTY].sort().values
        old, new = kept[kept < SAMPLE], kept[kept >= SAMPLE] - SAMPLE
        self.table[:, : kept.numel()] = torch.cat([self.table[:, old], rows[:, new]], 1)
        self.keys[: kept.numel()] = keys[kept]

    @property
    def rows(self) -> int:
        """Rows that the table stands for."""
        return min(self.count, SAMPLE) if self.sampled else self.count

    def output_power(self, weight: Tensor) -> float:
        """Mean square of the layer's output, without bias, for a weight or a change of it."""
        parts = matrices(self.layer, weight)  # (G, O, I)
        outputs = parts.shape[0] * parts.shape[1]
        if self.rows == 0:
            return 0.0
        if self.sampled:
            power = (self.table[:, : self.rows] @ parts.transpose(1, 2)).square().sum()
        else:
            power = ((parts @ self.table) * parts).sum()
        return max(0.0, float(power)) / self.rows / outputs

    def importance(self) -> Tensor:
        """Mean square of every input, in the weight's shape: the diagonal of the second moment."""
        if self.sampled:
            diagonal = self.table[:, : self.rows].square().sum(1)
        else:
            diagonal = self.table.diagonal(dim1=1, dim2=2)
        shape = self.layer.get_parameter("weight").shape
        each = (diagonal / max(self.rows, 1))[:, None].expand(-1, shape[0] // diagonal.shape[0], -1)  # (G, O, I)
        return each.reshape(shape)
