"""Any stored picture as 8-bit RGB: first frame, upright, transparency on white, CMYK and 16 bits converted."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # decoders that run nothing outside Pillow
HEIF = "HEIF"  # read where pillow-heif is installed
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # that a HEIF file begins with
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
            with Image.open(BytesIO(data), formats=readable(data)) as opened:
                check_size(opened.size)
                opened.seek(0)
                return to_rgb(to_srgb(ImageOps.exif_transpose(opened)))
        except BadPicture:
            raise
        except Image.DecompressionBombError as error:
            raise BadPicture(f"{error}, the limit is {MAX_PIXELS:,}") from None
        except Image.UnidentifiedImageError:
            raise BadPicture(f"not one of {', '.join(FORMATS)}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise BadPicture(str(error) or type(error).__name__) from None


def readable(data: bytes) -> tuple[str, ...]:
    """The formats that can be read; a HEIF picture without the library for it is a BadPicture that names it."""
    if data[4:8] != b"ftyp" or data[8:12] not in BRANDS:
        return FORMATS
    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise BadPicture("HEIC needs pillow-heif: pip install 'edgegen[data]'") from None
    pillow_heif.register_heif_opener()
    return *FORMATS, HEIF


def to_srgb(picture: Image.Image) -> Image.Image:
    """A picture in the colours of sRGB, as its ICC profile says; without one, or with a broken one, as it is."""
    data = picture.info.get("icc_profile")
    if not data or picture.mode.startswith("I") or picture.mode == "F":
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        if ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return picture
        return convert_profile(picture, profile)
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):
        return picture


def convert_profile(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """The colours of a profile as those of sRGB, transparency kept."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if "transparency" in picture.info or picture.mode == "PA" else "RGB")
    alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    key = picture.info.get("transparency")  # of RGB and L: a colour that stands for nothing
    if alpha is None and key is not None and picture.mode in ("RGB", "L"):
        alpha = picture.convert("RGBA").getchannel("A")
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}[profile.profile.xcolor_space.strip()]
    plain = picture if picture.mode == mode else picture.convert(mode)
    made = ImageCms.profileToProfile(
        plain, profile, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB"
    )
    assert made is not None  # only where it is done in place
    made.info.pop("transparency", None)
    if alpha is not None:
        made.putalpha(alpha)
    return made


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
