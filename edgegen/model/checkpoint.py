"""A checkpoint: a folder with everything a text-to-image model is, and the same made of random numbers.

config.json                 {format_version, name, transformer, text, autoencoder, sampler[, prompts]}
transformer.safetensors     the supernet's names (elastic.py): `x.y.weight`, and `x.y.weight@0.375` of its own;
                            maybe low-rank adapters of a width (adapters.py): `x.y.lora_a@0.375`;
                            of a quantized checkpoint, one width alone (quantization.py): `x.y.weight.palette`
text_encoder.safetensors    decoder.safetensors    [encoder.safetensors]
tokenizer/                  word.json and byte.json, either of which may be missing
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.files import file_digest, user_path, write_json
from edgegen.folders import new_folder
from edgegen.meter import give_back
from edgegen.model.autoencoder import Decoder, Encoder
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.dit import DiT
from edgegen.model.elastic import materialize_state, skeleton
from edgegen.model.quantization import QuantizedState
from edgegen.model.sampler import SamplerConfig
from edgegen.model.states import FileState, as_half, part_shapes, pickle_error
from edgegen.model.text import TextEncoders, Tokenizers, make_tokenizers
from edgegen.model.tokenizer_file import largest_id
from edgegen.strict_json import read_bytes, read_json

PARTS = ("transformer", "text_encoder", "decoder")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
BUNDLED = "emoji"


class Checkpoint:
    """Models of a checkpoint, made when asked; weights are fp32, models are in eval mode.

    `states` maps a part to its weights; `origin` says where they came from, for the manifest.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        states: Mapping[str, Mapping[str, Tensor]],
        tokenizer_files: Mapping[str, bytes],
        origin: dict[str, Any],
    ):
        self.config = config
        self.states = states
        self.tokenizer_files = tokenizer_files
        self.origin = origin

    @property
    def sampler(self) -> SamplerConfig:
        return self.config.sampler

    @property
    def is_random(self) -> bool:
        return self.origin["kind"] == "random"

    @property
    def folder(self) -> Path | None:
        """Where it lies; random weights lie nowhere."""
        if self.origin["kind"] == "bundled":
            return bundled_folder(self.origin["name"])
        return Path(self.origin["path"]) if "path" in self.origin else None

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor of a part."""
        return part_shapes(part, *shape_configs(self.config))

    def transformer(self, width: float, adapters: bool = True) -> DiT:
        """The plain transformer of one width, its adapters merged; an unknown width is an error.

        Without `adapters` it is the base they were trained on, which wants many steps. A quantized checkpoint has one
        width; its weights come dense, as their codes say.
        """
        if self.config.quantization is not None:
            self.check_width(width)
            return filled(skeleton(self.config.transformer.at(width)), self.states["transformer"])
        state = materialize_state(self.states["transformer"], self.config.transformer, width, adapters)
        made = filled(skeleton(self.config.transformer.at(width)), state)
        give_back()
        return made

    def check_width(self, width: float) -> None:
        """Refuses a width the checkpoint does not have."""
        self.config.transformer.at(width)
        stored = width if self.config.quantization is None else self.config.quantization.width
        if width != stored:
            raise InputError(
                f"checkpoint {self.config.name} was quantized at width {stored:g}; it has no {width:g}.",
                f"Use a tier of width {stored:g}, or quantize again with --width {width:g}.",
            )

    def text_encoders(self) -> TextEncoders:
        return filled(meta(TextEncoders, self.config.text), self.states["text_encoder"])

    def decoder(self) -> Decoder:
        return filled(meta(Decoder, self.config.autoencoder), self.states["decoder"])

    def encoder(self) -> Encoder:
        """The picture encoder, which a checkpoint need not have: training wants it, a phone does not."""
        if "encoder" not in self.states:
            raise InputError(f"checkpoint {self.config.name} has no encoder.safetensors.", "Use one that has.")
        return filled(meta(Encoder, self.config.autoencoder), self.states["encoder"])

    def tokenizers(self) -> Tokenizers:
        return make_tokenizers(self.tokenizer_files)


def shape_configs(config: CheckpointConfig) -> tuple[Any, ...]:
    """What `part_shapes` needs of a configuration."""
    return config.transformer, config.text, config.autoencoder, config.adapters


def meta(kind: type[nn.Module], config: Any) -> nn.Module:
    with torch.device("meta"):
        return kind(config)


def filled(module: Any, state: Mapping[str, Tensor]) -> Any:
    """A module made without memory, given its weights."""
    module.load_state_dict(dict(state), assign=True)
    return module.eval().requires_grad_(False)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Opens a checkpoint folder and checks all but the values of its weights, which are checked as they are read."""
    folder = user_path(folder)
    check_folder(folder)
    config = read_config(folder / "config.json")
    shapes = shape_configs(config)
    parts = [*PARTS, *(["encoder"] if (folder / "encoder.safetensors").is_file() else [])]
    states = {
        part: FileState(weights_path(folder, part), part_shapes(part, *shapes))
        for part in parts
        if part != "transformer" or config.quantization is None
    }
    if config.quantization is not None:
        path = weights_path(folder, "transformer")
        states["transformer"] = QuantizedState(path, config.transformer, config.quantization)
    named = [folder / "tokenizer" / f"{name}.json" for name in ("byte", "word")]
    files = {path.name: read_bytes(path) for path in named if path.exists()}
    check_tokenizers(config, files, folder / "tokenizer")
    return Checkpoint(config, states, files, origin_of(folder, config.name))


