"""The checkpoint that the runs of a folder make, in memory."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from edgegen.model.checkpoint import Checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.train.run.recipe import Assembly, load_assembly
from edgegen.train.stages.frozen import encoders_of, load_frozen
from edgegen.train.stages.results import decoder_result, elastic_result

Collected = tuple[CheckpointConfig, dict[str, dict[str, Tensor]], dict[str, bytes]]


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


def in_memory(config: CheckpointConfig, states: dict[str, dict[str, Tensor]], files: dict[str, bytes]) -> Checkpoint:
    """The checkpoint as it would be read back, in fp16."""
    rounded = {
        part: {name: tensor.detach().half().float() for name, tensor in state.items()} for part, state in states.items()
    }
    return Checkpoint(config, rounded, files, {"kind": "runs", "name": config.name})


def checkpoint_of_runs(runs_dir: Path) -> Checkpoint:
    """The checkpoint that `edgegen train assemble` would write now, in memory and without adapters."""
    return in_memory(*collect_base(runs_dir, load_assembly()))
