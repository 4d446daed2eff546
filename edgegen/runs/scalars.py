"""A run's numbers and pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgegen.errors import InputError


class Scalars:
    """Writes TensorBoard events to a folder; where TensorBoard is not installed that is an error that says so."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                f"tensorboard = true needs the package tensorboard ({error}).",
                "pip install 'edgegen[train]', or leave it out: log.jsonl has the same numbers.",
            ) from None
        self.writer = SummaryWriter(str(folder))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar each; the widths of a number share a chart: `val/0.5`."""
        for name, value in numbers.items():
            self.writer.add_scalar(name.replace("@", "/"), float(value), step)

    def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8."""
        self.writer.add_image(name, picture, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
