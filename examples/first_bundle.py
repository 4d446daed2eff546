"""The main job from Python: the bundled model sliced for a phone, verified, and a picture drawn with the files.

python examples/first_bundle.py [FOLDER]
"""

import sys
from pathlib import Path

import edgegen


def main(folder: Path) -> None:
    result = edgegen.export_bundle(tier="low-android", backends=["onnx"], out=folder / "bundle")
    for row in result.rows:
        print(f"{row.component} on {row.backend}: {row.psnr_db:.1f} dB, floor {row.floor_db:g} dB")
    drawn = edgegen.generate_image("a red heart", result.bundle, seed=0, out=folder / "heart.png")
    print(f"{drawn.picture}: {drawn.open().size}, {drawn.seconds:.2f} s, measured here")
    for row in edgegen.predict_latency(result.bundle, "pixel8").rows:
        told = row["latency_ms"]
        print(row["component"], f"{told['predicted']:.1f} ms, predicted" if told else row["cannot_predict"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/first_bundle"))
