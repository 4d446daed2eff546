"""How many threads PyTorch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LARGE = 50_000_000  # parameters from which a network is worth more than one thread


@contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """One thread for small networks: more cost them more than they give, and stall beside other work."""
    kept = torch.get_num_threads()
    if parameters <= LARGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)
