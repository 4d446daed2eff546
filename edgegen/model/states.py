"""Where weights come from: a safetensors file read tensor by tensor, or random numbers by name.

A state maps names to fp32 tensors and makes each one when asked, so that a narrow model of a large checkpoint costs
the memory of the narrow one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgegen.errors import EdgegenError, InputError
from edgegen.files import disk_full, has_no_room
from edgegen.model.adapters import AdapterConfig, adapter_shapes
from edgegen.model.autoencoder import AutoencoderConfig, Decoder, Encoder
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import is_own, skeleton
from edgegen.model.text import TextConfig, TextEncoders
from edgegen.strict_json import parse_json

Shapes = dict[str, tuple[int, ...]]
FP16_MAX = 65504.0
STORED = ("F16", "BF16", "F32", "F64")  # safetensors' names of what weights may be stored as
HEADER = 2**26  # bytes of a safetensors header that can be meant
LFS = b"version https://git-lfs"


def module_shapes(make: Callable[[], nn.Module]) -> Shapes:
    """Name to shape of every parameter and buffer of a module, made without memory."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


def transformer_shapes(config: DiTConfig, adapters: AdapterConfig | None = None) -> Shapes:
    """What transformer.safetensors holds: the full model, and `name@width` for what belongs to a width alone."""
    shapes = {n: tuple(p.shape) for n, p in skeleton(config.at(1.0)).named_parameters()}
    for width in config.widths:
        if width != 1.0:
            own = skeleton(config.at(width)).named_parameters()
            shapes |= {f"{n}@{width}": tuple(p.shape) for n, p in own if is_own(n)}
    if adapters is not None:
        for width in adapters.widths:
            shapes |= adapter_shapes(skeleton(config.at(width)), adapters.targets, adapters.rank, width)
    return shapes


def part_shapes(
    part: str,
    transformer: DiTConfig,
    text: TextConfig,
    autoencoder: AutoencoderConfig,
    adapters: AdapterConfig | None = None,
) -> Shapes:
    """What the file of one part of a checkpoint must hold."""
    if part == "transformer":
        return transformer_shapes(transformer, adapters)
    if part == "text_encoder":
        return module_shapes(lambda: TextEncoders(text))
    if part == "decoder":
        return module_shapes(lambda: Decoder(autoencoder))
    return module_shapes(lambda: Encoder(autoencoder))


