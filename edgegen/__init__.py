"""edgegen: puts a trained diffusion transformer on a phone.

    import edgegen
    result = edgegen.export_bundle(tier="low-android", backends=["onnx"], out="out/mine")
    picture = edgegen.generate_image("a red heart", bundle=result.bundle)

Names load what they need at their first use. What fails in an expected way raises one of `edgegen.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgegen import errors as errors
    from edgegen.api import export_bundle as export_bundle
    from edgegen.api import export_folder as export_folder
    from edgegen.api import export_module as export_module
    from edgegen.api import generate_image as generate_image
    from edgegen.api import inspect_bundle as inspect_bundle
    from edgegen.api import load_bundle as load_bundle
    from edgegen.api import load_checkpoint as load_checkpoint
    from edgegen.api import load_tier as load_tier
    from edgegen.api import plan_export as plan_export
    from edgegen.api import predict_latency as predict_latency
    from edgegen.api import quantize_checkpoint as quantize_checkpoint
    from edgegen.api import verify_bundle as verify_bundle

__version__ = "0.1.0"
__all__ = [
    "errors",
    "export_bundle",
    "export_folder",
    "export_module",
    "generate_image",
    "inspect_bundle",
    "load_bundle",
    "load_checkpoint",
    "load_tier",
    "plan_export",
    "predict_latency",
    "quantize_checkpoint",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that `import edgegen` costs nothing."""
    if name == "errors":
        return importlib.import_module("edgegen.errors")
    if name not in __all__:
        raise AttributeError(f"module 'edgegen' has no attribute {name!r}")
    return getattr(importlib.import_module("edgegen.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
