"""ONNX: fp32, static shapes, through the dynamo exporter."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from edgegen.emit.program import exported
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component

OPSET = 23  # the first with RMSNormalization; ONNX Runtime 1.23 and later


def write(component: Component, path: Path) -> None:
    """Exports a component to one .onnx file that passes the checker."""
    with quiet():
        program = torch.onnx.export(
            exported(component),
            input_names=[s.name for s in component.inputs],
            output_names=[s.name for s in component.outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
