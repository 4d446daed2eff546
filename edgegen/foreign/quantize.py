"""`edgegen quantize` of another project's network: the same folder, its transformer's weights what palettes give.

The folder stays one that diffusers loads. `palettes/` beside the weights holds tables and indices by parameter name,
which an export writes as they are.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from edgegen.callbacks import Advance
from edgegen.errors import InputError
from edgegen.files import write_json
from edgegen.folders import new_folder
from edgegen.foreign.export import MAIN
from edgegen.foreign.folder import weight_files
from edgegen.foreign.palettes import palettize_recorded
from edgegen.foreign.recording import record
from edgegen.foreign.source import Source
from edgegen.foreign.sources import Size, open_sources
from edgegen.foreign.stored_palettes import FOLDER, PLAN, TABLES
from edgegen.foreign.streamed import Stored
from edgegen.foreign.tuning import Points, tune_module_
from edgegen.quantize.palette import Palette
from edgegen.quantize.tune import Tuning

REPORT = "report.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD = 2 * 2**30  # bytes of a file of weights
HALF = 2  # bytes of a weight that is not palettized, as Core ML stores it


def quantize_folder(
    folder: Path,
    out: Path,
    bits: float,
    candidates: Sequence[int],
    size: Size,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
    tuning: Tuning | None = None,
    advance: Advance = lambda done, of: None,
) -> dict[str, Any]:
    """Writes the quantized folder whole or not at all; returns its report: bits, bytes, the plan, PSNR in dB.

    size: of the example inputs that sensitivity is measured on. tuning: of biases, norms and tables after that.
    """
    start = time.perf_counter()
    whole = open_sources(folder, size, [MAIN] if (folder / MAIN).is_dir() else [])
    (source,) = whole.sources
    if source.palettes:
        raise InputError(f"{folder} is already quantized.", "Give the folder it was made of.")
    if len(source.stored) and tuning is not None and tuning.steps:
        raise InputError(
            f"the {source.name} is too large to be held in fp32, which tuning needs.", "Leave --tune-steps out."
        )
    report(f"recording the {source.name}")
    recorded = record(source)
    report("measuring sensitivity and clustering")
    made = palettize_recorded(recorded, bits, candidates, advance)
    inside = Path(source.name) if (folder / source.name).is_dir() else Path()
    told = made.to_dict() | sizes(source.module, made.weights) | {"network": source.name}
    told["tuned"] = settle_(source, made.weights, tuning, report, advance)
    report("writing")
    with new_folder(out, REPORT, overwrite) as root:
        copy_rest(folder, root, weight_files(folder / inside))
        write_shards(source.module, made.recorded.source.stored, root / inside)
        write_palettes(root / inside / FOLDER, made.weights)
        told["seconds"] = round(time.perf_counter() - start, 1)
        write_json(root / REPORT, told)
    return told


def settle_(
    source: Source,
    weights: Mapping[str, Palette],
    tuning: Tuning | None,
    report: Callable[[str], None],
    advance: Advance,
) -> dict[str, Any] | None:
    """Puts palettes into a network and, if asked, tunes the rest of it; what tuning did."""
    if tuning is None or not tuning.steps:
        apply_(source.module, {name: p for name, p in weights.items() if name not in source.stored})
        return None
    report("drawing what to tune on")
    points = Points.of(source, tuning.steps)
    apply_(source.module, weights)
    report("tuning")
    return tune_module_(source.module, points, weights, tuning, advance)


def write_shards(module: nn.Module, stored: Stored, folder: Path) -> None:
    """A network's weights in fp32, in files as diffusers shards them; those that are not in memory a file at a time."""
    state = module.state_dict()
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    shards = shards_of(sizes, SHARD)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        made = {
            name: stored.value(name).reshape(state[name].shape) if name in stored else state[name] for name in names
        }
        file = shard_name(number, len(shards))
        save_file({name: tensor.contiguous() for name, tensor in made.items()}, folder / file)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = {"total_size": sum(sizes.values())}
        write_json(folder / f"{WEIGHTS}.index.json", {"metadata": total, "weight_map": places})


def shards_of(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, in files of at most `limit` bytes or of one tensor."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def shard_name(number: int, of: int) -> str:
    """As diffusers names the file of a shard, counted from 1."""
    stem, suffix = WEIGHTS.split(".")
    return WEIGHTS if of == 1 else f"{stem}-{number:05d}-of-{of:05d}.{suffix}"


def copy_rest(folder: Path, root: Path, replaced: Sequence[Path]) -> None:
    """Copies a folder but for the weights that are replaced and their index."""
    gone = {path.resolve() for path in replaced}
    gone |= {path.resolve() for weights in replaced for path in weights.parent.glob("*.index.json")}
    skip = lambda at, names: [n for n in names if (Path(at) / n).resolve() in gone or n.startswith(".")]  # noqa: E731
    shutil.copytree(folder, root, dirs_exist_ok=True, ignore=skip)


@torch.no_grad()
def apply_(module: nn.Module, weights: Mapping[str, Palette]) -> None:
    """Puts what palettes give into a network."""
    for name, palette in weights.items():
        parameter = module.get_parameter(name)
        parameter.copy_(palette.dense().reshape(parameter.shape))


def sizes(module: nn.Module, weights: Mapping[str, Palette]) -> dict[str, int]:
    """Bytes of the network in fp16 before, and with palettes after."""
    total = sum(p.numel() for p in module.parameters())
    inside = sum(module.get_parameter(name).numel() for name in weights)
    stored = sum(palette.nbytes for palette in weights.values())
    return {"bytes_float16": HALF * total, "bytes": HALF * (total - inside) + stored}


def write_palettes(folder: Path, weights: Mapping[str, Palette]) -> None:
    """Tables and indices, and how many bits each weight got."""
    folder.mkdir()
    tensors = {key: t.contiguous() for name, palette in weights.items() for key, t in palette.to_tensors(name).items()}
    save_file(tensors, folder / TABLES)
    write_json(folder / PLAN, {name: {"bits": p.bits, "shape": list(p.shape)} for name, p in weights.items()})
