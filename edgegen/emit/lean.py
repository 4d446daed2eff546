"""What all back ends leave out of PyTorch's captures and passes, with the same artifacts as a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgegen.emit.known_operations import operations_known
from edgegen.emit.late_code import late_code
from edgegen.emit.provenance import brief_provenance


@contextmanager
def lean_capture() -> Iterator[None]:
    """Within it programs are captured and changed without notes and code that nobody reads."""
    with brief_provenance(), operations_known(), late_code():
        yield