def check_folder(folder: Path) -> None:
    """Refuses what is not a folder, above all a pickle."""
    if folder.suffix.lower() in PICKLES and folder.is_file():
        raise pickle_error(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; a checkpoint is a folder.", "Give the folder with its config.json.")
    if not folder.is_dir():
        raise InputError(f"checkpoint folder {folder} does not exist.", "Give an existing folder with --checkpoint.")


def weights_path(folder: Path, part: str) -> Path:
    """The safetensors file of a part; a pickle in its place is refused."""
    path = folder / f"{part}.safetensors"
    if not path.exists():
        for pickle in sorted(folder.iterdir()):
            if pickle.suffix.lower() in PICKLES and (pickle.stem == part or not list(folder.glob("*.safetensors"))):
                raise pickle_error(pickle)
    return path


def read_config(path: Path) -> CheckpointConfig:
    """Reads config.json; every error names the file."""
    if not path.is_file():
        for pickle in sorted(path.parent.iterdir()):
            if pickle.suffix.lower() in PICKLES:
                raise pickle_error(pickle)
        raise InputError(f"{path} is missing.", "Give the folder of a checkpoint.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold an object.", "Correct the file.")
    try:
        return CheckpointConfig.from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.remedy or "Correct the file.") from error


def check_tokenizers(config: CheckpointConfig, files: Mapping[str, bytes], folder: Path) -> None:
    """Refuses tokenizers that are absent, unreadable, or do not fit the text encoders."""
    for name in ("word", "byte"):
        if (getattr(config.text, name) is not None) != (f"{name}.json" in files):
            state = "lacks" if f"{name}.json" not in files else "has"
            raise InputError(
                f"{folder} {state} {name}.json, and config.json says otherwise of its encoder.", "Make them agree."
            )
    try:
        tokenizers = make_tokenizers(files)
    except InputError as error:
        raise InputError(f"{folder}/{error.message}", error.remedy) from None
    lengths = {"word": tokenizers.word_length, "byte": tokenizers.byte.length if tokenizers.byte else 0}
    for name, length in lengths.items():
        encoder = getattr(config.text, name)
        if encoder is not None and encoder.length != length:
            raise InputError(
                f"{folder}: {name}.json pads to {length}, config.json says {encoder.length}.", "Make them agree."
            )
    check_ids(config, files, tokenizers, folder)


def check_ids(config: CheckpointConfig, files: Mapping[str, bytes], tokenizers: Tokenizers, folder: Path) -> None:
    """Refuses a tokenizer that gives ids which the encoder's embedding does not have."""
    last = {"word": largest_id(files["word.json"])} if "word.json" in files else {}
    if tokenizers.byte is not None:
        last["byte"] = tokenizers.byte.vocabulary - 1
    for name, largest in last.items():
        vocabulary = getattr(config.text, name).vocabulary
        if largest >= vocabulary:
            raise InputError(
                f"{folder}: {name}.json gives ids up to {largest}, text.{name}.vocabulary is {vocabulary}.",
                "Make them agree.",
            )


def origin_of(folder: Path, name: str) -> dict[str, Any]:
    """Where a checkpoint came from: the bundled one by name, another by path; both with the sha256 of its weights."""
    lines = "".join(f"{file_digest(path)[0]}  {path.name}\n" for path in sorted(folder.glob("*.safetensors")))
    sha = hashlib.sha256(lines.encode()).hexdigest()
    if folder.resolve() == bundled_folder(name).resolve():
        return {"kind": "bundled", "name": name, "sha256": sha}
    return {"kind": "folder", "name": name, "path": str(folder.resolve()), "sha256": sha}


def bundled_folder(name: str = BUNDLED) -> Path:
    """Where the checkpoint that comes with the package lies."""
    return Path(__file__).parent.parent / "weights" / name


def reopen_folder(origin: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint a manifest names; an error when it is gone or has changed."""
    folder = bundled_folder(origin["name"]) if origin["kind"] == "bundled" else Path(origin["path"])
    remedy = "Give the folder of that checkpoint with --checkpoint."
    if not folder.is_dir():
        raise InputError(f"the checkpoint this bundle was made of, {folder}, is gone.", remedy)
    checkpoint = load_checkpoint(folder)
    if checkpoint.origin["sha256"] != origin["sha256"]:
        raise InputError(f"{folder} has changed since this bundle was made.", remedy)
    return checkpoint


def save_checkpoint(
    folder: str | Path,
    config: CheckpointConfig,
    states: Mapping[str, Mapping[str, Tensor]],
    tokenizer_files: Mapping[str, bytes],
    overwrite: bool = False,
    documents: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint in fp16, whole or not at all; `states` has the parts and maybe "encoder", `documents` texts
    that lie beside them, such as a model card.
    """
    shapes = shape_configs(config)
    with new_folder(Path(folder), "config.json", overwrite) as partial:
        for part, state in states.items():
            expected = part_shapes(part, *shapes)
            found = {name: tuple(tensor.shape) for name, tensor in state.items()}
            if found != expected:
                wrong = sorted(set(found.items()) ^ set(expected.items()))
                raise InputError(f"{part} does not fit its configuration at {wrong[0][0]}.", "Save what was trained.")
            path = partial / f"{part}.safetensors"
            save_file({name: as_half(state[name], name) for name in expected}, path)
            path.chmod(0o644)  # safetensors leaves a file to its owner alone; an installed package is for all
        (partial / "tokenizer").mkdir()
        for name, data in tokenizer_files.items():
            (partial / "tokenizer" / name).write_bytes(data)
        for name, text in (documents or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        write_json(partial / "config.json", config.to_dict())