class FileState(Mapping[str, Tensor]):
    """The tensors of a safetensors file that must hold exactly `shapes`."""

    def __init__(self, path: Path, shapes: Shapes):
        self.path, self.shapes = path, shapes
        self.file = open_safetensors(path)
        self._check_names()

    def _check_names(self) -> None:
        found = set(self.file.keys())
        missing, unexpected = sorted(self.shapes.keys() - found), sorted(found - self.shapes.keys())
        if missing or unexpected:
            wrong = [
                f"{word} {some(names)}" for word, names in (("lacks", missing), ("has unexpected", unexpected)) if names
            ]
            raise InputError(f"{self.path} {' and '.join(wrong)}.", remedy_of(unexpected, self.shapes))
        for name, shape in self.shapes.items():
            self._check_stored(name, shape)

    def _check_stored(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses a tensor of another shape, or of numbers that are not those of weights."""
        piece = self.file.get_slice(name)
        stored, dtype = tuple(piece.get_shape()), piece.get_dtype()
        if stored != shape:
            raise InputError(
                f"{self.path}: {name} is {stored}, config.json asks for {shape}.",
                "Make its config.json and its weights agree.",
            )
        if dtype not in STORED:
            raise InputError(
                f"{self.path}: {name} holds {dtype}, not floating-point numbers that can be read.",
                "Store float16 or float32.",
            )

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        tensor = self.file.get_tensor(name)
        check_finite(tensor, f"{self.path}: {name}")
        return tensor.float()

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel",
    "model.": "another module",
    "ema.": "an average of weights",
    "ema_model.": "an average of weights",
    "_forward_module.": "a training library",
}


def remedy_of(unexpected: list[str], shapes: Shapes) -> str:
    """What to do about names that do not fit: a prefix that a wrapper left is named."""
    for prefix, wrapper in WRAPPERS.items():
        if any(name.startswith(prefix) and name.removeprefix(prefix) in shapes for name in unexpected):
            return f"The names start with {prefix}, of {wrapper}: save the weights without it."
    return "Make its config.json and its weights agree."


class RandomState(Mapping[str, Tensor]):
    """Random weights that depend on the seed and the name alone, scaled to keep activations near 1.

    Nothing is zero, so that every layer of a network shows in its output. Values are those fp16 can hold.
    """

    def __init__(self, shapes: Shapes, seed: int):
        self.shapes, self.seed = shapes, seed

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        mixed = hashlib.sha256(f"{self.seed} {name}".encode()).digest()  # torch keeps but 32 bits of a seed
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:4], "little"))
        noise = torch.empty(shape, dtype=torch.float32).normal_(generator=generator)
        return scaled_(noise, name.split("@")[0]).half().float()

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def scaled_(noise: Tensor, name: str) -> Tensor:
    """Unit noise scaled for the parameter `name`: norms around 1, small biases, matrices by their fan-in."""
    owner, kind = name.split(".")[-2:] if "." in name else ("", name)
    if owner.startswith("norm") and kind == "weight":
        return noise.mul_(0.1).add_(1)
    if kind == "bias" or noise.dim() == 1:
        return noise.mul_(0.02)
    if kind in ("table", "positions"):
        return noise.mul_(noise.shape[-1] ** -0.5)
    return noise.mul_(noise[0].numel() ** -0.5)


def open_safetensors(path: Path, remedy: str = "Copy it again from where it was made."):
    """Opens a file for reading by name; a missing, empty, truncated or foreign file is an error that says which."""
    if not path.is_file():
        raise InputError(f"{path} is missing.", missing_remedy(path) or remedy)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty.", remedy)
    with path.open("rb") as file:
        start = file.read(len(LFS))
        if is_pickle(start[:4]):
            raise pickle_error(path)
        if start == LFS:
            raise InputError(f"{path} is a pointer of Git LFS, not the weights.", "Fetch them with git lfs pull.")
        check_header(path, file)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or not safetensors ({error}).", remedy) from None


def missing_remedy(path: Path) -> str:
    """What to do where the weights are there in pieces."""
    pieces = sorted(path.parent.glob(f"{path.stem}-*-of-*.safetensors")) if path.parent.is_dir() else []
    return f"{pieces[0].name} is one of {len(pieces)} shards: join them in one file." if pieces else ""


def check_header(path: Path, file: IO[bytes]) -> None:
    """Refuses a header with a tensor twice, which the library takes without a word, and one that is no JSON."""
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= min(HEADER, path.stat().st_size):
        return  # the library says what is wrong
    try:
        parse_json(file.read(size), f"{path}'s header", "Copy it again from where it was made.")
    except InputError as error:
        if "twice" in error.message or "nested" in error.message:
            raise
        raise InputError(
            f"{path} is truncated or not safetensors ({error.message}).", "Copy it again from where it was made."
        ) from None


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    full: Callable[[Path], EdgegenError] = disk_full,
) -> None:
    """Writes safetensors so that a reader sees the old file or the whole new one, of the same bytes for the same
    tensors and metadata; `full` makes the error of a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        with temporary.open("r+b") as file:
            sort_metadata_(file)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        no_room = has_no_room(error, path)  # before the part that was written is removed
        temporary.unlink(missing_ok=True)
        if no_room:
            raise full(path) from error
        raise


def sort_metadata_(file: IO[bytes]) -> None:
    """Puts the metadata of a safetensors file in order: the library writes it in another one each time."""
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    if len(header.get("__metadata__", ())) < 2:
        return
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
    if len(text) != size:
        raise ValueError(f"the header in order has {len(text)} bytes, not {size}")
    file.seek(8)
    file.write(text)


def is_pickle(start: bytes) -> bool:
    """Whether a file starts like torch.save's zip or a bare pickle."""
    return start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def pickle_error(path: Path) -> InputError:
    """Refuses a pickle, which can run code when read, and says how to convert it."""
    return InputError(
        f"{path} is a pickle, which can run code when read.",
        "Convert it where you trust it: safetensors.torch.save_file("
        f"torch.load({path.name!r}, weights_only=True), {path.with_suffix('.safetensors').name!r}).",
    )


def check_finite(tensor: Tensor, what: str) -> None:
    """Refuses a tensor with NaN or infinite values."""
    finite = torch.isfinite(tensor)
    if not finite.all():
        raise InputError(
            f"{what} has {int((~finite).sum())} NaN or infinite values of {tensor.numel()}.",
            "Train on from, or export, an earlier checkpoint.",
        )


def as_half(tensor: Tensor, name: str) -> Tensor:
    """fp16 for storage; values beyond its range are an error that names the tensor."""
    check_finite(tensor, name)
    if tensor.abs().max() > FP16_MAX:
        raise InputError(
            f"{name} reaches {float(tensor.abs().max()):g}, fp16 ends at {FP16_MAX:g}.", "Rescale it before saving."
        )
    return tensor.detach().to("cpu", torch.float16).contiguous()


def some(names: list[str], count: int = 4) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
