"""Picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgegen.files import disk_errors, whole_file


def save_picture(picture: Image.Image | np.ndarray, path: Path, format: str | None = None) -> None:
    """Writes a picture, or (H, W, 3) uint8, that appears whole; in the format of its suffix where none is given.

    Folders above it are made. Raises InputError where it cannot be written.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with disk_errors(path.absolute()):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        image.save(partial, format)
