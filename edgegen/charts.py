"""Charts as SVG text: bars, lines and a curve; nothing fetched, nothing installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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


def bars(entries: Sequence[Bar], title: str, log: bool = False) -> str:
    """Horizontal bars on one scale, from 0, or with `log` from half a decade below the least value above 0."""
    place, body = bar_scale(entries, log), []
    for i, bar in enumerate(entries):
        y = i * LINE
        body.append(
            f'<text x="{LABEL - 6}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
            f'<rect x="{LABEL}" y="{y + 4}" width="{place(bar.value):.1f}" height="12" fill="{bar.colour}"/>'
        )
        if bar.whisker:
            low, high = (LABEL + place(end) for end in bar.whisker)
            body.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10}" y2="{y + 10}" stroke="#111"/>')
        body.append(f'<text x="{LABEL + place(bar.reach) + 6:.1f}" y="{y + 14}">{escape(bar.text)}</text>')
    return svg(len(entries) * LINE + 6, body, title)


def bar_scale(entries: Sequence[Bar], log: bool) -> Callable[[float], float]:
    """The length in pixels of a value; the longest bar leaves room for its text."""
    space, longest = WIDTH - LABEL - 200, max((bar.reach for bar in entries), default=1) or 1
    shown = [bar.value for bar in entries if bar.value > 0]
    if not log or not shown:
        return lambda value: value * space / longest
    low, high = math.log10(min(shown)) - 0.5, math.log10(longest)
    return lambda value: space * (math.log10(value) - low) / (high - low) if value > 0 else 0.0


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


def curve(
    points: Sequence[tuple[float, float]],
    title: str,
    x_label: str,
    y_label: str,
    mark: tuple[float, float] | None = None,
    log: bool = False,
) -> str:
    """A curve of (x, y) with its axes' ends written out, and one point marked; `log` takes y above 0 by its order."""
    shown = [(x, math.log10(y) if log else y) for x, y in points if y > 0 or not log]
    if len(shown) < 2:
        return svg(LINE, ['<text x="0" y="14">too few points for a curve</text>'], title)
    height, right, bottom = 300, WIDTH - 20, 300 - BOTTOM
    lows, highs = ([f(axis) for axis in zip(*shown, strict=True)] for f in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = ((v - low) / (high - low or 1) for v, low, high in zip((x, y), lows, highs, strict=True))
        return LEFT + across * (right - LEFT), bottom - up * (bottom - TOP)

    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(x, y) for x, y in shown))
    ends = [10**v if log else v for v in (lows[1], highs[1])]
    body = [
        f'<path d="M{LEFT} {TOP} V{bottom} H{right}" fill="none" stroke="#999"/>',
        f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="2"/>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{ends[0]:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{ends[1]:.3g}</text>',
        f'<text x="{LEFT}" y="{bottom + 16}">{lows[0]:g}</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{highs[0]:g}</text>',
        f'<text x="{WIDTH / 2:g}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="{LEFT}" y="14">{escape(y_label)}</text>',
    ]
    if mark is not None:
        x, y = place(mark[0], math.log10(mark[1]) if log and mark[1] > 0 else mark[1])
        body.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{AMBER}"/>'
            f'<text x="{x + 8:.1f}" y="{y - 8:.1f}">{mark[0]:.3g}: {mark[1]:.3g}</text>'
        )
    return svg(height, body, title)
