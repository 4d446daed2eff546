"""Put the stages' results together into a checkpoint folder, at any time of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.checkpoint import save_checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.train.card import model_card, saved_recipe, total_bytes
from edgegen.train.frozen import encoders_of, load_frozen
from edgegen.train.kdmd_run import kdmd_results
from edgegen.train.own_card import own_card
from edgegen.train.recipe import Assembly
from edgegen.train.results import decoder_result, elastic_result

CARD = "MODEL_CARD.md"


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
        raise InputError(f"the weights take {size / 1e6:.1f} MB, the limit is {assembly.limit_mb:g} MB.",
                         "Train a smaller model, or raise limit_mb in a recipe of your own.")
    data = saved_recipe(runs_dir / "elastic").get("data", {})
    card = (own_card(config, states, runs_dir, data, assembly.note) if data.get("path") else
            model_card(config, states, runs_dir, assembly.note))
    save_checkpoint(out, config, states, tokenizer_files, overwrite)
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
    adapters, factors = found
    states["transformer"] |= factors
    return replace(config, adapters=adapters), states, tokenizer_files


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
