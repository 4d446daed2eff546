"""Autoencoders and text encoders of every family: taken from a folder, written, opened and run."""

import diffusers
import pytest
from foreign import scrambled
from pipelines import (
    autoencoder,
    clip,
    deep_autoencoder,
    first_gemma,
    gemma,
    qwen3,
    second_flux_autoencoder,
    t5,
    video_autoencoder,
)
from test_families import FLOORS, reached

from edgegen.foreign.export import record
from edgegen.foreign.sources import Size, open_sources


def tiny_autoencoder(channels: int):
    """As TAESD and its kin are."""
    widths = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), latent_channels=channels)
    return scrambled(diffusers.AutoencoderTiny(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), **widths))


DECODERS = {
    "kl, 4 channels": autoencoder, "kl, 16 channels": lambda: autoencoder(latent_channels=16, scaling_factor=1.5),
    "dc": deep_autoencoder, "qwen": video_autoencoder, "flux.2": second_flux_autoencoder,
    "tiny, 4 channels": lambda: tiny_autoencoder(4), "tiny, 16 channels": lambda: tiny_autoencoder(16),
}  # fmt: skip
TEXTS = {
    "clip": lambda: clip(64, True), "clip, not projected": lambda: clip(64, False), "t5": t5,
    "gemma": first_gemma, "gemma2": lambda: gemma(2), "qwen3": lambda: qwen3(32, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS | TEXTS)
def test_parts_compute_what_they_did(name, tmp_path):
    (DECODERS | TEXTS)[name]().save_pretrained(tmp_path / "part")
    (source,) = open_sources(tmp_path / "part", Size(16, 16, 12)).sources
    recorded = record(source)
    assert len(recorded.cases) == 3
    for backend in FLOORS:
        assert reached(recorded, backend, tmp_path) >= FLOORS[backend], backend
