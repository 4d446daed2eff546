"""Put the stages' results together into a checkpoint folder, at any time of a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgegen.errors import InputError
from edgegen.model.adapters import without_adapters
from edgegen.model.checkpoint import load_checkpoint, save_checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.train.outcome.card import model_card, saved_recipe, total_bytes
from edgegen.train.outcome.own_card import own_card
from edgegen.train.run.collect import Collected, collect_base, in_memory
from edgegen.train.run.own_data import CACHE
from edgegen.train.run.recipe import Assembly, load_assembly
from edgegen.train.stages.kdmd_run import kdmd_results

CARD = "MODEL_CARD.md"
SAMPLES = 4  # prompts that verify a model and draw its samples
PROMPT = 200  # characters of one
FEW_STEPS = "\n## Few steps\n\n"


@dataclass(frozen=True)
class Assembled:
    """A checkpoint folder and the bytes of each of its files."""

    folder: str
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def assemble(runs_dir: Path, out: Path, assembly: Assembly, overwrite: bool = False) -> Assembled:
    """Writes the checkpoint and its model card; a running stage gives what it saved last."""
    data = saved_recipe(runs_dir / "elastic").get("data", {})
    if data.get("path"):
        assembly = named_by_user(assembly, out, caption_samples(runs_dir, data))
    config, states, tokenizer_files = collect(runs_dir, assembly)
    size = total_bytes(states)
    if size > assembly.limit_mb * 1e6:
        raise InputError(
            f"the weights take {size / 1e6:.1f} MB, the limit is {assembly.limit_mb:g} MB.",
            "Train a smaller model, or raise limit_mb in a recipe of your own.",
        )
    card = (
        own_card(config, states, runs_dir, data, assembly.note)
        if data.get("path")
        else model_card(config, states, runs_dir, assembly.note)
    )
    save_checkpoint(out, config, states, tokenizer_files, overwrite, {CARD: card + adapters_note(config)})
    return list_files(out)


def named_by_user(assembly: Assembly, out: Path, captions: tuple[str, ...]) -> Assembly:
    """What a model of the user's own pictures says of itself where nothing else was asked for: the name of its folder,
    and captions that it learnt from; not the bundled model's.
    """
    bundled = load_assembly()
    if assembly.name == bundled.name:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.absolute().name).strip("-._")[:64]
        assembly = replace(assembly, name=name or "model")
    if assembly.prompts == bundled.prompts and captions:
        assembly = replace(assembly, prompts=captions)
    return assembly


def caption_samples(runs_dir: Path, data: dict[str, Any]) -> tuple[str, ...]:
    """Captions of pictures all over the dataset, as its index lists them; none where there is no index."""
    folder = Path(data["cache"]) if data.get("cache") else runs_dir / CACHE
    found = sorted(folder.glob("index-*.jsonl"), key=lambda path: path.stat().st_mtime)
    found = [path for path in found if not path.name.endswith(".left_out.jsonl")]
    if not found:
        return ()
    with found[-1].open(encoding="utf-8") as file:
        captions = list(dict.fromkeys(json.loads(line)[3][0][:PROMPT] for line in list(file)[1:]))
    return tuple(captions[:: max(1, len(captions) // SAMPLES)][:SAMPLES])


def list_files(out: Path) -> Assembled:
    """The files of a checkpoint that was saved."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return Assembled(str(out), {str(path.relative_to(out)): path.stat().st_size for path in files})


def collect(runs_dir: Path, assembly: Assembly) -> Collected:
    """What `collect_base` gives, with the few-step adapters of the widths that have a run."""
    config, states, tokenizer_files = collect_base(runs_dir, assembly)
    found = kdmd_results(runs_dir / "kdmd", config.transformer.widths)
    if found is None:
        return config, states, tokenizer_files
    found.check_base(in_memory(config, states, tokenizer_files))
    states["transformer"] = states["transformer"] | found.factors
    return replace(config, adapters=found.config, sampler=found.sampler), states, tokenizer_files


def add_adapters(folder: Path, runs_dir: Path, out: Path, overwrite: bool = False) -> Assembled:
    """Writes a checkpoint anew with the adapters that were distilled from it, to be drawn in their few steps."""
    checkpoint = load_checkpoint(folder)
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else f"# {checkpoint.config.name}\n"
    found = kdmd_results(runs_dir / "kdmd", checkpoint.config.transformer.widths)
    if found is None:
        raise InputError(
            f"{runs_dir / 'kdmd'} has no distilled width of {checkpoint.config.name}.",
            "Distil it first: edgegen train kdmd --help.",
        )
    missing = [f"{width:g}" for width in checkpoint.config.transformer.widths if width not in found.config.widths]
    if missing:  # all widths share one sampler
        raise InputError(
            f"width {', '.join(missing)} of {checkpoint.config.name} is not distilled.",
            f"Distil it too: edgegen train kdmd --set width={missing[0]}.",
        )
    found.check_base(checkpoint)
    config = replace(checkpoint.config, adapters=found.config, sampler=found.sampler)
    base = checkpoint.states["transformer"]
    transformer = {name: base[name] for name in without_adapters(base)} | found.factors
    states = {part: dict(state) for part, state in checkpoint.states.items()} | {"transformer": transformer}
    card = card.partition(FEW_STEPS)[0] + adapters_note(config)
    save_checkpoint(out, config, states, checkpoint.tokenizer_files, overwrite, {CARD: card})
    return list_files(out)


def adapters_note(config: CheckpointConfig) -> str:
    """What a card says of adapters; nothing where there are none."""
    if config.adapters is None:
        return ""
    widths = ", ".join(f"{width:g}" for width in config.adapters.widths)
    return (
        f"{FEW_STEPS}Widths {widths} carry low-rank adapters (rank {config.adapters.rank}) distilled by "
        f"`edgegen train kdmd`: {config.sampler.steps} Euler steps at shift {config.sampler.shift:g}, without "
        "guidance.\n"
    )
