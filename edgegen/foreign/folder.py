"""A folder that diffusers or transformers saved: what it holds, and its networks loaded whole or not at all.

Weights are read from safetensors alone and nothing of the folder is run. What is missing, left over or of another
shape is an error that lists it: no layer is ever left random.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgegen.errors import InputError
from edgegen.foreign.mapped import load_mapped
from edgegen.model.states import pickle_error
from edgegen.quiet import quietly
from edgegen.strict_json import read_json

LIBRARIES = ("diffusers", "transformers")
INDEX, PIPELINE, CONFIG = ".safetensors.index.json", "model_index.json", "config.json"
PLAIN = {"F32", "F16", "BF16", "F64", "I64", "I32", "BOOL", "U8", "I8"}
HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header
LISTED = 8  # keys an error names


@dataclass(frozen=True)
class Part:
    """A network of a folder: `name` is its role in the pipeline."""

    name: str
    folder: Path
    library: str
    class_name: str
    config: dict[str, Any]


def is_foreign(folder: Path) -> bool:
    """Whether a folder is one that diffusers or transformers saved."""
    if (folder / PIPELINE).is_file():
        return True
    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return "_class_name" in config or "architectures" in config


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; anything else is an error that names the file."""
    values = read_json(path, "Copy it again from where it was made.")
    if not isinstance(values, dict):
        raise InputError(f"{path} is no JSON object.", "Copy it again from where it was made.")
    return values


def list_parts(folder: Path) -> list[Part]:
    """The networks of a pipeline folder, or the one of a component's folder, checked but not loaded."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist.", "Give a folder that diffusers or transformers saved.")
    refuse_code(folder)
    if not (folder / PIPELINE).is_file():
        return [read_part("network", folder)]
    found = []
    for name, entry in read_object(folder / PIPELINE).items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or entry[0] is None:
            continue
        if entry[0] not in LIBRARIES:
            raise code_error(f"{folder / PIPELINE} takes {name} from {entry[0]!r}")
        if (folder / name / CONFIG).is_file():
            refuse_code(folder / name)
            found.append(read_part(name, folder / name, *entry))
    if not found:
        raise InputError(f"{folder / PIPELINE} names no network that is there.", "Copy the whole folder.")
    return found


def refuse_code(folder: Path) -> None:
    """Refuses a folder with code of its own."""
    scripts = sorted(folder.glob("*.py"))
    if scripts:
        raise code_error(f"{scripts[0]} is code of the folder's own")


def code_error(what: str) -> InputError:
    return InputError(
        f"{what}, which is never run.",
        "No option runs it: build the module in a file you trust, and give it with --module FILE.py:FUNCTION.",
    )


def read_part(name: str, folder: Path, library: str = "", class_name: str = "") -> Part:
    """A network's description; quantized weights and code of its own are refused."""
    config = read_object(folder / CONFIG)
    if "auto_map" in config:
        raise code_error(f"{folder / CONFIG} has an auto_map, code of the model's own")
    if config.get("quantization_config"):
        kind = dict(config["quantization_config"]).get("quant_method", "unknown")
        raise InputError(
            f"{folder / CONFIG}: the weights are quantized ({kind}).",
            "Give the original weights; edgegen quantizes them itself.",
        )
    library = library or ("diffusers" if "_class_name" in config else "transformers")
    class_name = class_name or config.get("_class_name") or next(iter(config.get("architectures") or []), "")
    if not class_name:
        raise InputError(f"{folder / CONFIG} names no class (_class_name or architectures).", "Copy the whole folder.")
    check_weights(folder)
    return Part(name, folder, library, class_name, config)


