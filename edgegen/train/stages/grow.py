"""Begin a run with weights that are there: those of a checkpoint or of a run, or a wider model grown from a narrow one.

Growing keeps the function as Net2Net does (Chen et al., arXiv 1511.05641): the wide model's residual stream carries
every channel of the narrow one several times, which leaves every norm as it was, but only the first copy is read; new
heads and new feed-forward units read the stream and do not write to it yet. A prefix slice of the grown model is the
narrow one. Only cross-attention with several key heads is not quite kept: which of them a query head reads follows from
the number of heads, so some read another one than before. A new head that reads the right one does their work beside
them; training has to mend the rest.

Shapes: d channels of the narrow model, D = n d of the wide one, I channels that are not of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.config import DiTConfig
from edgegen.model.dit import DiT, init_
from edgegen.model.elastic import ElasticDiT, elastic_state, is_own, load_elastic_, materialize_state, parts_of
from edgegen.runs.run_state import STATE, saved_steps
from edgegen.train.stages.frozen import BUNDLED, open_source
from edgegen.train.stages.loop import ElasticTraining
from edgegen.train.stages.results import elastic_result

WRITERS = ("patch", "o", "down", "skip", "proj")  # modules whose rows are channels of the stream; not final.proj
READERS = ("q", "k", "v", "gate", "up", "skip", "proj")  # whose columns are


def open_start(config: DiTConfig, training: ElasticTraining, run_dir: Path) -> Mapping[str, Tensor] | None:
    """The weights by checkpoint name that a new run begins with; None for a resumed run and for one from nothing."""
    if not training.start or saved_steps(run_dir):
        return None
    theirs, state = read_start(training.start)
    if not training.start_width:
        check_same(training.start, theirs, config)
        return state
    narrow = theirs.at(training.start_width)
    own_of = {
        theirs.at(width).hidden: own_parameters(theirs, state, width)
        for width in theirs.widths
        if width < training.start_width
    }
    plain = materialize_state(state, theirs, training.start_width, adapters=False)
    return widen(narrow, plain, config, training.seed, own_of)


def own_parameters(config: DiTConfig, state: Mapping[str, Tensor], width: float) -> dict[str, Tensor]:
    """The norms and modulation of one width, by their plain names."""
    plain = materialize_state(state, config, width, adapters=False)
    return {name: tensor for name, tensor in plain.items() if is_own(name)}


def read_start(source: str) -> tuple[DiTConfig, Mapping[str, Tensor]]:
    """Configuration and weights of a checkpoint's folder, of an elastic run's, or of the bundled checkpoint."""
    if source != BUNDLED and (Path(source) / STATE).is_file():
        return elastic_result(Path(source))
    checkpoint = open_source(source)
    return checkpoint.config.transformer, checkpoint.states["transformer"]


def check_same(source: str, theirs: DiTConfig, ours: DiTConfig) -> None:
    """Refuses weights of another configuration."""
    differing = [name for name, value in ours.to_dict().items() if theirs.to_dict()[name] != value]
    if differing:
        raise InputError(
            f"{source} was trained with another {', '.join(differing)}.",
            "Use its configuration, or grow from one of its widths with --set start_width=WIDTH.",
        )


def widen(
    narrow: DiTConfig,
    state: Mapping[str, Tensor],
    wide: DiTConfig,
    seed: int,
    own_of: Mapping[int, Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """The supernet `wide` by checkpoint name, grown from the weights of the plain model `narrow`.

    The width of d channels is `narrow`; the full one computes the same where cross-attention has one key head. Narrower
    ones begin as slices, or as what they were: `own_of` gives the norms and modulation of slices of `narrow` by their
    channels. Raises InputError unless D is a multiple of d and everything else is the same.
    """
    check_growth(narrow, wide)
    supernet = ElasticDiT(wide, seed)
    fresh = init_(DiT(wide.at(1.0)), seed).state_dict()
    grown = {}
    for name, tensor in elastic_state(supernet).items():
        plain, _, width = name.partition("@")
        hidden = wide.at(float(width)).hidden if width else wide.hidden
        if is_own(plain):
            grown[name] = (
                own_of[hidden][plain].clone()
                if own_of and hidden in own_of
                else widen_own(plain, state[plain], narrow.hidden, hidden)
            )
        else:
            grown[name] = widen_shared(plain, state[plain], fresh[plain])
            if ".cross." in name:
                for old, new in moved_heads(narrow, wide):
                    copy_head_(name, grown[name], old, new, narrow.head_dim)
        assert grown[name].shape == tensor.shape, name
    with torch.no_grad():
        load_elastic_(supernet, grown)  # refuses what does not fit
    return grown


def check_growth(narrow: DiTConfig, wide: DiTConfig) -> None:
    """Refuses what cannot grow."""
    skipped = {"hidden": 0, "widths": 0}
    ours, theirs = wide.to_dict() | skipped, narrow.to_dict() | skipped
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing or wide.hidden % narrow.hidden:
        other = f" with another {', '.join(differing)}" if differing else ""
        raise InputError(
            f"a model of {wide.hidden} channels cannot grow from one of {narrow.hidden}{other}.",
            "It needs a whole multiple of the channels and the same of everything else.",
        )


def widen_shared(name: str, narrow: Tensor, fresh: Tensor) -> Tensor:
    """A shared weight grown to the shape of `fresh`, its initial value: `narrow` is its prefix."""
    if narrow.shape == fresh.shape:
        return narrow.clone()
    module = name.split(".")[-2]
    writes, reads = module in WRITERS and not name.startswith("final"), module in READERS
    rows, columns = narrow.shape[0], narrow.shape[1] if narrow.ndim > 1 else 0
    grown = fresh.clone()
    if narrow.ndim == 2 and (writes or reads):
        grown[:rows] = widened_rows(narrow, fresh.shape[1], parts_of(name, 1))
    elif narrow.ndim > 1:
        grown[:rows, :columns] = narrow  # compressions, whose groups are heads
    else:
        grown[:rows] = narrow
    if writes:  # every copy of a channel is written alike
        grown = grown[torch.arange(len(grown)) % rows]
    return grown


def moved_heads(narrow: DiTConfig, wide: DiTConfig) -> list[tuple[int, int]]:
    """Pairs (head of the narrow model, new head of the wide one that reads the same key head of cross-attention)."""
    few, many = narrow.heads // narrow.cross_kv_heads, wide.heads // wide.cross_kv_heads  # that read one key head
    pairs = [(head, head // few * many + head % few) for head in range(narrow.heads)]
    return [(old, new) for old, new in pairs if new >= narrow.heads]


def copy_head_(name: str, weight: Tensor, old: int, new: int, size: int) -> None:
    """Gives a new head of cross-attention the queries and the output of an old one; `size` channels a head."""
    source, target = slice(old * size, (old + 1) * size), slice(new * size, (new + 1) * size)
    if ".cross.q." in name:
        weight[target] = weight[source]
    elif name.endswith(".cross.o.weight"):
        weight[:, target] = weight[:, source]


def widened_rows(narrow: Tensor, size: int, parts: int) -> Tensor:
    """Rows (R, d) as (R, D) that do not read what was added; in `parts` concatenated inputs."""
    wide = narrow.new_zeros(len(narrow), parts, size // parts)
    wide[..., : narrow.shape[1] // parts] = narrow.unflatten(1, (parts, -1))
    return wide.flatten(1)


def widen_own(name: str, narrow: Tensor, channels: int, hidden: int) -> Tensor:
    """A norm's or the modulation's parameter of a width of `hidden` channels, from that of `channels` ones."""
    at = torch.arange(hidden) % channels  # the channel that each one begins as
    if name.endswith("table"):  # (6 or 2, d)
        return narrow[:, at]
    if not name.startswith("modulation"):
        return narrow[at] if len(narrow) == channels and "norm_cross" in name else narrow.clone()
    groups = len(narrow) // channels  # 6 in modulation.out
    rows = narrow.unflatten(0, (groups, channels))[:, at].flatten(0, 1)
    reads_channels = name in ("modulation.hidden.weight", "modulation.out.weight")
    return widened_rows(rows[:, :hidden], hidden, 1) if reads_channels else rows
