"""In what a float16 program adds: sums of small numbers that float16 accumulation would lose, by both evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.emit import coreai, coreml
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.runtime.coreai import open_coreai
from edgegen.runtime.coreml import CoreMLProgram

TERMS = 4096  # ones: float16 stops at 2048, where the next number is 2050


class Sums(nn.Module):
    """x (1, C, 1, S): the sum over C by a 1x1 convolution, over S by a product, and the mean over S."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, TERMS, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = x.reshape(1, 1, 1, TERMS)
        return torch.conv2d(x, self.weight), row @ row.transpose(2, 3), row.mean(3, keepdim=True)


def sums(folder: Path) -> dict[str, dict[str, float]]:
    """What each evaluator gives for the convolution and the product (4096 is right) and for the mean (1 is right)."""
    outputs = tuple(TensorSpec(name, (1, 1, 1, 1)) for name in ("convolution", "product", "mean"))
    component = Component("sums", Sums(), (TensorSpec("x", (1, TERMS, 1, 1)),), outputs, "split")
    coreai.write(component, folder / "sums.aimodel", precision="float16")
    coreml.write(component, folder / "sums.mlpackage")
    feed = {"x": np.ones((1, TERMS, 1, 1), np.float16)}
    runs = {
        "core_ai_runtime": open_coreai(folder / "sums.aimodel"),
        "core_ml_evaluator": CoreMLProgram.load(folder / "sums.mlpackage").run,
    }
    return {kind: {name: float(value.item()) for name, value in run(feed).items()} for kind, run in runs.items()}
