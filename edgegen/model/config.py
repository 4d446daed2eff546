"""The shape of a diffusion transformer: one frozen dataclass, presets in one dict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from edgegen.errors import InputError
from edgegen.schema import OneOf, Range, Size, from_values

STAGES = ("down", "middle", "up")
Channels = Annotated[int, Range(1, 2**14)]
Count = Annotated[int, Range(1, 256)]
Width = Annotated[float, Range(0, 1, above=True)]


@dataclass(frozen=True)
class DiTConfig:
    """A diffusion transformer, from PixArt-like (one stage) to SnapGen++ (three stages), arXiv 2601.08303.

    `hidden` is the width of the full model; a sub-width w has `hidden * w` channels and as many heads fewer.
    """

    hidden: Channels = 2048
    head_dim: Annotated[int, Range(4, 512)] = 64
    # layers in down, middle, up; one number: a single stage, no resampling
    depths: Annotated[tuple[Annotated[int, Range(1, 128)], ...], Size(1, 3)] = (8, 10, 10)
    ffn_ratios: Annotated[tuple[Annotated[int, Range(1, 16)], ...], Size(1, 3)] = (4, 3, 4)
    sparse: bool = True  # ASSA in down and up; False: full self-attention everywhere
    blocks: Count = 16  # BNA: contiguous blocks of the row-major token sequence
    radius: Annotated[int, Range(0, 256)] = 1  # BNA: a block attends to this many blocks on either side
    queries_per_kv: Annotated[int, Range(0, 256)] = 2  # query heads that share a key/value head; 0: one for all (MQA)
    cross_kv_heads: Count = 4  # key/value heads of cross-attention, the same at every width
    long_skips: bool = True
    text_dim: Channels = 2560
    pooled_text: bool = False  # add the mean text token to the timestep embedding
    in_channels: Annotated[int, Range(1, 1024)] = 16
    patch: Annotated[int, Range(1, 32)] = 2
    # tokens (rows, columns) the model was trained at
    grid: tuple[Annotated[int, Range(1, 1024)], Annotated[int, Range(1, 1024)]] = (64, 64)
    time_features: Annotated[int, Range(2, 2**14)] = 256
    rope_theta: Annotated[float, Range(1, 1e9)] = 10000.0
    widths: Annotated[tuple[Width, ...], Size(1, 16)] = (1.0,)
    assa: Annotated[str, OneOf(("both", "global", "local"))] = "both"  # branches of ASSA; one alone is for studies

    def __post_init__(self) -> None:
        for name in ("depths", "ffn_ratios", "grid", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_sizes()
        for width in self.widths:
            self._check_width(width)
        self.check_grid(self.grid)

    def _check_sizes(self) -> None:
        positive = ("hidden", "head_dim", "blocks", "cross_kv_heads", "text_dim", "in_channels", "patch")
        for name in positive:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if len(self.depths) not in (1, 3) or len(self.ffn_ratios) != len(self.depths):
            raise InputError(
                f"depths {self.depths} and ffn_ratios {self.ffn_ratios} must both have 1 or 3 entries.",
                "Give one number per stage: down, middle, up.",
            )
        if self.hidden % self.head_dim or self.head_dim % 4:
            raise InputError(
                f"head_dim {self.head_dim} must divide hidden {self.hidden} and be a multiple of 4 (2-D RoPE)."
            )
        if self.time_features % 2:
            raise InputError(f"time_features {self.time_features} must be even: a cosine and a sine per frequency.")
        if self.assa not in ("both", "global", "local"):
            raise InputError(f"assa {self.assa!r} is not one of both, global, local.")
        if self.radius < 0:
            raise InputError(f"radius {self.radius} must be 0 or more.")

    def _check_width(self, width: float) -> None:
        heads = self.hidden // self.head_dim * width
        if not 0 < width <= 1 or heads != int(heads):
            raise InputError(
                f"width {width} gives {heads:g} heads of {self.hidden // self.head_dim}; a whole number "
                "above 0 is needed."
            )
        for what, size in (("queries_per_kv", self.queries_per_kv), ("cross_kv_heads", self.cross_kv_heads)):
            if size and int(heads) % size:
                raise InputError(f"{what} {size} does not divide the {int(heads)} heads of width {width}.")

    @property
    def heads(self) -> int:
        return self.hidden // self.head_dim

    @property
    def kv_heads(self) -> int:
        return self.heads // self.queries_per_kv if self.queries_per_kv else 1

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES if len(self.depths) == 3 else ("middle",)

    def stage_sparse(self, stage: str) -> bool:
        return self.sparse and stage != "middle"

    def at(self, width: float) -> DiTConfig:
        """The plain model of one width: the same layers, `hidden * width` channels."""
        if width not in self.widths:
            raise InputError(
                f"width {width} is not one of the model's widths {list(self.widths)}.",
                "Pick one of them, or a checkpoint that has it.",
            )
        return replace(self, hidden=round(self.hidden * width), widths=(1.0,))

    def grid_of(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Tokens (rows, columns) of a latent (height, width); refuses what does not divide."""
        grid = (latent_size[0] // self.patch, latent_size[1] // self.patch)
        if (grid[0] * self.patch, grid[1] * self.patch) != tuple(latent_size):
            raise InputError(f"latent {latent_size[0]}x{latent_size[1]} is not a multiple of patch {self.patch}.")
        self.check_grid(grid)
        return grid

    def fits(self, grid: tuple[int, int]) -> bool:
        """Whether a token grid can be halved (three stages) and cut into `blocks` equal blocks (ASSA)."""
        rows, columns = grid
        if rows < 1 or columns < 1:
            return False
        halves = len(self.depths) == 1 or (rows % 2 == 0 and columns % 2 == 0)
        even_for_compression = not self.sparse or (rows % 2 == 0 and columns % 2 == 0)
        return (
            halves
            and (not self.sparse or len(self.depths) == 1 or rows * columns % self.blocks == 0)
            and (even_for_compression)
        )

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Refuses a token grid the network cannot take and names the nearest one that fits."""
        if self.fits(grid):
            return
        near = self.nearest_grid(grid)
        raise InputError(
            f"a grid of {grid[0]}x{grid[1]} tokens does not fit: rows and columns must be even and their product a "
            f"multiple of {self.blocks} (the BNA blocks).",
            f"The nearest that fits is {near[0]}x{near[1]} tokens.",
        )

    def nearest_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The fitting token grid closest to `grid` in rows plus columns; ties go to the larger."""
        reach = 2 * self.blocks + 2
        near = [
            (rows, columns)
            for rows in range(max(1, grid[0] - reach), grid[0] + reach + 1)
            for columns in range(max(1, grid[1] - reach), grid[1] + reach + 1)
            if self.fits((rows, columns))
        ]
        return min(near, key=lambda g: (abs(g[0] - grid[0]) + abs(g[1] - grid[1]), -g[0] * g[1]))

    def to_dict(self) -> dict:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> DiTConfig:
        """Builds a configuration from parsed JSON or TOML; an unknown key or a wrong value is named."""
        return from_values(cls, values)


def score_elements(config: DiTConfig, latent_size: tuple[int, int]) -> int:
    """Attention scores of the self-attention layer that has most, at a latent (height, width)."""
    rows, columns = config.grid_of(latent_size)
    tokens = rows * columns
    if len(config.depths) == 1:
        return config.heads * tokens**2
    middle = (tokens // 4) ** 2
    compressed = tokens * (tokens // 4) if config.sparse else tokens**2
    return config.heads * max(middle, compressed)


def position_elements(config: DiTConfig, latent_size: tuple[int, int]) -> int:
    """Numbers of the tables of cosines and sines that a deployed transformer holds at a latent (height, width)."""
    rows, columns = config.grid_of(latent_size)
    per_stage = 2 * config.head_dim * rows * columns
    if len(config.depths) == 1:
        return per_stage
    return round(per_stage * (2 * (1 + 1 / 4) + 2 / 4))  # down and up, their compressed keys, and the middle


PAPER = DiTConfig(widths=(0.375, 0.5, 1.0))

PRESETS: dict[str, DiTConfig] = {
    # 266.6M / 437.4M / 1604.7M parameters at the three widths; see tests/test_model.py.
    "paper": PAPER,
    # The bundled model: 128x128 pictures, a 16x16x8 latent, 64 tokens.
    "emoji": DiTConfig(
        hidden=320,
        head_dim=20,
        depths=(2, 4, 2),
        blocks=4,
        cross_kv_heads=2,
        text_dim=256,
        pooled_text=True,
        in_channels=8,
        grid=(8, 8),
        rope_theta=100.0,
        widths=(0.375, 0.5, 1.0),
    ),
}


def ladder(step: str, base: DiTConfig = PAPER) -> DiTConfig:
    """Steps A to D of the paper's ladder (table 1) as changes to `base`, which is step D.

    A: one stage, MQA, FFN ratio 3. B: three stages. C: ASSA in down and up. D: long skips, grouped keys, FFN ratio 4
    outside the middle, four layers moved from the middle. Depths scale with the number of layers of `base`.
    """
    layers = sum(base.depths)
    moved = max(1, layers // 14)
    down, middle, up = base.depths[0] - moved, base.depths[1] + 2 * moved, base.depths[2] - moved
    plain: dict[str, Any] = dict(ffn_ratios=(3, 3, 3), queries_per_kv=0, long_skips=False)
    steps: dict[str, dict[str, Any]] = {
        "A": dict(plain, depths=(layers,), ffn_ratios=(3,), sparse=False),
        "B": dict(plain, depths=(down, middle, up), sparse=False),
        "C": dict(plain, depths=(down, middle, up)),
        "D": {},
    }
    if step not in steps:
        raise InputError(f"ladder step {step!r} does not exist.", f"Pick one of {', '.join(steps)}.")
    return replace(base, **steps[step])
