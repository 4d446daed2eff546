"""Every family at its published shape, two layers deep, on every back end: PSNR against the module, and memory.

    python benchmarks/foreign_networks/published_shapes.py [FAMILY ...] [--backend onnx,executorch,coreml] [--out FILE]

Heads, their size, and the widths of texts are the published ones; weights are random, pictures small (16x16 latents)
and texts short, so that the largest takes some 12 GiB. Each family runs in a process of its own and gives a row.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2] / "tests"
GRID, TOKENS = 16, 32

PIXART = dict(
    num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=2, sample_size=128,
    cross_attention_dim=1152, caption_channels=4096, interpolation_scale=2,
)  # fmt: skip
SANA = dict(
    in_channels=32, out_channels=32, num_attention_heads=70, attention_head_dim=32, num_layers=2, sample_size=32,
    num_cross_attention_heads=20, cross_attention_head_dim=112, cross_attention_dim=2240, caption_channels=2304,
)  # fmt: skip
SD3 = dict(
    sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=64,
    num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
    pos_embed_max_size=192,
)  # fmt: skip
FLUX = dict(num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=24)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "PixArt-alpha XL": ("PixArtTransformer2DModel", PIXART | {"use_additional_conditions": True}),
    "PixArt-Sigma XL": ("PixArtTransformer2DModel", PIXART | {"use_additional_conditions": False}),
    "SANA 1.6B": ("SanaTransformer2DModel", SANA),
    "SANA-Sprint 1.6B": (
        "SanaTransformer2DModel", SANA | {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"},
    ),
    "SD3 medium": ("SD3Transformer2DModel", SD3),
    "SD3.5 medium": (
        "SD3Transformer2DModel",
        SD3 | {"dual_attention_layers": (0,), "qk_norm": "rms_norm", "pos_embed_max_size": 384},
    ),
    "SD3.5 large": (
        "SD3Transformer2DModel",
        SD3 | {"num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
    ),
    "Lumina-Next": (
        "LuminaNextDiT2DModel",
        dict(sample_size=128, patch_size=2, in_channels=4, hidden_size=2304, num_layers=2, num_attention_heads=32,
             num_kv_heads=8, multiple_of=256, cross_attention_dim=2048),
    ),
    "Lumina2": (
        "Lumina2Transformer2DModel",
        dict(sample_size=128, patch_size=2, in_channels=16, hidden_size=2304, num_layers=2, num_refiner_layers=1,
             num_attention_heads=24, num_kv_heads=8, multiple_of=256, axes_dim_rope=(32, 32, 32),
             axes_lens=(300, 512, 512), cap_feat_dim=2304),
    ),
    "FLUX.1 dev": (
        "FluxTransformer2DModel",
        FLUX | dict(in_channels=64, joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True),
    ),
    "FLUX.2 klein 4B": (
        "Flux2Transformer2DModel",
        FLUX | dict(in_channels=128, joint_attention_dim=7680, mlp_ratio=3.0, guidance_embeds=False, rope_theta=2000,
                    axes_dims_rope=(32, 32, 32, 32), timestep_guidance_channels=256),
    ),
    "Qwen-Image": (
        "QwenImageTransformer2DModel",
        dict(patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=128,
             num_attention_heads=24, joint_attention_dim=3584, axes_dims_rope=(16, 56, 56)),
    ),
    "Z-Image": (
        "ZImageTransformer2DModel",
        dict(in_channels=16, dim=3840, n_layers=2, n_refiner_layers=1, n_heads=30, n_kv_heads=30, cap_feat_dim=2560,
             axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512]),
    ),
}  # fmt: skip


def row_of(name: str, backends: list[str]) -> dict[str, Any]:
    """One family's PSNR on each back end; what a back end cannot take is told."""
    sys.path.insert(0, str(TESTS))
    from foreign import source
    from test_families import reached

    from edgegen.errors import EdgegenError
    from edgegen.foreign.export import record

    start = time.perf_counter()
    recorded = record(source(*SHAPES[name], GRID, GRID, TOKENS))
    row: dict[str, Any] = {
        "published": name, "grid": GRID, "tokens": TOKENS, "weights": "random",
        "parameters": sum(p.numel() for p in recorded.source.module.parameters()),
    }  # fmt: skip
    for backend in backends:
        try:
            with tempfile.TemporaryDirectory() as folder:
                row[f"{backend}_db"] = round(reached(recorded, backend, Path(folder)), 1)
        except (EdgegenError, RuntimeError, AssertionError) as error:
            row[f"{backend}_error"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row | {"seconds": round(time.perf_counter() - start), "peak_gib": round(peak, 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(SHAPES))
    parser.add_argument("--backend", default="onnx,executorch,coreml")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measurements.jsonl"))
    asked = parser.parse_args()
    if len(asked.families) > 1:
        for name in asked.families:
            subprocess.run([sys.executable, __file__, name, "--backend", asked.backend, "--out", str(asked.out)])
        return
    import diffusers

    from edgegen.bench.records import append, environment

    row = row_of(asked.families[0], asked.backend.split(","))
    told = {"source": "measured", **row, **environment(), "diffusers": diffusers.__version__}
    print(json.dumps(append(asked.out, told)), flush=True)


if __name__ == "__main__":
    main()
