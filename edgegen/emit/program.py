"""The one way into every back end: `torch.export` without gradients."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from edgegen.rewrite.component import Component


def exported(component: Component) -> ExportedProgram:
    """A static program of a component, in core operations that every converter knows."""
    with torch.no_grad():
        return torch.export.export(component.module.eval(), component.example(), strict=False)
