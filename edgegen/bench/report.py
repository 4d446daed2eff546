"""The static report: one HTML file with tables and inline SVG plots, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from edgegen.bench.compare import Comparison
from edgegen.bench.profile import Share, TimedOperation, shares
from edgegen.charts import AMBER, BLUE, LABEL, WIDTH, Bar, bars, svg
from edgegen.files import disk_errors

COLOURS = {"measured": BLUE, "predicted": AMBER}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.predicted{color:#8a5500}.note{color:#555}svg{max-width:100%}"""


def write(
    path: Path,
    rows: Sequence[dict],
    comparisons: Sequence[Comparison] = (),
    profiles: Mapping[str, Sequence[TimedOperation]] | None = None,
) -> None:
    """Writes the report; an existing file is replaced once the new one is whole."""
    text = html(rows, comparisons, profiles or {})
    with disk_errors(path.absolute()):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def html(
    rows: Sequence[dict], comparisons: Sequence[Comparison], profiles: Mapping[str, Sequence[TimedOperation]]
) -> str:
    """The whole page."""
    sources = " and ".join(dict.fromkeys(row["source"] for row in rows)) or "measured"
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows)) or "host"
    parts = [f"<h1>edgegen bench: {escape(devices)}, {sources}</h1>", provenance(rows[0]) if rows else ""]
    if rows:
        parts += ["<h2>Latency</h2>", latency_plot(rows), latency_table(rows)]
    measured = [row for row in rows if row["source"] == "measured"]
    if measured:
        parts += ["<h2>Every run, in order</h2>", *(runs_plot(row) for row in measured)]
    if comparisons:
        parts += ["<h2>Compared</h2>", comparison_table(comparisons)]
    for title, operations in profiles.items():
        parts += [f"<h2>Profile: {escape(title)}</h2>"]
        for by in ("module", "kind"):
            found = shares(operations, by)
            parts += [f"<h3>By {by}</h3>", share_plot(found[:30]), share_table(found)]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>edgegen bench: {escape(devices)}</title>"
        f"<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n"
    )


def provenance(row: Mapping) -> str:
    """When, which commit, machine and versions."""
    machine, versions = row["machine"], ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    told = (
        f"{row['date']}, commit {row['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}. {versions}."
    )
    return f"<p class=note>{escape(told)}</p>"


def name_of(row: Mapping) -> str:
    return f"{row['component']} on {row['backend']} ({row['model']}/{row['tier']}), {row['source']}"


def middle_of(row: Mapping) -> tuple[float, float, float] | None:
    """Milliseconds: the value of a row with the ends of its whisker; None where nothing could be predicted."""
    latency = row["latency_ms"]
    if latency is None:
        return None
    if row["source"] == "measured":
        return latency["p50"], latency["min"], latency["p95"]
    return latency["predicted"], latency["low"], latency["high"]


def latency_plot(rows: Sequence[dict]) -> str:
    """Bars of the medians or predictions, with whiskers from min to p95 or over the interval."""
    found = [(row, *middle) for row in rows if (middle := middle_of(row)) is not None]
    return bars(
        [
            Bar(
                name_of(row),
                value,
                f"{value:.3g} ms, {low:.3g} to {high:.3g}, {row['source']}",
                COLOURS[row["source"]],
                (low, high),
            )
            for row, value, low, high in found
        ],
        "latency",
    )


