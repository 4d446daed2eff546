"""Draws a bundle's prompts with edgegen, for the Kotlin pipeline to draw again.

    python android_app/ci/expected.py BUNDLE...

Writes BUNDLE.expected/: the picture of `edgegen generate --backend onnx` as PNG, the decoder's output before it becomes
8 bits (float32, little end first), and expected.json with ids, sigmas and the sha256 of the noise.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from edgegen.emit.bundle import Bundle, load_bundle
from edgegen.files import write_json
from edgegen.generate import Request, generate
from edgegen.model.sampler import flow_sigmas, initial_noise
from edgegen.runtime.networks import ArtifactNetworks
from edgegen.runtime.pipeline import draw

BACKEND = "onnx"
OTHER = {"seed": 2**63 - 1, "steps": 3, "guidance": 2.5}  # than the manifest's


def requests(bundle: Bundle) -> list[dict]:
    """Every prompt as the bundle is meant to draw it, and the first one otherwise."""
    m = bundle.manifest
    usual = [{"prompt": p, "seed": i, "steps": m.steps, "guidance": m.guidance} for i, p in enumerate(m.prompts)]
    return [*usual, {"prompt": m.prompts[0], **OTHER}]


def drawn(bundle: Bundle, networks: ArtifactNetworks, request: dict, stem: Path) -> dict:
    """Draws one request twice: with the command's function and, for its floats, with the pipeline."""
    m = bundle.manifest
    generate(Request(bundle=bundle.root, backend=BACKEND, out=stem.with_suffix(".png"), **request))
    sigmas = flow_sigmas(request["steps"], m.shift)
    values = draw(networks, request["prompt"], m.latent_shape, sigmas, request["guidance"], request["seed"])
    stem.with_suffix(".f32").write_bytes(values.astype("<f4").tobytes())
    ids = networks.tokenizers.encode([request["prompt"]])
    noise = initial_noise(m.latent_shape, request["seed"]).astype("<f4").tobytes()
    return request | {"seed": str(request["seed"]), "name": stem.name, "sigmas": sigmas, "word": ids.word[0].tolist(),
                      "byte": ids.byte[0].tolist(), "noise": hashlib.sha256(noise).hexdigest()}  # fmt: skip


def main(folders: list[str]) -> None:
    """Writes what is expected of each bundle."""
    for folder in folders:
        bundle = load_bundle(folder)
        out = bundle.root.with_name(f"{bundle.root.name}.expected")
        out.mkdir(exist_ok=True)
        networks = ArtifactNetworks(bundle, BACKEND, native=True)
        cases = [drawn(bundle, networks, request, out / f"{i}") for i, request in enumerate(requests(bundle))]
        write_json(out / "expected.json", {"cases": cases})


if __name__ == "__main__":
    main(sys.argv[1:])
