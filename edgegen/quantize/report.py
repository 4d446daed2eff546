"""report.html: what was quantized, at what cost, as one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from edgegen.charts import PALETTE, Bar, bars, curve
from edgegen.quantize.pictures import data_url

STYLE = """body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:right}td:first-child,th:first-child{text-align:left}
.row{display:flex;flex-wrap:wrap;gap:.6em}figure{margin:0;text-align:center;font-size:12px}
img{width:128px;image-rendering:auto}svg{width:100%}@media(prefers-color-scheme:dark){body{background:#fff}}"""

GREY = PALETTE[4]
Pictures = Mapping[str, Sequence[np.ndarray]]  # by column: "original", "quantized", "tuned"


def page(report: Mapping[str, Any], pictures: Pictures) -> str:
    """The page of a report (report.json) with pictures before and after; `pictures` are in the order of its prompts."""
    title = f"{report['model']} at width {report['width']:g}: {report['bits']:.3f} bits a weight"
    parts = [f"<h1>{escape(title)}</h1>", summary(report)]
    if pictures:
        parts += ["<h2>Pictures</h2>", sheet(report["pictures"], pictures)]
    if report["curve"]:
        parts += [
            "<h2>Error against average bits</h2>",
            f"<p>The sum over layers of the squared error ({escape(report['measure'])}) of each layer quantized "
            "alone; the point is the plan that was taken.</p>",
            curve(
                [(c["bits"], c["error"]) for c in report["curve"]],
                "error against average bits",
                "average bits a weight",
                "error (log)",
                (report["bits"], report["error"]) if report["error"] else None,
                log=True,
            ),
        ]
    if len(report["tuning"]["curve"]) > 1:
        parts += [
            "<h2>Tuning</h2>",
            "<p>Mean squared error of the velocity on held-out points.</p>",
            curve([(step, error) for step, error in report["tuning"]["curve"]], "tuning", "step", "error"),
        ]
    parts += ["<h2>Size by component</h2>", sizes(report["components"])]
    if any(layer["errors"] for layer in report["layers"]):
        parts += [
            "<h2>Sensitivity of each layer</h2>",
            f"<p>Squared error ({escape(report['measure'])}) with the layer's weight at the fewest bits offered "
            "(log); the colour tells the bits it was given.</p>",
            sensitivities(report["layers"]),
        ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def summary(report: Mapping[str, Any]) -> str:
    """The numbers that matter, as a table."""
    velocity = report["velocity"]
    rows = [
        ("method", report["method"]),
        ("bits asked", f"{report['bits_asked']:g}"),
        ("bits reached, palettes counted", f"{report['bits']:.4f}"),
        ("weights quantized", f"{report['quantized_parameters']:,} of {report['parameters']:,}"),
        ("velocity before tuning", f"{velocity['psnr_before_db']:.2f} dB"),
        ("velocity after tuning", f"{velocity['psnr_after_db']:.2f} dB"),
        ("tuning steps", f"{report['tuning']['steps']:,}"),
    ]
    cells = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in rows)
    return (
        f"<table>{cells}</table><p>Velocity: PSNR against the unquantized model on points of its own trajectories "
        "that tuning did not see.</p>"
    )


def sheet(drawn: Sequence[Mapping[str, Any]], pictures: Pictures) -> str:
    """A row of pictures for each column, the same prompts and seeds in each."""
    rows = []
    for column, images in pictures.items():
        figures = "".join(
            f"<figure><img alt='{escape(d['prompt'], quote=True)}' src='{data_url(image)}'>"
            f"<figcaption>{escape(d['prompt'])}, seed {d['seed']}</figcaption></figure>"
            for d, image in zip(drawn, images, strict=True)
        )
        rows.append(f"<h3>{escape(column)}</h3><div class=row>{figures}</div>")
    return "".join(rows)


def sizes(components: Sequence[Mapping[str, Any]]) -> str:
    """Bytes of each component in float16 and as stored."""
    rows = []
    for part in components:
        rows += [
            Bar(f"{part['name']}, float16", part["bytes_float16"], f"{part['bytes_float16'] / 1e6:.2f} MB", GREY),
            Bar(f"{part['name']}, stored", part["bytes"], f"{part['bytes'] / 1e6:.2f} MB"),
        ]
    return bars(rows, "size by component")


def sensitivities(layers: Sequence[Mapping[str, Any]]) -> str:
    """A bar a layer, in the network's order."""
    given = sorted({layer["bits"] for layer in layers})
    rows = [
        Bar(
            layer["name"].removesuffix(".weight"),
            next(iter(layer["errors"].values()), 0.0),
            f"{layer['bits']} bits",
            PALETTE[given.index(layer["bits"]) % len(PALETTE)],
        )
        for layer in layers
    ]
    return bars(rows, "sensitivity of each layer", log=True)
