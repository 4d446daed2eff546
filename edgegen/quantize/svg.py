"""Two kinds of chart as SVG text, for a report that is one file and needs no library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

WIDTH, LABEL, ROW = 760, 250, 15
COLOURS = ("#3b6fb6", "#d9772b", "#4c9a5b", "#9b5fb0", "#7a7a7a", "#c2a21b")


def svg(height: float, parts: Iterable[str]) -> str:
    """An SVG element of WIDTH by `height` with a title for each part that has one."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(rows: Sequence[tuple[str, float, str, int]], log: bool = False) -> str:
    """Horizontal bars: (label, value, note, colour's number); with `log` the length shows the order of magnitude."""
    values = [value for _, value, _, _ in rows if value > 0]
    if not values:
        return svg(ROW, [text(0, 11, "nothing to show")])
    low, high = (math.log10(min(values)) - 0.5, math.log10(max(values))) if log else (0.0, max(values))
    space, parts = WIDTH - LABEL - 120, []
    for number, (label, value, note, colour) in enumerate(rows):
        y = number * ROW
        share = 0.0 if value <= 0 else ((math.log10(value) if log else value) - low) / (high - low or 1)
        parts += [
            text(LABEL - 6, y + 11, label, "end"),
            f'<rect x="{LABEL}" y="{y + 2}" width="{max(1.0, share * space):.1f}" height="{ROW - 4}" '
            f'fill="{COLOURS[colour % len(COLOURS)]}"/>',
            text(LABEL + share * space + 6, y + 11, note),
        ]
    return svg(len(rows) * ROW + 4, parts)


def line(
    points: Sequence[tuple[float, float]],
    x_name: str,
    y_name: str,
    mark: tuple[float, float] | None = None,
    log: bool = False,
) -> str:
    """A curve with its axes' ends written out, and one point marked."""
    shown = [(x, math.log10(y) if log else y) for x, y in points if y > 0 or not log]
    if len(shown) < 2:
        return svg(ROW, [text(0, 11, "too few points for a curve")])
    height, left, bottom = 260, 90, 220
    lows, highs = ([f(axis) for axis in zip(*shown, strict=True)] for f in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - lows[0]) / (highs[0] - lows[0] or 1)
        up = (y - lows[1]) / (highs[1] - lows[1] or 1)
        return left + across * (WIDTH - left - 20), bottom - up * (bottom - 20)

    path = " ".join(
        f"{'M' if not i else 'L'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(place(x, y) for x, y in shown)
    )
    ends = [10**v if log else v for v in (lows[1], highs[1])]
    parts = [
        f'<path d="M{left} 20 V{bottom} H{WIDTH - 20}" fill="none" stroke="#999"/>',
        f'<path d="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>',
        text(left - 6, bottom, f"{ends[0]:.3g}", "end"),
        text(left - 6, 28, f"{ends[1]:.3g}", "end"),
        text(left, bottom + 16, f"{lows[0]:g}"),
        text(WIDTH - 20, bottom + 16, f"{highs[0]:g}", "end"),
        text(WIDTH / 2, bottom + 32, x_name, "middle"),
        text(left, 12, y_name),
    ]
    if mark is not None:
        x, y = place(mark[0], math.log10(mark[1]) if log and mark[1] > 0 else mark[1])
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLOURS[1]}"/>',
            text(x + 8, y - 8, f"{mark[0]:.3g}: {mark[1]:.3g}"),
        ]
    return svg(height, parts)
