"""What a stage's run folder holds, finished or still running: the weights a checkpoint is made of, settings, the log.

Only `state.safetensors` (replaced whole by a running stage) and `log.jsonl` are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import ElasticDiT, elastic_state
from edgegen.model.states import open_safetensors
from edgegen.model.text import TextConfig, TextEncoders
from edgegen.runs.run_state import newest
from edgegen.runs.shards import read_note, read_shards_, stored_sizes
from edgegen.train.stages.autoencoder import NormalisedAutoencoder

NOTHING = "no tensor begins so"  # as a prefix: read the step and the settings alone
TOKENIZER_FILES = ("word.json", "byte.json")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class StageState:
    """The tensors of a saved state, the number of steps done, and the settings that may not change on resuming."""

    tensors: dict[str, Tensor]
    step: int
    settings: dict[str, Any]


def read_state(run_dir: Path, prefix: str) -> StageState:
    """The tensors of a run's state whose names begin with `prefix`, without it."""
    path = newest(run_dir)
    if path is None:
        raise InputError(f"{run_dir} has no state.safetensors.", "Train this stage first: edgegen train --help.")
    if path.is_dir():  # of a run in several processes that is not finished
        note, sizes = read_note(path), stored_sizes(path)
        whole = {name: torch.zeros(size) for name, size in sizes.items() if name.startswith(prefix)}
        read_shards_(path, whole)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in whole.items()}
        return StageState(tensors, int(note["step"]), json.loads(note["settings"]))
    file = open_safetensors(path)
    metadata = file.metadata() or {}
    if "settings" not in metadata:
        raise InputError(f"{path} was not written by a training run.", "Give the folder of one.")
    tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
    return StageState(tensors, int(metadata["step"]), json.loads(metadata["settings"]))


def autoencoder_result(run_dir: Path) -> tuple[AutoencoderConfig, Autoencoder]:
    """The autoencoder, its latent's normalisation folded into the encoder."""
    state = read_state(run_dir, "module.")
    config = AutoencoderConfig(**state.settings["model"])
    module = NormalisedAutoencoder(config)
    module.load_state_dict(state.tensors)
    return config, module.fold(config)


def decoder_result(run_dir: Path) -> tuple[AutoencoderConfig, Decoder]:
    """The small decoder, and the autoencoder's configuration with it in place."""
    state = read_state(run_dir, "module.")
    config = AutoencoderConfig(**state.settings["model"])
    decoder = Decoder(config)
    decoder.load_state_dict(state.tensors)
    return config, decoder.eval()


def text_result(run_dir: Path) -> tuple[TextConfig, TextEncoders, dict[str, bytes]]:
    """The text encoders without the heads they were distilled with, and the tokenizer files by name."""
    state = read_state(run_dir, "module.encoders.")
    config = TextConfig(**state.settings["model"])
    encoders = TextEncoders(config)
    encoders.load_state_dict(state.tensors)
    paths = [run_dir / "tokenizer" / name for name in TOKENIZER_FILES]
    return config, encoders.eval(), {path.name: path.read_bytes() for path in paths if path.is_file()}


def elastic_result(run_dir: Path) -> tuple[DiTConfig, dict[str, Tensor]]:
    """The supernet's moving average by checkpoint name."""
    state = read_state(run_dir, "module.average.")
    config = DiTConfig.from_dict(state.settings["model"])
    model = ElasticDiT(config)
    model.load_state_dict(state.tensors)
    return config, elastic_state(model)


@torch.no_grad()
def as_shipped_(module: Module) -> Module:
    """Rounds every weight to fp16, as a checkpoint stores it, so that later stages see what users get."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.copy_(tensor.half())
    return module


def read_log(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run's log.jsonl as if it had never been killed: steps done again replace the first try."""
    path = run_dir / "log.jsonl"
    rows: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # half written when the run was killed
        same_step = [earlier for earlier in rows if earlier["step"] == row["step"]]
        again = any(row.keys() & earlier.keys() - {"step", "time"} for earlier in same_step)
        if again or rows and row["step"] < rows[-1]["step"]:
            rows = [earlier for earlier in rows if earlier["step"] < row["step"]]
        rows.append(row)
    return rows
