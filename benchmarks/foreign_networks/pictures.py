"""Pictures of whole tiny pipelines, drawn by a bundle's artifacts, beside diffusers' own at the same noise and steps.

    python benchmarks/foreign_networks/pictures.py [PIPELINE ...] [--backend onnx,coreml,executorch] [--out FILE]

Networks have random weights (tests/pipelines.py), as plausible noise would have them; a row is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from pipelines import PIPELINES, drawn_by_diffusers, save_pipeline, size_of  # noqa: E402

from edgegen import api  # noqa: E402
from edgegen.bench.records import append, environment  # noqa: E402
from edgegen.errors import EdgegenError  # noqa: E402
from edgegen.verify import psnr  # noqa: E402


def row_of(name: str, backend: str, folder: Path) -> dict[str, Any]:
    """One pipeline on one back end: every network's PSNR, and the picture's."""
    pipeline, (width, height), tokens = save_pipeline(name, folder / name), *size_of(name)
    start = time.perf_counter()
    row: dict[str, Any] = {"pipeline": name, "backend": backend, "resolution": [width, height], "tokens": tokens}
    try:
        made = api.export_folder(
            folder / name,
            backends=[backend],
            resolution=(width, height),
            tokens=tokens,
            out=folder / "bundle",
            progress=False,
        )
        row |= {"networks_db": {r.component: round(r.psnr_db, 1) for r in made.rows}}
        drawn = api.generate_image(
            "a red cat",
            folder / "bundle",
            backend,
            seed=5,
            steps=2,
            out=folder / "drawn.png",
            checkpoint=folder / name,
            progress=False,
        )
        picture = np.asarray(Image.open(drawn.picture).convert("RGB"), np.float32) / 255
        row["picture_db"] = round(psnr(drawn_by_diffusers(name, pipeline), picture, peak=1.0), 1)
    except EdgegenError as error:
        row["error"] = str(error)[:300]
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipelines", nargs="*", default=list(PIPELINES))
    parser.add_argument("--backend", default="onnx,coreml,executorch")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measurements.jsonl"))
    asked = parser.parse_args()
    for name in asked.pipelines:
        for backend in asked.backend.split(","):
            with tempfile.TemporaryDirectory() as folder:
                row = row_of(name, backend, Path(folder))
            told = {"source": "measured", **row, **environment(), "diffusers": diffusers.__version__}
            print(json.dumps(append(asked.out, told)), flush=True)


if __name__ == "__main__":
    main()
