"""optimum-onnx's own export of a transformer that diffusers saved, by an interpreter that has it.

    python -m venv optimum && optimum/bin/pip install optimum-onnx==0.1.0 'transformers<4.58' 'diffusers<0.36'
    optimum/bin/python benchmarks/foreign_networks/optimum_export.py FOLDER FILE HEIGHT WIDTH TOKENS

It needs other versions than edgegen does, so that compare.py --optimum runs it in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import diffusers
from optimum.exporters.onnx import model_configs
from optimum.exporters.onnx.convert import export_pytorch

CONFIGS = {"SD3Transformer2DModel": "SD3", "FluxTransformer2DModel": "Flux", "SanaTransformer2DModel": "Sana"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    for name in ("height", "width", "tokens"):
        parser.add_argument(name, type=int, help="of latents" if name != "tokens" else "of text")
    asked = parser.parse_args()
    kind = json.loads((asked.folder / "config.json").read_text())["_class_name"]
    module = getattr(diffusers, kind).from_pretrained(asked.folder)
    module.register_to_config(vocab_size=256000)  # of its text encoder, as optimum's own command sets it
    made = getattr(model_configs, f"{CONFIGS[kind]}TransformerOnnxConfig")
    config = made(module.config, task="semantic-segmentation")
    shapes = {"batch_size": 1, "height": asked.height, "width": asked.width, "sequence_length": asked.tokens}
    export_pytorch(module, config, config.DEFAULT_ONNX_OPSET, asked.file, input_shapes=shapes)


if __name__ == "__main__":
    main()
