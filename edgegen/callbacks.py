"""What long work tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[str], None]  # a line: what happens now
Advance: TypeAlias = Callable[[int, int], None]  # done, of how many
