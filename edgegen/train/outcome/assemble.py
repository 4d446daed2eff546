"""Put the stages' results together into a checkpoint folder, at any time of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.adapters import without_adapters
from edgegen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.train.outcome.card import model_card, saved_recipe, total_bytes
from edgegen.train.outcome.own_card import own_card
from edgegen.train.recipe import Assembly
from edgegen.train.stages.frozen import encoders_of, load_frozen
from edgegen.train.stages.kdmd_run import kdmd_results
from edgegen.train.stages.results import decoder_result, elastic_result

CARD = "MODEL_CARD.md"
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
    config, states, tokenizer_files = collect(runs_dir, assembly)
    size = total_bytes(states)
    if size > assembly.limit_mb * 1e6:
        raise InputError(
            f"the weights take {size / 1e6:.1f} MB, the limit is {assembly.limit_mb:g} MB.",
            "Train a smaller model, or raise limit_mb in a recipe of your own.",
        )
    data = saved_recipe(runs_dir / "elastic").get("data", {})
    card = (
        own_card(config, states, runs_dir, data, assembly.note)
        if data.get("path")
        else model_card(config, states, runs_dir, assembly.note)
    )
    save_checkpoint(out, config, states, tokenizer_files, overwrite)
    return written(out, card + adapters_note(config))


def written(out: Path, card: str) -> Assembled:
    """Adds the card to a checkpoint that was saved, and lists its files."""
    (out / CARD).write_text(card, encoding="utf-8")
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return Assembled(str(out), {str(path.relative_to(out)): path.stat().st_size for path in files})


Collected = tuple[CheckpointConfig, dict[str, dict[str, Tensor]], dict[str, bytes]]


def collect(runs_dir: Path, assembly: Assembly) -> Collected:
    """What `collect_base` gives, with the few-step adapters of the widths that have a run."""
    config, states, tokenizer_files = collect_base(runs_dir, assembly)
    found = kdmd_results(runs_dir / "kdmd", config.transformer.widths)
    if found is None:
        return config, states, tokenizer_files
    found.check_base(in_memory(config, states, tokenizer_files))
    states["transformer"] = states["transformer"] | found.factors
    return replace(config, adapters=found.config, sampler=found.sampler), states, tokenizer_files


def in_memory(config: CheckpointConfig, states: dict[str, dict[str, Tensor]], files: dict[str, bytes]) -> Checkpoint:
    """The checkpoint as it would be read back, in fp16."""
    rounded = {
        part: {name: tensor.detach().half().float() for name, tensor in state.items()} for part, state in states.items()
    }
    return Checkpoint(config, rounded, files, {"kind": "runs", "name": config.name})


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
    save_checkpoint(out, config, states, checkpoint.tokenizer_files, overwrite)
    return written(out, card.partition(FEW_STEPS)[0] + adapters_note(config))


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


def collect_base(runs_dir: Path, assembly: Assembly) -> Collected:
    """The configuration, the weights of each part by name, and the tokenizer files; a small decoder if there is one."""
    transformer_config, transformer = elastic_result(runs_dir / "elastic")
    frozen = load_frozen(runs_dir, encoders_of(runs_dir / "elastic"))
    picture_config, decoder = frozen.autoencoder_config, frozen.autoencoder.decoder
    if (runs_dir / "decoder" / "state.safetensors").is_file():
        picture_config, decoder = decoder_result(runs_dir / "decoder")
    config = CheckpointConfig(
        assembly.name, transformer_config, frozen.text_config, picture_config, assembly.sampler, assembly.prompts
    )
    states = {
        "transformer": transformer,
        "text_encoder": frozen.text.state_dict(),
        "decoder": decoder.state_dict(),
        "encoder": frozen.autoencoder.encoder.state_dict(),
    }
    return config, states, frozen.tokenizer_files
