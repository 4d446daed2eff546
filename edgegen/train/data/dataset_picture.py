"""Any stored picture as 8-bit RGB: first frame, upright, transparency on white, CMYK and 16 bits converted."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # decoders that run nothing outside Pillow
MAX_PIXELS = 2**26  # 8192 x 8192: beyond, a small file may unpack to gigabytes
WHITE = (255, 255, 255, 255)


class BadPicture(ValueError):
    """A picture that cannot be used, and why."""


def decode_picture(data: bytes) -> Image.Image:
    """Encoded bytes to an RGB picture; BadPicture when they are damaged, of an unknown format or too large."""
    if not data:
        raise BadPicture("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, which are refused below, and of odd metadata
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as opened:
                check_size(opened.size)
                opened.seek(0)
                return to_rgb(ImageOps.exif_transpose(opened))
        except BadPicture:
            raise
        except Image.DecompressionBombError as error:
            raise BadPicture(f"{error}, the limit is {MAX_PIXELS:,}") from None
        except Image.UnidentifiedImageError:
            raise BadPicture(f"not one of {', '.join(FORMATS)}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise BadPicture(str(error) or type(error).__name__) from None


def check_size(size: tuple[int, int]) -> None:
    """Refuses what would take too much memory to unpack, before it is unpacked."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BadPicture(f"{size[0]}x{size[1]} are {size[0] * size[1]:,} pixels, the limit is {MAX_PIXELS:,}")


def to_rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture of any mode as RGB, on white where it is transparent."""
    if picture.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        grey = np.asarray(picture, dtype=np.uint16)  # (H,W)
        return Image.fromarray((grey / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise BadPicture(f"mode {picture.mode} (32 bits) does not say which value is white")
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture).convert("RGB")
    return picture.convert("RGB")
