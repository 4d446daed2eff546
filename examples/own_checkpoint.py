"""A checkpoint and a tier of your own: here a small network with random weights, in the folder that training writes.

A checkpoint is config.json, one safetensors file a component and tokenizer/; `edgegen train` writes the same. A tier is
a TOML file: the width to slice, and for each back end the form, the precision and the floor that it must reach.

python examples/own_checkpoint.py [FOLDER]
"""

import sys
from pathlib import Path

import edgegen
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.checkpoint import save_checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import DiTConfig
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import EncoderConfig, TextConfig

CONFIG = CheckpointConfig(
    name="mine",
    transformer=DiTConfig(
        hidden=64, head_dim=16, depths=(1, 2, 1), blocks=4, cross_kv_heads=1, text_dim=16, pooled_text=True,
        in_channels=4, grid=(4, 4), time_features=16, rope_theta=100.0, widths=(0.5, 1.0),
    ),
    text=TextConfig(word=None, byte=EncoderConfig(258, 24, 16, 1, 2, 2), width=16),
    autoencoder=AutoencoderConfig(
        latent_channels=4, encoder_widths=(8, 8), encoder_depths=(1, 1), decoder_widths=(8, 8, 4),
        decoder_depths=(1, 1, 1),
    ),
    sampler=SamplerConfig(steps=4, shift=3.0, guidance=2.0),
)  # fmt: skip

TIER = """
name = "mine-small"
summary = "half the width, on CPUs"
width = 0.5
picture_floor_db = 35.0

[backends.onnx]
attention = "batched"
precision = "float32"
floor_db = 100.0
"""


def main(folder: Path) -> None:
    made = random_checkpoint(CONFIG, seed=0)
    save_checkpoint(folder / "checkpoint", CONFIG, made.states, made.tokenizer_files)
    (folder / "mine-small.toml").write_text(TIER)
    checkpoint = edgegen.load_checkpoint(folder / "checkpoint")
    result = edgegen.export_bundle(checkpoint, folder / "mine-small.toml", out=folder / "bundle")
    edgegen.verify_bundle(result.bundle).require()
    for contents in edgegen.inspect_bundle(result.bundle).components:
        print(f"{contents.component}: {contents.operation_count} operations, {contents.parameters:,} parameters")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "out/own_checkpoint")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
