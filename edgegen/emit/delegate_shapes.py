"""Delegates that tell the shapes of their outputs: every pass over a network runs each again, operation by operation,
to learn them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def empty_outputs(lowered: Any, *inputs: Any) -> list[Tensor]:
    """Outputs of a delegate with nothing in them, of the kind that its inputs are."""
    like = next(value for value in inputs if isinstance(value, Tensor))
    values = [node.meta["val"] for node in lowered.original_module.graph.output_node().args[0]]
    return [like.new_empty_strided(value.shape, value.stride(), dtype=value.dtype) for value in values]


@contextmanager
def delegates_unrun() -> Iterator[None]:
    """Within it a pass that asks what a delegate gives is told the shapes alone."""
    calls = importlib.import_module("torch._higher_order_ops.executorch_call_delegate")
    kept = calls.call_delegate_cpu
    calls.call_delegate_cpu = empty_outputs  # type: ignore[attr-defined]
    try:
        yield
    finally:
        calls.call_delegate_cpu = kept  # type: ignore[attr-defined]
