"""Which weights become palettes: those of linear layers and convolutions that are large enough to repay one.

Biases, norms, modulation tables and embeddings stay fp16: together they are a hundredth of a model, and they are what
tuning moves afterwards.
"""

from __future__ import annotations

from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
LEAST = 2048  # elements: below, an 8-bit palette takes more than a bit an element, and Core ML Tools stop there too


def quantizable(model: nn.Module, least: int = LEAST) -> dict[str, Tensor]:
    """Name (`down.0.attn.q.weight`) to weight of every layer to palettize, in the model's order; `least` elements."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS) and layer.weight.numel() >= least:
            found[f"{name}.weight" if name else "weight"] = layer.weight.detach()
    return found