def latency_table(rows: Sequence[dict]) -> str:
    """One line a row, always with its source."""
    head = (
        "component",
        "back end",
        "bundle",
        "source",
        "ms",
        "from",
        "to",
        "load",
        "first",
        "p90",
        "max",
        "CV*",
        "runs",
        "memory, MB",
        "memory, predicted, MB",
        "sha256",
    )
    lines = []
    for row in rows:
        value = middle_of(row)
        cells = [row["component"], row["backend"], f"{row['model']}/{row['tier']}", row["source"]]
        cells += [f"{x:.3g}" for x in value] if value else [f"cannot be predicted: {row['cannot_predict']}", "", ""]
        cells += measured_cells(row) if row["source"] == "measured" else [""] * 6
        cells += memory_cells(row["memory"] or {}, row["source"])
        cells.append(" ".join(artifact["sha256"][:12] for artifact in row["artifacts"]))
        lines.append(f"<tr class={row['source']}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells))
    return table(head, lines) + (
        "<p class=note>Measured: median, fastest run to 95th percentile. Predicted: middle "
        "and interval. * without the fastest and slowest tenth.</p>"
    )


def measured_cells(row: Mapping) -> list[str]:
    latency = row["latency_ms"]
    partial = " (partial)" if row["partial"] else ""
    return [
        f"{row['load_ms']:.3g}",
        f"{row['first_ms']:.3g}",
        f"{latency['p90']:.3g}",
        f"{latency['max']:.3g}",
        f"{latency['cv_trimmed']:.2f}{' noisy' if row['noisy'] else ''}",
        f"{latency['n']}{partial}",
    ]


def memory_cells(memory: Mapping, source: str) -> list[str]:
    """Megabytes measured, and predicted with their interval."""
    measured = f"{memory['peak_over_base_bytes'] / 1e6:.1f}" if "peak_over_base_bytes" in memory else ""
    told = memory if source == "predicted" else memory.get("predicted")
    if not told:
        return [measured, ""]
    value, low, high = (f"{told[key] / 1e6:.1f}" for key in ("predicted_bytes", "low", "high"))
    return [measured, f"predicted {value} ({low} to {high})"]


def runs_plot(row: Mapping) -> str:
    """Milliseconds of the single runs in the order they were taken: drift and stalls show."""
    runs, height = row["latency_ms"]["runs"], 70
    top, step = max(runs), (WIDTH - LABEL - 20) / max(1, len(runs) - 1)
    dots = [
        f'<circle cx="{LABEL + i * step:.1f}" cy="{height - 8 - (height - 20) * run / top:.1f}" r="2" fill="{BLUE}"/>'
        for i, run in enumerate(runs)
    ]
    label = (
        f'<text x="{LABEL - 6}" y="34" text-anchor="end">{escape(name_of(row))}</text>'
        f'<text x="{LABEL - 6}" y="50" text-anchor="end" fill="#555">0 to {top:.3g} ms</text>'
        f'<line x1="{LABEL}" x2="{WIDTH - 20}" y1="{height - 8}" y2="{height - 8}" stroke="#bbb"/>'
    )
    return svg(height, [label, *dots], f"runs of {name_of(row)}")


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    lines = [
        "<tr>"
        + "".join(
            f"<td>{escape(str(cell))}</td>"
            for cell in (
                c.component,
                c.a,
                c.b,
                f"{c.ratio.value:.3f}",
                f"{c.ratio.low:.3f} to {c.ratio.high:.3f}",
                c.verdict,
            )
        )
        for c in comparisons
    ]
    return table(
        ("component", "A", "B", "time A / B", f"{comparisons[0].ratio.confidence:.0%} interval", "verdict"), lines
    )


def share_plot(found: Sequence[Share]) -> str:
    return bars(
        [Bar(s.name, s.ms, f"{s.ms:.3f} ms, {s.share:.1%}, {s.operations} operations") for s in found],
        "time by module or kind",
    )


def share_table(found: Sequence[Share]) -> str:
    lines = [
        f"<tr><td>{escape(s.name)}</td><td>{s.operations}</td><td>{s.ms:.3f}</td><td>{s.share:.1%}</td>" for s in found
    ]
    return "<details><summary>table</summary>" + table(("name", "operations", "ms", "share"), lines) + "</details>"


def table(head: Sequence[str], lines: Sequence[str]) -> str:
    return (
        "<table><tr>"
        + "".join(f"<th>{escape(cell)}</th>" for cell in head)
        + "</tr>"
        + "".join(f"\n{line}</tr>" for line in lines)
        + "</table>"
    )
