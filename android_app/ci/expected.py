"""Draws a bundle's prompts with edgegen, for the Kotlin pipeline to draw again.

    python android_app/ci/expected.py BUNDLE...

Writes BUNDLE.expected/: the picture of `edgegen generate --backend onnx` as PNG, the decoder's output before it becomes
8 bits (float32, little end first), and expected.json with ids, sigmas and the sha256 of the noise. Where a bundle's
options let ONNX Runtime compute with 8-bit activations, whose rounding differs between its versions (one picture at
4.3 bits: 53.6 dB between 1.28 and 1.32), N.fp32.f32 holds the same drawn with float32 activations.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import onnxruntime

from edgegen.bundle import Bundle, load_bundle
from edgegen.files import write_json
from edgegen.generate import PictureRequest, generate
from edgegen.model.sampler import flow_sigmas, initial_noise
from edgegen.pipeline.draw import draw
from edgegen.pipeline.networks import ArtifactNetworks

BACKEND = "onnx"
FLOAT32 = {"session.qdq_matmulnbits_accuracy_level": "1"}
OTHER = {"seed": 2**63 - 1, "steps": 3, "guidance": 2.5}  # than the manifest's


def requests(bundle: Bundle) -> list[dict]:
    """Every prompt as the bundle is meant to draw it, and the first one otherwise."""
    m = bundle.manifest
    usual = [{"prompt": p, "seed": i, "steps": m.steps, "guidance": m.guidance} for i, p in enumerate(m.prompts)]
    return [*usual, {"prompt": m.prompts[0], **OTHER}]


@contextmanager
def float32_activations() -> Iterator[None]:
    """Quantized weights meet float32 activations, whatever the files ask for."""
    with patch("edgegen.runtime.onnx.session_options", return_value=FLOAT32):
        yield


def opened(bundle: Bundle) -> ArtifactNetworks:
    """The networks of a bundle, every one of them open."""
    networks, m = ArtifactNetworks(bundle, BACKEND, native=True), bundle.manifest
    draw(networks, "", m.latent_shape, flow_sigmas(1), 1.0, 0)
    return networks


def drawn(bundle: Bundle, networks: dict[str, ArtifactNetworks], request: dict, stem: Path) -> dict:
    """Draws one request twice: with the command's function and, for its floats, with the pipeline."""
    m = bundle.manifest
    generate(PictureRequest(bundle=bundle.root, backend=BACKEND, out=stem.with_suffix(".png"), **request))
    sigmas = flow_sigmas(request["steps"], m.shift)
    for suffix, used in networks.items():
        values = draw(used, request["prompt"], m.latent_shape, sigmas, request["guidance"], request["seed"])
        stem.with_name(stem.name + suffix).write_bytes(values.astype("<f4").tobytes())
    ids = networks[".f32"].tokenizers.encode([request["prompt"]])
    noise = initial_noise(m.latent_shape, request["seed"]).astype("<f4").tobytes()
    return request | {"seed": str(request["seed"]), "name": stem.name, "sigmas": sigmas, "word": ids.word[0].tolist(),
                      "byte": ids.byte[0].tolist(), "noise": hashlib.sha256(noise).hexdigest()}  # fmt: skip


def main(folders: list[str]) -> None:
    """Writes what is expected of each bundle."""
    for folder in folders:
        bundle = load_bundle(folder)
        out = bundle.root.with_name(f"{bundle.root.name}.expected")
        out.mkdir(exist_ok=True)
        networks = {".f32": opened(bundle)}
        if any(artifact.options for artifact in bundle.manifest.components):
            with float32_activations():
                networks[".fp32.f32"] = opened(bundle)
        cases = [drawn(bundle, networks, request, out / f"{i}") for i, request in enumerate(requests(bundle))]
        write_json(out / "expected.json", {"onnxruntime": onnxruntime.__version__, "cases": cases})


if __name__ == "__main__":
    main(sys.argv[1:])
