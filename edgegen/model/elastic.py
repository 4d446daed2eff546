"""One set of weights, several widths: slicing a full model into narrower plain ones, arXiv 2601.08303 section 4.

Projections are shared and sliced along the hidden dimension; norms and everything that makes modulation belong to one
width alone. A shared weight keeps its name; the own parameters of a sub-width are stored as `name@width`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgegen.errors import InputError
from edgegen.meter import give_back
from edgegen.model.adapters import merge_adapters_, without_adapters
from edgegen.model.config import DiTConfig
from edgegen.model.dit import DiT, init_

# Axes made of several concatenated parts, each of which is sliced: a plain prefix would keep only the first.
CONCATENATED = {"skip.weight": (1, 2)}  # suffix of the name: (axis, parts)


def is_own(name: str) -> bool:
    """Whether a parameter belongs to one width: norms, modulation and its tables."""
    return any(part in ("modulation", "table") or part.startswith("norm") for part in name.split("."))


def parts_of(name: str, axis: int) -> int:
    """How many concatenated parts an axis of a parameter has."""
    last_two = ".".join(name.split(".")[-2:])
    at, parts = CONCATENATED.get(last_two, (None, 1))
    return parts if at == axis else 1


def slice_parameter(name: str, full: Tensor, shape: torch.Size) -> Tensor:
    """The part of a full-width parameter that a narrower model of the given shape uses; differentiable."""
    for axis, size in enumerate(shape):
        if full.shape[axis] == size:
            continue
        parts = parts_of(name, axis)
        if parts == 1:
            full = full.narrow(axis, 0, size)
        else:
            full = torch.cat([p.narrow(axis, 0, size // parts) for p in full.chunk(parts, axis)], axis)
    return full


GIVE_BACK_AFTER = 2**29  # bytes read, of which most may be freed again


def compact(part: Tensor) -> Tensor:
    """A tensor that holds no more memory than it has elements: a slice would keep the whole it was taken from."""
    part = part.contiguous()
    return part if part.untyped_storage().nbytes() <= part.nbytes else part.clone()


def skeleton(config: DiTConfig) -> DiT:
    """A model of the right shapes without memory for its weights."""
    with torch.device("meta"):
        return DiT(config)


class ElasticDiT(nn.Module):
    """A supernet: `full` is the plain model of width 1, `own` holds the norms and modulation of each sub-width.

    forward takes a width before the inputs of `DiT.forward` and equals `materialize(self, width)` on the same inputs.
    """

    def __init__(self, config: DiTConfig, seed: int = 0):
        super().__init__()
        if 1.0 not in config.widths:
            raise InputError(f"widths {list(config.widths)} lack 1.0, the full model.", "Add 1.0 to the widths.")
        self.config = config
        self.full = init_(DiT(config.at(1.0)), seed)
        self.own = nn.ModuleDict()
        self._skeletons = {w: skeleton(config.at(w)) for w in self.sub_widths}  # a plain dict: no parameters of ours
        full = dict(self.full.named_parameters())
        for width in self.sub_widths:
            own = {
                key(n): nn.Parameter(slice_parameter(n, full[n], shape).detach().clone())
                for n, shape in self.shapes_at(width).items()
                if is_own(n)
            }
            self.own[key(str(width))] = nn.ParameterDict(own)

    @property
    def sub_widths(self) -> tuple[float, ...]:
        return tuple(w for w in self.config.widths if w != 1.0)

    def shapes_at(self, width: float) -> dict[str, torch.Size]:
        """Name to shape of every parameter of a sub-width's plain model."""
        return {n: p.shape for n, p in self._skeletons[width].named_parameters()}

    def parameters_at(self, width: float) -> dict[str, Tensor]:
        """Name to tensor of the plain model at a width: views of shared weights, and the width's own parameters."""
        full = dict(self.full.named_parameters())
        if width == 1.0:
            return full
        self.config.at(width)  # refuses an unknown width
        own = self.own[key(str(width))]
        return {
            n: own[key(n)] if is_own(n) else slice_parameter(n, full[n], shape)
            for n, shape in self.shapes_at(width).items()
        }

    def forward(self, width: float, *inputs: Tensor | None) -> Tensor:
        if width == 1.0:
            return self.full(*inputs)
        return functional_call(self._skeletons[width], self.parameters_at(width), inputs)


def key(name: str) -> str:
    """A parameter's name as a key that torch allows: without dots."""
    return name.replace(".", "/")


def materialize(model: ElasticDiT, width: float) -> DiT:
    """The plain model of one width, with weights of its own: `materialize(m, w)(x) == m(w, x)`, to the bit."""
    plain = skeleton(model.config.at(width))
    weights = {n: p.detach().contiguous().clone() for n, p in model.parameters_at(width).items()}
    plain.load_state_dict(weights, assign=True)
    return plain.eval()


def elastic_state(model: ElasticDiT) -> dict[str, Tensor]:
    """Every parameter under its checkpoint name: `down.0.attn.q.weight`, `down.0.attn.norm_q.weight@0.375`."""
    state = {n: p.detach() for n, p in model.full.named_parameters()}
    for width in model.sub_widths:
        own = model.own[key(str(width))]
        state |= {f"{n.replace('/', '.')}@{width}": p.detach() for n, p in own.items()}
    return state


def materialize_state(
    state: Mapping[str, Tensor], config: DiTConfig, width: float, adapters: bool = True
) -> dict[str, Tensor]:
    """The state of one width's plain model, taken from a checkpoint's state; missing names are an error.

    The width's low-rank adapters, where the state has some, are added to the weights unless `adapters` is False.
    """
    plain, picked, missing, read = skeleton(config.at(width)), {}, [], 0
    for name, parameter in plain.named_parameters():
        source = f"{name}@{width}" if width != 1.0 and is_own(name) else name
        if source not in state:
            missing.append(source)
            continue
        whole = state[source]
        picked[name], read = compact(slice_parameter(name, whole, parameter.shape)), read + whole.nbytes
        if read > GIVE_BACK_AFTER:
            give_back()
            read = 0
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise InputError(
            f"the checkpoint lacks {', '.join(missing[:4])}{more} for width {width}.",
            "Use a checkpoint trained at this width, or a tier of another width.",
        )
    if adapters:
        merge_adapters_(picked, state, width)
    return picked


def load_elastic_(model: ElasticDiT, state: Mapping[str, Tensor]) -> None:
    """Fills a supernet from its checkpoint state; adapters, which are no part of it, are left out."""
    own = elastic_state(model)
    state = {name: state[name] for name in without_adapters(state)}
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        raise InputError(
            f"the checkpoint does not fit: missing {missing[:4]}, unexpected {unexpected[:4]}.",
            "Use the configuration it was trained with.",
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise InputError(f"{name} is {tuple(state[name].shape)}, the model needs {tuple(tensor.shape)}.")
        tensor.copy_(state[name])