def check_weights(folder: Path) -> None:
    """Refuses weights that are missing, pickled, or of a type that is no plain number."""
    files = weight_files(folder)
    if not files:
        for pattern, refuse in (
            ("*.gguf", gguf_error),
            ("*.bin", pickle_error),
            ("*.pt", pickle_error),
            ("*.ckpt", pickle_error),
        ):
            for path in sorted(folder.glob(pattern)):
                raise refuse(path)
        raise InputError(f"{folder} has no .safetensors.", "Copy the whole folder.")
    for path in files:
        check_types(path)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder: all, or those its index names; one that is not there is an error."""
    index = next(iter(sorted(folder.glob(f"*{INDEX}"))), None)
    if index is None:
        return sorted(folder.glob("*.safetensors"))
    shards = set(read_object(index).get("weight_map", {}).values())
    missing = sorted(str(shard) for shard in shards if not (folder / str(shard)).is_file())
    if missing or not shards:
        raise InputError(
            f"{index} names {', '.join(missing[:LISTED]) or 'no file'}, which is not there.", "Copy every shard."
        )
    return [folder / str(shard) for shard in sorted(shards)]


def gguf_error(path: Path) -> InputError:
    return InputError(f"{path} holds gguf weights, which are quantized.", "Give the original safetensors.")


def check_types(path: Path) -> None:
    """Refuses a safetensors file with fp8 or other types than plain numbers; only the header is read."""
    strange = {name: e["dtype"] for name, e in read_header(path).items() if e["dtype"] not in PLAIN}
    if strange:
        name, kind = next(iter(strange.items()))
        raise InputError(
            f"{path}: {name} is {kind}, as are {len(strange) - 1} others; fp8 and packed weights are not read.",
            "Give the fp32, fp16 or bf16 weights.",
        )


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of its tensors: {name: {dtype, shape, data_offsets}}; one cut short is refused."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_LIMIT, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            header = {n: e for n, e in json.loads(file.read(length)).items() if n != "__metadata__"}
            whole = [(entry["dtype"], [int(n) for n in entry["shape"]]) for entry in header.values()]
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if path.stat().st_size < 8 + length + end or len(whole) < len(header):
                raise ValueError("it is cut short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Copy it again from where it was made.") from None
    return header


def import_library(name: str) -> ModuleType:
    """diffusers or transformers; one that is not installed is one line."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"a folder of {name} needs the package {name} ({error}).", "pip install 'edgegen[models]'."
        ) from None


def load_part(part: Part, streamed: bool = False) -> nn.Module:
    """A network with every weight of its folder, in fp32; InputError lists keys that did not map. With `streamed` half
    weights of a large network stay where they are (foreign/mapped.py).
    """
    library = import_library(part.library)
    kind = getattr(library, part.class_name, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise InputError(
            f"{part.library} {library.__version__} has no {part.class_name}.",
            f"Upgrade {part.library}, or give --module.",
        )
    if part.library == "diffusers" and (mapped := load_mapped(kind, part.config, plain_files(part.folder), streamed)):
        return mapped
    variant = {} if not variants(part.folder) else {"variant": variants(part.folder)[0]}
    dtype = {"torch_dtype" if part.library == "diffusers" else "dtype": torch.float32}
    try:
        settings = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        module, info = quietly(lambda: kind.from_pretrained(str(part.folder), **settings, **variant, **dtype))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"{part.folder} cannot be loaded as {part.class_name}: {line}", "Make its config.json and weights agree."
        ) from error
    require_mapped(part, info)
    return module.eval().requires_grad_(False)


def variants(folder: Path) -> list[str]:
    """The variant, such as fp16, where a folder holds nothing but one."""
    stems = [path.name.removesuffix(".safetensors").split(".") for path in folder.glob("*.safetensors")]
    plain = [stem for stem in stems if len(stem) == 1]
    return [] if plain else sorted({stem[1].split("-")[0] for stem in stems if len(stem) == 2})


def plain_files(folder: Path) -> list[Path]:
    """The weights of a folder: of no variant, where it has others too."""
    files = weight_files(folder)
    plain = [path for path in files if "." not in path.name.removesuffix(".safetensors")]
    return plain or files


def require_mapped(part: Part, info: Mapping[str, Iterable[Any]]) -> None:
    """Every parameter must come from the folder, and everything in the folder be a parameter."""
    wrong = []
    for word, key in (
        ("lacks", "missing_keys"),
        ("has unexpected", "unexpected_keys"),
        ("has of another shape", "mismatched_keys"),
    ):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info.get(key) or ())
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            wrong.append(f"{word} {', '.join(names[:LISTED])}{more}")
    if wrong:
        raise InputError(
            f"{part.folder} does not fit {part.class_name}: it {'; it '.join(wrong)}.",
            "Make its config.json and weights agree.",
        )
