"""Pictures of scenes: emoji cut out with their transparency, recoloured, scaled and put on a background.

Shapes: H = W = 128 pixels, P pictures; colours are RGB in 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgegen.emoji.assets import SIZE, cut_out, emoji_names, emoji_sources, fetch_emoji
from edgegen.emoji.captions import STYLES, common_concepts
from edgegen.emoji.scenes import COLOURS, Scene, Thing, scene_concepts

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Sprites:
    """Emoji of the scenes, uint8 (128,128,4) with straight alpha, by (prompt name, style)."""

    pictures: dict[tuple[str, str], np.ndarray]

    @classmethod
    def load(cls, data_dir: Path, tarballs: Path | None = None) -> Sprites:
        """Reads `data_dir/sprites.npz`; fetches and renders what is not there yet."""
        path = data_dir / "sprites.npz"
        held = read_sprites(path)
        if not set(scene_concepts()) <= {name for name, _ in held}:
            render_sprites(fetch_emoji(data_dir, tarballs), path)
            held = read_sprites(path)
        return cls(held)

    def render(self, scene: Scene) -> np.ndarray:
        """The picture of a scene, uint8 (H,W,3)."""
        canvas = Image.new("RGBA", (SIZE, SIZE), (*background_colour(scene), 255))
        for thing in scene.things:
            self._paste_(canvas, thing)
        return np.asarray(canvas.convert("RGB"))

    def _paste_(self, canvas: Image.Image, thing: Thing) -> None:
        sprite = self.pictures[thing.concept, thing.style]
        if thing.colour is not None:
            sprite = recolour(sprite, COLOURS[thing.colour])
        side = round(thing.size * SIZE)
        small = scale_sprite(sprite, side)
        canvas.alpha_composite(small, (clamp_start(thing.x, side), clamp_start(thing.y, side)))


def read_sprites(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """The sprites of a file by (prompt name, style); none where there is no file."""
    if not path.is_file():
        return {}
    with np.load(path) as arrays:
        keys = zip(arrays["names"].tolist(), arrays["styles"].tolist(), strict=True)
        return dict(zip(keys, arrays["pictures"], strict=True))


def clamp_start(centre: float, side: int) -> int:
    """The first pixel of a square of `side` pixels around a centre, inside the picture."""
    return min(max(round(centre * SIZE - side / 2), 0), SIZE - side)


def scale_sprite(sprite: np.ndarray, side: int) -> Image.Image:
    """A sprite (S,S,4) at `side` pixels; scaled with premultiplied alpha, so that edges keep their colour."""
    premultiplied = Image.fromarray(sprite, "RGBA").convert("RGBa")
    return premultiplied.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0).convert("RGBA")


def background_colour(scene: Scene) -> tuple[int, int, int]:
    """White, or a light shade of a colour: things in that colour still stand out."""
    if scene.background == "white":
        return (255, 255, 255)
    strength = 0.38 + 0.24 * scene.shade
    red, green, blue = (round(255 + (c - 255) * strength) for c in COLOURS[scene.background])
    return (red, green, blue)


def recolour(sprite: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A sprite (S,S,4) drawn in shades of one colour: its median lightness becomes the colour, order is kept."""
    rgb, alpha = sprite[..., :3].astype(np.float32), sprite[..., 3:]
    luma = rgb @ LUMA / 255  # (S,S)
    opaque = luma[alpha[..., 0] > 128]
    middle = float(np.clip(np.median(opaque) if opaque.size else 0.5, 0.2, 0.8))
    base = np.array(colour, np.float32)
    dark = (luma / middle)[..., None].clip(0, 1) ** 0.8 * base
    light = ((luma - middle) / (1 - middle))[..., None].clip(0, 1)
    shaded = dark + light * 0.75 * (255 - base)  # (S,S,3)
    return np.concatenate([shaded.clip(0, 255).astype(np.uint8), alpha], -1)


def render_sprites(data_dir: Path, path: Path) -> None:
    """Renders every scene concept in every style with transparency to one .npz file, whole or not at all."""
    wanted = set(scene_concepts())
    names = {c.unicode_name: c.name for c in common_concepts() if c.name in wanted}
    by_key = {key: names[unicode] for key, unicode in emoji_names(data_dir).items() if unicode in names}
    rows = [
        (by_key[key], style, cut_out(opened()))
        for style, key, opened in emoji_sources(data_dir)
        if key in by_key and style in STYLES
    ]
    rows.sort(key=lambda row: row[:2])
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        pictures=np.stack([row[2] for row in rows]),
        names=np.array([row[0] for row in rows]),
        styles=np.array([row[1] for row in rows]),
    )
    temporary.replace(path)
