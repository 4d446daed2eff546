"""Plots as SVG text: bars and lines, nothing fetched, nothing installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, LINE = 920, 330, 20  # pixels of a plot, of the labels of bars, of one bar
BLUE, AMBER = "#2a6f97", "#c77d0a"
PALETTE = (BLUE, AMBER, "#3c8d53", "#a23b72", "#6b6b6b", "#7b5ea7", "#c0392b", "#1b998b")
LEFT, RIGHT, TOP, BOTTOM = 70, 240, 30, 50  # margins of a plot with axes


@dataclass(frozen=True)
class Bar:
    """A horizontal bar with a text at its end, and a whisker from low to high."""

    label: str
    value: float
    text: str
    colour: str = BLUE
    whisker: tuple[float, float] | None = None

    @property
    def reach(self) -> float:
        return max(self.value, *(self.whisker or (0.0, 0.0)))


def svg(height: float, body: Sequence[str], title: str) -> str:
    """A drawing of the common width."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'font-family="system-ui,sans-serif" font-size="12" role="img" aria-label="{escape(title)}">'
        f"{''.join(body)}</svg>"
    )


def bars(entries: Sequence[Bar], title: str) -> str:
    """Horizontal bars from 0, on one scale."""
    scale = (WIDTH - LABEL - 200) / (max((bar.reach for bar in entries), default=1) or 1)
    body = []
    for i, bar in enumerate(entries):
        y = i * LINE
        body.append(
            f'<text x="{LABEL - 6}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
            f'<rect x="{LABEL}" y="{y + 4}" width="{bar.value * scale:.1f}" height="12" fill="{bar.colour}"/>'
        )
        if bar.whisker:
            low, high = (LABEL + end * scale for end in bar.whisker)
            body.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10}" y2="{y + 10}" stroke="#111"/>')
        body.append(f'<text x="{LABEL + bar.reach * scale + 6:.1f}" y="{y + 14}">{escape(bar.text)}</text>')
    return svg(len(entries) * LINE + 6, body, title)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str, y_label: str, height: int = 360
) -> str:
    """Named series of (x, y) above 0 on logarithmic axes, with a mark and a grid line at every x that occurs."""
    points = [point for some in series.values() for point in some]
    if not points:
        return svg(height, [], title)
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    bottom = math.floor(math.log10(min(ys)))
    top = max(math.ceil(math.log10(max(ys))), bottom + 1)

    def px(x: float) -> float:
        span = math.log(xs[-1] / xs[0]) or 1.0
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / span

    def py(y: float) -> float:
        return TOP + (height - TOP - BOTTOM) * (1 - (math.log10(y) - bottom) / (top - bottom))

    body = [
        f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{height - 8}">{escape(x_label)}; up: {escape(y_label)}, both logarithmic</text>',
    ]
    for decade in range(bottom, top + 1):
        body.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(10**decade):.1f}" y2="{py(10**decade):.1f}" '
            f'stroke="#ddd"/><text x="{LEFT - 6}" y="{py(10**decade) + 4:.1f}" text-anchor="end">'
            f"{10.0**decade:g}</text>"
        )
    for x in xs:
        body.append(
            f'<line x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="#eee"/>'
            f'<text x="{px(x):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        )
    for i, (name, some) in enumerate(series.items()):
        colour = PALETTE[i % len(PALETTE)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in sorted(some))
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>' for x, y in some]
        body.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 16 * i + 10}" fill="{colour}">{escape(name)}</text>')
    return svg(height, body, title)
