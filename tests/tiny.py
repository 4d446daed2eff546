"""A checkpoint small enough for tests: every part there, two widths, 32x32 pictures."""

from pathlib import Path

from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.checkpoint import save_checkpoint
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import DiTConfig
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import EncoderConfig, TextConfig

TINY = CheckpointConfig(
    name="tiny",
    transformer=DiTConfig(
        hidden=32, head_dim=8, depths=(1, 2, 1), blocks=4, cross_kv_heads=1, text_dim=16, pooled_text=True,
        in_channels=4, grid=(4, 4), time_features=16, rope_theta=100.0, widths=(0.5, 1.0),
    ),
    text=TextConfig(word=None, byte=EncoderConfig(258, 24, 16, 1, 2, 2), width=16),
    autoencoder=AutoencoderConfig(
        latent_channels=4, encoder_widths=(8, 8), encoder_depths=(1, 1), decoder_widths=(8, 8, 4),
        decoder_depths=(1, 1, 1),
    ),
    sampler=SamplerConfig(steps=3, shift=3.0, guidance=2.0),
)  # fmt: skip

TIER = """
name = "tiny-tier"
summary = "for tests"
width = 0.5
picture_floor_db = 30.0

[backends.coreml]
attention = "split"
precision = "float16"
deployment_target = "iOS17"
floor_db = 40.0

[backends.onnx]
attention = "batched"
precision = "float32"
floor_db = 100.0

[backends.executorch]
attention = "batched"
precision = "float32"
floor_db = 80.0
"""


def tiny_checkpoint(folder: Path, config: CheckpointConfig = TINY, seed: int = 0) -> Path:
    """Saves a random checkpoint, as training would."""
    made = random_checkpoint(config, seed)
    save_checkpoint(folder, config, made.states, made.tokenizer_files)
    return folder


def tiny_tier(folder: Path) -> Path:
    """Saves a tier file that fits the tiny checkpoint."""
    path = folder / "tiny-tier.toml"
    path.write_text(TIER)
    return path
