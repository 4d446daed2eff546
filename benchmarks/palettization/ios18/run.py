"""Is a palettized Core ML package wrong on disk, or where it runs? The recipes of coremltools #2688, #2716 and #2777.

    python benchmarks/palettization/ios18/run.py

A small language-model-like network (embedding, two pre-norm attention blocks, last-token output) is converted for each
release, palettized by each reported recipe, saved, and evaluated operation by operation from the bytes of the package.
Compared with: PyTorch with its own weights (what the reports compared with), and PyTorch with the weights that the
package's constants decode to (what the file ought to compute). Appends a row a recipe to measurements.jsonl.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.bench.records import append_study
from edgegen.emit.mlpackage import DEBUG_HANDLES
from edgegen.emit.palette_coreml import compress_
from edgegen.quantize.palette import palettize
from edgegen.runtime.coreml import CoreMLProgram

VOCABULARY, SIZE, TOKENS = 512, 120, 16  # 120 outputs: groups of 16 and 32 do not divide them


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_attn, self.norm_ffn = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)
        self.q, self.k, self.v, self.o = (nn.Linear(SIZE, SIZE, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(SIZE, 4 * SIZE), nn.Linear(4 * SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_attn(x)
        scores = self.q(y) @ self.k(y).transpose(1, 2) * SIZE**-0.5
        x = x + self.o(scores.softmax(-1) @ self.v(y))
        return x + self.down(F.gelu(self.up(self.norm_ffn(x))))


class Network(nn.Module):
    """Token ids (1, N) -> embedding of the last token (1, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, SIZE)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(SIZE)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(ids)))[:, -1]


def network() -> Network:
    """Heavy-tailed weights, as trained ones are."""
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1 + 0.5 * torch.randn_like(parameter).pow(3).clamp(-8, 8))
    return model


def converted(model: Network, target: str) -> Any:
    import coremltools as ct

    program = torch.export.export(model, (torch.zeros(1, TOKENS, dtype=torch.int32),), strict=False)
    return ct.convert(
        program.run_decompositions({}),
        minimum_deployment_target=getattr(ct.target, target),
        inputs=[ct.TensorType(name="ids", shape=(1, TOKENS), dtype=np.int32)],
        outputs=[ct.TensorType(name="out", dtype=np.float16)],
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def theirs(**settings: Any) -> Callable[[Any, Network, str], Any]:
    """A recipe of coremltools' post-training palettization."""

    def apply(package: Any, model: Network, target: str) -> Any:
        from coremltools.optimize import coreml as cto

        config = cto.OpPalettizerConfig(weight_threshold=2048, mode="kmeans", nbits=4, **settings)
        return cto.palettize_weights(package, cto.OptimizationConfig(global_config=config))

    return apply


def ours(package: Any, model: Network, target: str) -> Any:
    """edgegen's form: one table a weight, written by name."""
    import coremltools as ct

    weights = {name: palettize(p.detach(), 4) for name, p in model.named_parameters() if p.ndim == 2}
    with torch.no_grad():
        dense = {name: p.clone() for name, p in model.named_parameters()}
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight.dense())
        package = converted(model, target)
        for name, value in dense.items():
            model.get_parameter(name).copy_(value)
    compress_(package._mil_program, weights, target)
    return ct.convert(
        package._mil_program,
        convert_to="mlprogram",
        pass_pipeline=ct.PassPipeline.EMPTY,
        minimum_deployment_target=getattr(ct.target, target),
        skip_model_load=True,
    )


GROUPED = {"granularity": "per_grouped_channel", "group_size": 24}
RECIPES = {
    ("one table, #2716", "iOS16"): theirs(), ("one table, #2716", "iOS17"): theirs(),
    ("one table, #2688 comment", "iOS18"): theirs(),
    ("one table and a scale a channel, #2688", "iOS18"): theirs(enable_per_channel_scale=True),
    ("a table for 24 outputs", "iOS18"): theirs(**GROUPED),
    ("a table for 24 outputs and a scale a channel, #2688", "iOS18"): theirs(**GROUPED, enable_per_channel_scale=True),
    ("groups of 16 that do not divide 120, and a scale, #2777", "iOS18"): theirs(
        granularity="per_grouped_channel", group_size=16, enable_per_channel_scale=True),
    ("edgegen", "iOS17"): ours, ("edgegen", "iOS18"): ours,
}  # fmt: skip


def decoded(program: CoreMLProgram, package: Any, model: Network) -> Network:
    """The network with the weights that coremltools decodes from a package, matched by name and shape."""
    from coremltools.optimize import coreml as cto

    found = cto.get_weights_metadata(cto.decompress_weights(package), weight_threshold=0)
    copy = network()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if parameter.ndim != 2:
                continue
            start = f"p_{name.replace('.', '_')}"
            matches = [w.val for key, w in found.items() if key.startswith(start)]
            if len(matches) != 1 or matches[0].shape != tuple(parameter.shape):
                raise SystemExit(f"{name}: {len(matches)} constants match")
            parameter.copy_(torch.from_numpy(matches[0].astype(np.float32)))
    return copy


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def psnr(reference: np.ndarray, value: np.ndarray) -> float:
    error = np.square(reference.astype(np.float64) - value).mean()
    return float(20 * np.log10(np.abs(reference).max() / max(np.sqrt(error), 1e-12)))


def study(name: str, target: str, recipe: Callable[[Any, Network, str], Any], folder: Path) -> dict:
    """What one recipe's package holds and computes."""
    model = network()
    package = recipe(converted(model, target), model, target)
    path = folder / "model.mlpackage"
    package.save(str(path))
    (path / DEBUG_HANDLES).unlink(missing_ok=True)
    program = CoreMLProgram.load(path)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, TOKENS)).astype(np.int32)
    made = next(iter(program.run({"ids": ids}, fp16=True).values()))
    with torch.no_grad():
        original = model(torch.from_numpy(ids)).numpy()
        same_weights = decoded(program, package, model)(torch.from_numpy(ids)).numpy()
    counts = program.operation_counts()
    return {
        "operations": {kind: count for kind, count in sorted(counts.items()) if kind.startswith("constexpr")},
        "palettized": sum(count for kind, count in counts.items() if kind == "constexpr_lut_to_dense"),
        "cosine_to_original": round(cosine(original, made), 4),
        "psnr_to_same_weights_db": round(psnr(same_weights, made), 1),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for (name, target), recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            results = study(name, target, recipe, Path(folder))
        append_study(Path(__file__).with_name("measurements.jsonl"), {"recipe": name, "target": target}, results)
        print(name, target, results, flush=True)


if __name__ == "__main__":
    main()
