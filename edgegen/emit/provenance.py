"""PyTorch's notes of where a node comes from, kept to one generation: each pass copies the whole chain of every node,
a fifth of the time that lowering takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import traceback


class Parent(traceback.NodeSource):
    """The node that another was made from, without that one's own origin."""

    def __init__(self, node: Any, pass_name: str = "", action: Any = None):
        super().__init__(None, pass_name, action)
        if node is not None:
            self.node_info = self.NodeInfo(node.name, str(node.target), id(node.graph))


@contextmanager
def brief_provenance() -> Iterator[None]:
    """Within it nodes remember only the node that they were made from."""
    kept = traceback.NodeSource
    traceback.NodeSource = Parent  # type: ignore[misc]
    try:
        yield
    finally:
        traceback.NodeSource = kept  # type: ignore[misc]
