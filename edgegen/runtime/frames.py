"""Named arrays through a pipe: 8 bytes of length, little end first, then an .npz."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO

import numpy as np

HEADER = 8


def write_arrays(pipe: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Sends arrays as one frame."""
    body = io.BytesIO()
    np.savez(body, **dict(arrays))  # type: ignore[arg-type]  # numpy types keywords as its own flag
    pipe.write(body.tell().to_bytes(HEADER, "little"))
    pipe.write(body.getbuffer())
    pipe.flush()


def read_arrays(pipe: IO[bytes]) -> dict[str, np.ndarray] | None:
    """The next frame's arrays; None where the pipe ended."""
    header = pipe.read(HEADER)
    if len(header) < HEADER:
        return None
    size = int.from_bytes(header, "little")
    body = pipe.read(size)
    if len(body) < size:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
