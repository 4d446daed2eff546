"""Several low-rank adapters on one frozen transformer, made and run by peft: arXiv 2601.08303 section 5.

Student, critic and few-step teacher share the base's memory; without an adapter the base itself is the teacher.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.adapters import target_layers
from edgegen.model.dit import DiT

TARGETS = ("attn.q", "attn.k", "attn.v", "attn.o", "cross.q", "cross.k", "cross.v", "cross.o", "ffn.up", "ffn.down")
BASE = "base"  # as the name of an adapter: none


@dataclass(frozen=True)
class LoraConfig:
    """Rank and scale of the adapters, and the ends of the names of the layers that get them; the paper's defaults."""

    rank: int = 64
    alpha: float = 128.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if not 1 <= self.rank <= 4096:
            raise InputError(f"rank is {self.rank}; it must lie between 1 and 4096.")
        if not 0 < self.alpha < 1e6:
            raise InputError(f"alpha is {self.alpha}; it must be above 0.")
        if not self.targets:
            raise InputError("targets is empty; no layer would learn.", "Name some, such as attn.q.")


class AdaptedDiT:
    """A frozen plain transformer with named adapters, of which one, or none (`BASE`), acts in a forward pass.

    No nn.Module on purpose: a run saves the adapters, never the base.
    """

    def __init__(self, base: DiT, config: LoraConfig, names: Sequence[str], seed: int = 0):
        peft = import_peft()
        self.config, self.names = config, tuple(names)
        self.layer_names = target_layers(base, config.targets)
        self.model = base.requires_grad_(False).eval()
        lora = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=self.layer_names)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what we want
            for name in names:
                peft.inject_adapter_in_model(lora, self.model, name)
        self.layers: dict[str, Any] = {name: self.model.get_submodule(name) for name in self.layer_names}
        for name in names:
            init_(self.parameters(name), seed)
        self.features: Tensor | None = None
        self.model.final.register_forward_pre_hook(self._keep_features)
        self.activate_(BASE)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The factors of an adapter: `layer.lora_a` (r, in), `layer.lora_b` (out, r), without alpha / r."""
        found: dict[str, nn.Parameter] = {}
        for layer, module in self.layers.items():
            found |= {f"{layer}.lora_a": module.lora_A[name].weight, f"{layer}.lora_b": module.lora_B[name].weight}
        return found

    def activate_(self, name: str) -> None:
        """Lets one adapter act, or none, and leaves all trainable.

        peft freezes what it deactivates, and a frozen parameter drops the gradient of a graph made before.
        """
        for module in self.layers.values():
            module.set_adapter([name])
            module.set_requires_grad(self.names, True)

    def __call__(self, name: str, *inputs: Tensor | None) -> Tensor:
        """The velocity of the model with an adapter, inputs as `DiT.forward`."""
        self.activate_(name)
        return self.model(*inputs)

    def with_features(self, name: str, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """The velocity, and the features (B, N, D) that the last layer gives the output projection."""
        velocity = self(name, *inputs)
        assert self.features is not None
        return velocity, self.features


def import_peft() -> Any:
    """The adapter library, which is not needed to run a model; its absence is one line."""
    try:
        import peft
    except ImportError as error:
        raise InputError(
            f"few-step distillation needs peft, which cannot be imported ({error}).", "pip install 'edgegen[train]'."
        ) from None
    return peft


@torch.no_grad()
def init_(parameters: Mapping[str, Tensor], seed: int) -> None:
    """B zero, so that an adapter starts as none; A normal by fan-in, a function of the seed and the layer's name."""
    for name, parameter in parameters.items():
        if name.endswith("lora_b"):
            parameter.zero_()
            continue
        mixed = hashlib.sha256(f"{seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:4], "little"))
        parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)


def checkpoint_adapters(parameters: Mapping[str, Tensor], config: LoraConfig, width: float) -> dict[str, Tensor]:
    """An adapter under its names in a checkpoint, alpha / r folded into B."""
    scale = config.alpha / config.rank
    return {
        f"{name}@{width}": (tensor * scale if name.endswith("lora_b") else tensor).detach().clone()
        for name, tensor in parameters.items()
    }
