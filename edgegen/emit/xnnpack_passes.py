"""XNNPACK's passes without those that look for an operation the graph does not have: each rebuilds the whole graph;
and without the check of a program before each, which its making and the end of the lowering check as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEEDS = {  # what an operation's name must contain for a pass to change anything, read in ExecuTorch 1.5
    "ConvertToUpsampleBilinear2d": ("upsample_bilinear2d", "index"),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "InsertPadQDQPass": ("constant_pad_nd",),
    "Conv1dUnsqueezePass": ("convolution",),
    "PReLUReshapePass": ("prelu",),
}


def needed(passes: list[Any], program: Any) -> list[Any]:
    """The passes that may change a program; those that are not known are kept."""
    names = {getattr(node.target, "__name__", "") for node in program.graph.nodes if node.op == "call_function"}
    return [
        made
        for made in passes
        if made.__name__ not in NEEDS or any(part in name for part in NEEDS[made.__name__] for name in names)
    ]


@contextmanager
def needed_passes() -> Iterator[None]:
    """Within it XNNPACK runs the passes that `needed` leaves."""
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.exir.pass_manager import ExportedProgramPassManager

    kept, check = XNNPACKPassManager.transform, ExportedProgramPassManager.check

    def transform(manager: Any) -> Any:
        manager.passes = needed(manager.passes, manager.exported_program)
        return kept(manager)

    XNNPACKPassManager.transform = transform
    ExportedProgramPassManager.check = lambda manager, program: None
    try:
        yield
    finally:
        XNNPACKPassManager.transform, ExportedProgramPassManager.check = kept, check
