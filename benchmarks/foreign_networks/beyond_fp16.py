"""Networks one layer of which gives numbers that fp16 does not hold, on Core ML: as they are, and scaled.

    python benchmarks/foreign_networks/beyond_fp16.py [--out FILE]

Tiny networks with random weights (tests/foreign.py), a layer's multiplied by a factor. A row is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from foreign import FAMILIES, source  # noqa: E402

from edgegen.backends.registry import find_backend  # noqa: E402
from edgegen.bench.records import append, environment  # noqa: E402
from edgegen.capture.deploy import deploy  # noqa: E402
from edgegen.errors import EdgegenError  # noqa: E402
from edgegen.foreign.export import Recorded, record  # noqa: E402
from edgegen.foreign.scaling import mended_  # noqa: E402
from edgegen.pipeline.artifact import open_component  # noqa: E402
from edgegen.rewrite.component import Form  # noqa: E402
from edgegen.target import load_tier  # noqa: E402
from edgegen.verify import compare  # noqa: E402

GROWN = (  # family, layer, factor of its weights
    ("pixart", "transformer_blocks.1.ff.net.2", 1e6), ("pixart", "transformer_blocks.0.ff.net.2", 3e4),
    ("pixart", "transformer_blocks.0.attn1.to_out.0", 1e5), ("flux", "transformer_blocks.0.ff.net.2", 1e6),
    ("z_image", "layers.0.feed_forward.w3", 1e6), ("lumina2", "layers.0.feed_forward.linear_2", 1e6),
)  # fmt: skip


def grown(family: str, layer: str, factor: float) -> Recorded:
    made = source(*FAMILIES[family]())
    for parameter in made.module.get_submodule(layer).parameters():
        parameter.data *= factor
    return record(made)


def reached(recorded: Recorded, scaled: bool) -> dict[str, Any]:
    """PSNR of the saved program, None where it is not finite, and the exponents of 2; or why it is refused."""
    target, backend = load_tier("high-phone").backend("coreml"), find_backend("coreml")
    component = deploy(recorded.traced, Form(target.attention, target.query_chunk, target.operations))
    try:
        exponents = mended_(recorded, component) if scaled else {}
    except EdgegenError as error:
        return {"refused": error.message}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.mlpackage"
        backend.write(component, path, target, {})
        inputs, outputs = backend.signature(component, target)
        run = open_component("coreml", path, tuple(inputs), tuple(outputs))
        row = compare(run, recorded.cases, "network", "coreml", 60.0)
    return {"db": round(row.psnr_db, 1) if row.finite else None, "exponents": exponents}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measurements.jsonl"))
    asked = parser.parse_args()
    for family, layer, factor in GROWN:
        recorded = grown(family, layer, factor)
        row = {"study": "beyond fp16", "family": family, "layer": layer, "factor": factor, "largest": recorded.largest}
        row |= {"as_it_is": reached(recorded, False), "scaled": reached(recorded, True)}
        print(json.dumps(append(asked.out, {"source": "measured", **row, **environment()})), flush=True)


if __name__ == "__main__":
    main()
