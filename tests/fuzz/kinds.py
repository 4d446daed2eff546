"""The kinds of input that are mutated; each gives one case in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

from .harness import Case, Kind
from .mutate import LONG, changed, changed_toml, flipped, text_of

MEASUREMENTS = (r"out", r"out/measurements\.jsonl")
READERS = (
    ["inspect", "b"],
    ["generate", "a cat", "--bundle", "b", "--out", "p.png", "--steps", "1"],
    ["recommend", "--device", "pixel8", "--bundle", "b"],
    ["bench", "--device", "pixel8", "--bundle", "b", "--json"],
    ["verify", "b"],
)
PICTURE = (r"p\.png",)


def copy_bundle(fixtures: Path, folder: Path) -> Path:
    return Path(shutil.copytree(fixtures / "bundle", folder / "b"))


def reading(rng: Random, backend: str = "", weights: tuple[int, ...] = (6, 6, 3, 3, 1)) -> list[str]:
    """A command that reads the bundle `b`; the slow ones more seldom."""
    (line,) = rng.choices(READERS, weights)
    return [*line, *(["--backend", backend] if backend else [])]


def manifests(rng: Random, fixtures: Path, folder: Path) -> Case:
    path = copy_bundle(fixtures, folder) / "manifest.json"
    path.write_bytes(text_of(rng, json.loads(path.read_text())))
    return Case("manifests", reading(rng, weights=(8, 2, 3, 3, 1)), may_make=PICTURE)


def digest_again_(root: Path, component: dict[str, Any]) -> None:
    """Makes the manifest's entry true again of a spoiled file or folder, as whoever spoils it would."""
    from edgegen.files import digest

    component["sha256"], component["bytes"] = digest(root / component["path"])


def tokenizers(rng: Random, fixtures: Path, folder: Path) -> Case:
    root = copy_bundle(fixtures, folder)
    manifest = json.loads((root / "manifest.json").read_text())
    entry = rng.choice(manifest["tokenizer"])
    path = root / entry["path"]
    path.write_bytes(spoiled_tokenizer(rng, json.loads(path.read_text())))
    digest_again_(root, entry)
    (root / "manifest.json").write_text(json.dumps(manifest))
    return Case("tokenizers", [*READERS[1], "--backend", "onnx"], may_make=PICTURE)


def spoiled_tokenizer(rng: Random, values: dict[str, Any]) -> bytes:
    """A tokenizer file with something that runs for ever, fills memory or gives other ids, or any change."""
    tricks: tuple[dict[str, Any], ...] = (
        {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_token": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": LONG * 100}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Prepend", "prepend": LONG * 100}},
        {"model": {"type": "WordPiece", "vocab": {"a": 10**9}, "unk_token": "a", "max_input_chars_per_word": 10**9}},
        {"length": 10**9}, {"offset": -5}, {"begin": 10**12},
    )  # fmt: skip
    if rng.random() < 0.4:
        return json.dumps(values | rng.choice(tricks)).encode()
    return text_of(rng, values)


def artifacts(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A file of an artifact spoiled, with the digest of what it is now."""
    root = copy_bundle(fixtures, folder)
    manifest = json.loads((root / "manifest.json").read_text())
    component = rng.choice(manifest["components"])
    path = root / component["path"]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    file = rng.choice(files)
    file.write_bytes(SPOILERS.get(file.suffix, flipped)(rng, file.read_bytes()))
    digest_again_(root, component)
    (root / "manifest.json").write_text(json.dumps(manifest))
    return Case("artifacts", reading(rng, component["backend"], (4, 4, 2, 2, 1)), may_make=PICTURE)


def spoiled_onnx(rng: Random, data: bytes) -> bytes:
    """An ONNX file with bytes flipped, or a graph that could hang, fill memory or read and write files."""
    import onnx

    if rng.random() < 0.5:
        return flipped(rng, data)
    model = onnx.load_model_from_string(data)
    rng.choice(ONNX_TRICKS)(rng, model)
    return model.SerializeToString()


def rename_(rng: Random, model: Any) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).name = rng.choice(("x", "", LONG))


def external_(rng: Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = 1
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", rng.choice(("/etc/passwd", "../../home/thesis.txt", "/dev/zero", "missing"))


def huge_(rng: Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer)
    del tensor.dims[:]
    tensor.dims.extend(rng.choice(([10**12], [-1], [2**31, 2**31], [0], [])))


def loop_(rng: Random, model: Any) -> None:
    import onnx

    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], [], body=body))


def function_(rng: Random, model: Any) -> None:
    import onnx

    opset = [onnx.helper.make_opsetid("evil", 1)]
    call = onnx.helper.make_node("F", ["x"], ["y"], domain="evil")
    model.functions.append(onnx.helper.make_function("evil", "F", ["x"], ["y"], [call], opset))
    model.graph.node.append(call)


def options_(rng: Random, model: Any) -> None:
    value = rng.choice(
        ({"session.collect_node_memory_stats_to_file": "home/written.csv"}, {"session.x": LONG}, [], 3, {"a": {"b": 1}})
    )
    model.metadata_props.add(key="edgegen.session_options", value=json.dumps(value))


def expand_(rng: Random, model: Any) -> None:
    """A value of 10^12 elements on the way."""
    import numpy as np
    import onnx

    size = onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "huge.shape")
    model.graph.initializer.append(size)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["huge.shape"], ["huge"]))


def nodes_(rng: Random, model: Any) -> None:
    node = rng.choice(model.graph.node)
    how = rng.randrange(4)
    if how == 0:
        node.op_type = rng.choice(("NoSuchOperation", "If", "Identity", ""))
    elif how == 1 and node.input:
        node.input[0] = rng.choice(("", "nobody", node.output[0]))
    elif how == 2:
        del node.output[:]
    else:
        model.graph.node.remove(node)


ONNX_TRICKS = (rename_, external_, huge_, loop_, function_, options_, expand_, nodes_)


def spoiled_program(rng: Random, data: bytes) -> bytes:
    """A .pte or .mlmodel with its structure spoiled more often than its weights."""
    if rng.random() < 0.5:
        return flipped(rng, data)
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(0, max(1, min(len(made) - 4, 4096)) // 4) * 4
        made[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, rng.randrange(2**32), 8)))
    return bytes(made)


SPOILERS = {".onnx": spoiled_onnx, ".pte": spoiled_program, ".mlmodel": spoiled_program}


def links(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A bundle with a link, a pipe, a folder or nothing in the place of a file."""
    root = copy_bundle(fixtures, folder)
    path = rng.choice(sorted(p for p in root.rglob("*") if p.is_file()))
    path.unlink()
    how = rng.randrange(5)
    if how == 0:
        path.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", "../../home/thesis.txt", path.name)))
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.mkdir()
    elif how == 3:
        path.touch()
    return Case("links", reading(rng, weights=(4, 2, 1, 1, 1)), may_make=PICTURE)


def checkpoints(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A configuration, a tokenizer or weights spoiled."""
    root = Path(shutil.copytree(fixtures / "checkpoint", folder / "c"))
    how = rng.randrange(6)
    if how < 3:
        path = root / "config.json"
        path.write_bytes(text_of(rng, json.loads(path.read_text())))
    elif how == 3:
        path = rng.choice(sorted((root / "tokenizer").iterdir()))
        path.write_bytes(spoiled_tokenizer(rng, json.loads(path.read_text())))
    else:
        path = rng.choice(sorted(root.glob("*.safetensors")))
        path.write_bytes(spoiled_weights(rng, path.read_bytes()))
    line = ["export", "--checkpoint", "c", "--tier", str(fixtures / "tier.toml"), "--dry-run"]
    if rng.random() < 0.1:
        line = [*line[:-1], "--backend", "onnx", "--components", "decoder", "--out", "o"]
    return Case("checkpoints", line, may_make=(r"o", r"o/.*"))


def spoiled_weights(rng: Random, data: bytes) -> bytes:
    """A safetensors file with its header changed, or bytes flipped."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = rng.randrange(6)
    if how == 0:
        return flipped(rng, data)
    if how == 1:
        name = rng.choice(sorted(header.keys() - {"__metadata__"}))
        header[name]["dtype"] = rng.choice(("F8_E4M3", "I64", "BOOL", "F128", "BF16", 3, None))
        text = json.dumps(header)
    elif how == 2:
        text = json.dumps(header).replace("{", '{"twice": 1, "twice": 2, ', 1)
    elif how == 3:
        prefix = rng.choice(("_orig_mod.", "module.", "ema."))
        text = json.dumps({prefix + key: value for key, value in header.items()})
    else:
        text = text_of(rng, header).decode("utf-8", "replace")
    body = text.encode()
    return struct.pack("<Q", rng.choice((len(body), len(body), len(body), 2**62, 0))) + body + rest


def plans(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A bit plan, calibration prompts, and what an unfinished run left, spoiled."""
    names = ["down.0.attn.q.weight", "up.0.ffn.0.weight", "middle.0.attn.q.weight"]
    plan = {"format_version": 1, "layers": {name: {"bits": 4} for name in names}}
    (folder / "plan.json").write_bytes(text_of(rng, plan))
    (folder / "prompts.txt").write_bytes(rng.choice((b"", b"caf\xe9\n", b"a cat\n" * 3, b"\0\0", b"# only\n")))
    line = ["quantize", "--checkpoint", str(fixtures / "checkpoint"), "--out", "q", "--tune-steps", "0"]
    how = rng.randrange(3)
    if how == 0:
        return Case("plans", [*line, "--plan", "plan.json"], may_make=(r"q", r"q/.*", r"\.q.*"))
    if how == 1:
        return Case(
            "plans", [*line, "--calibration", "prompts.txt", "--bits", "nan"], may_make=(r"q", r"q/.*", r"\.q.*")
        )
    work = folder / ".q.unfinished"
    work.mkdir()
    (work / "settings.json").write_bytes(text_of(rng, {"width": 1.0, "prompts": ["a cat"], "tuning": {"steps": 0}}))
    (work / "bits.json").write_bytes(text_of(rng, {"bits": {}, "bits_asked": 4.0}))
    if rng.random() < 0.3:
        (work / "diary.txt").write_text("mine")
    return Case("plans", [*line, "--resume"], may_make=(r"q", r"q/.*", r"\.q.*"))


RECIPE = """stage = "elastic"
[model]
preset = "emoji"
hidden = 320
[training]
steps = 1
batch = 2
rate = 1e-3
warmup = 1
betas = [0.9, 0.99]
sub_widths = 1
shift = 1.0
precision = "float32"
[data]
path = "pictures"
encoders = "bundled"
pixels = 16384
max_ratio = 2.0
"""


def recipes(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A recipe spoiled; nothing to train on is there."""
    (folder / "r.toml").write_bytes(changed_toml(rng, RECIPE))
    return Case("recipes", ["train", "r.toml", "--runs", "runs"], may_make=(r"runs", r"runs/.*"))


def targets(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A tier or a device spoiled."""
    from edgegen.target import targets_folder

    if rng.random() < 0.5:
        (folder / "t.toml").write_bytes(changed_toml(rng, (fixtures / "tier.toml").read_text()))
        checkpoint = str(fixtures / "checkpoint")
        return Case("targets", ["export", "--tier", "t.toml", "--checkpoint", checkpoint, "--dry-run"])
    text = (targets_folder() / "devices" / "pixel8.toml").read_text()
    (folder / "d.toml").write_bytes(changed_toml(rng, text))
    line = rng.choice(
        (["devices", "d.toml"], ["recommend", "--device", "d.toml", "--bundle", str(fixtures / "bundle")])
    )
    return Case("targets", line)


WORDS = (
    "", " ", "-1", "0", "1e30", "inf", "nan", "x", "[/x]", LONG, "caf\udce9", "~", "~/x", "/dev/null", ".", "..", "/",
    "💚" * 70, "a/b/c", "1024x1024", "0x0", "99999999999999999999x1", "100000x100000", "16x16", "coreml,,onnx", ",",
    "../x", "--", "low-android", "pixel8", "é",
)  # fmt: skip


def command_lines(rng: Random, fixtures: Path, folder: Path) -> Case:
    """Options with values nobody means."""
    word = lambda: rng.choice(WORDS)  # noqa: E731
    bundle, checkpoint = str(fixtures / "bundle"), str(fixtures / "checkpoint")
    lines = (
        ["export", "--checkpoint", checkpoint, "--tier", str(fixtures / "tier.toml"), "--dry-run",
         rng.choice(("--resolution", "--backend", "--components", "--out", "--bits")), word()],
        ["export", "--dry-run", rng.choice(("--tier", "--checkpoint", "--preset")), word()],
        ["generate", word(), "--bundle", bundle, "--out", rng.choice((word(), "p.png", "caf\udce9.png"))],
        ["generate", "a cat", "--bundle", word()],
        ["generate", "a cat", "--bundle", bundle, "--out", "p.png",
         rng.choice(("--seed", "--steps", "--guidance")), word()],
        ["inspect", word()], ["verify", word()], ["devices", word()],
        ["recommend", "--device", word(), "--budget", word()],
        ["recommend", "--device", "pixel8", rng.choice(("--budget", "--memory", "--preset", "--backend")), word()],
        ["bench", "--bundle", bundle, "--device", "pixel8",
         rng.choice(("--component", "--backend", "--report")), word()],
        ["bench", "--bundle", bundle, rng.choice(("--threads", "--runs", "--trace")), word()],
        ["quantize", "--checkpoint", checkpoint, "--out", "q",
         rng.choice(("--bits", "--width", "--candidates", "--method", "--plan", "--tune-batch")), word()],
        [word(), word()], [rng.choice(("train", "evaluate")), word()],
    )  # fmt: skip
    line = [part for part in rng.choice(lines) if "\0" not in part]
    may_make = (*PICTURE, *MEASUREMENTS, r"q", r"q/.*", r"\.q\..*", r"[^/]*\.png", r"home/x", r"home/x/.*")
    return Case("command_lines", [*line, *(["--json"] if rng.random() < 0.3 else [])], may_make=may_make)


def folders(rng: Random, fixtures: Path, folder: Path) -> Case:
    """An output folder that holds, is, or lies beside something of the user's."""
    checkpoint = Path(shutil.copytree(fixtures / "checkpoint", folder / "c"))
    out = folder / "o"
    how = rng.randrange(12)
    marker = rng.choice(("manifest.json", "config.json"))
    if how < 4:
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        (out / marker).write_text(rng.choice(("{}", '{"files": ["x"]}', '{"format_version": 1}', "[]", "")))
    elif how == 4:
        shutil.copytree(fixtures / ("bundle" if marker == "manifest.json" else "checkpoint"), out)
        (out / "mine.txt").write_text("years of work")
    elif how == 5:
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "thesis.txt").write_text("years of work")
        out.symlink_to("elsewhere")
    elif how == 6:
        out.symlink_to(rng.choice(("nowhere", "home", "/dev/null", "o")))
    elif how == 7:
        rng.choice((out.touch, lambda: os.mkfifo(out)))()
    elif how == 8:
        out = rng.choice((checkpoint, checkpoint / "inside", folder, checkpoint / ".." / "c", Path(".")))
    elif how == 9:
        left = folder / f".o.{rng.choice(('partial', 'replaced'))}-999999999"
        rng.choice((lambda: left.symlink_to("home"), left.mkdir))()
        if left.is_dir() and not left.is_symlink():
            (left / "thesis.txt").write_text("years of work")
    elif how == 10:
        (folder / ".o.unfinished").symlink_to("home")
    else:
        (out / "sub").mkdir(parents=True)
        (out / "sub" / "link").symlink_to("../../home")
        (out / marker).write_text(json.dumps({"files": [marker, "sub/link"]}))
    line = rng.choice((
        ["export", "--tier", str(fixtures / "tier.toml"), "--backend", "onnx", "--components", "decoder"],
        ["quantize", "--tune-steps", "0", "--bits", rng.choice(("0.001", "4.5"))],
    ))  # fmt: skip
    line = [*line, "--checkpoint", "c", "--out", str(out), *(["--overwrite"] if rng.random() < 0.8 else [])]
    return Case("folders", line, may_make=(r"o", r"o/.*", r"\.o\.unfinished.*", r"home/q"))


CAPTIONS = (b"a cat\n", b"", b"caf\xe9", b"\xf0\x9f\x8d", b"\xef\xbb\xbfa cat", b"[/x]", LONG.encode(), b"\0")
NAMES = ("a.png", "UP.PNG", "x.HEIC", "y.avif", "z.jxl", "w.svg", "q.psd", "n.jpg", "[bold].png", "é.webp", "k.gif")


def pictures(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A folder of pictures with captions, some of which cannot be."""
    root = folder / "d" / rng.choice(("", "deep/er"))
    root.mkdir(parents=True, exist_ok=True)
    for name in rng.sample(NAMES, rng.randint(1, 6)):
        path = root / name
        make_picture_(rng, path)
        if rng.random() < 0.8:
            path.with_suffix(rng.choice((".txt", ".TXT"))).write_bytes(rng.choice(CAPTIONS))
    if rng.random() < 0.4:
        rows = [
            {"file_name": rng.choice((*NAMES, "../x.png", "", "a\0.png")), "text": rng.choice(("a", "\ud83c", None, 3))}
        ]
        lines = [json.dumps(changed(rng, row)) for row in rows * 3] + ["[" * 5000, "{}", '"x"']
        (root / "captions.jsonl").write_text("\n".join(lines))
    if rng.random() < 0.3:
        (root / "loop").symlink_to(rng.choice((".", "..", "nowhere", "/dev")) if rng.random() < 0.8 else root)
    return Case("pictures", work=read_pictures)


def make_picture_(rng: Random, path: Path) -> None:
    """A picture, whole or spoiled, or something else of its name."""
    from io import BytesIO

    from PIL import Image

    how = rng.randrange(8)
    if how == 0:
        path.symlink_to("nowhere")
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.mkdir()
    else:
        data = BytesIO()
        mode = rng.choice(("RGB", "L", "RGBA", "P", "I;16", "CMYK", "1"))
        kind = "TIFF" if mode == "CMYK" else "PNG"
        profile = rng.choice((None, b"", b"not a profile", rng.randbytes(200)))
        Image.new(mode, (rng.randint(1, 64), rng.randint(1, 64))).save(
            data, kind, **({"icc_profile": profile} if profile else {})
        )
        path.write_bytes(flipped(rng, data.getvalue()) if how < 5 else data.getvalue())


def read_pictures(folder: Path) -> None:
    """Reads a dataset as training does, up to the encoder; every picture is used or told of."""
    from edgegen.train.data.dataset import DataConfig, open_dataset
    from edgegen.train.data.dataset_picture import BadPicture
    from edgegen.train.data.dataset_sample import Problems

    dataset = open_dataset(DataConfig(path=str(folder / "d")))
    dataset.stamp()
    problems = Problems()
    used = 0
    for sample in dataset.samples(problems):
        json.dumps([sample.key, sample.captions], ensure_ascii=False).encode()
        try:
            sample.image()
            used += 1
        except BadPicture as error:
            problems.add(sample.key, "unusable picture", str(error))
    there = [name for _, _, names in os.walk(folder / "d") for name in names]
    pictures = [name for name in there if not name.lower().endswith((".txt", ".jsonl")) and name != "loop"]
    told = [name for name, _, _ in problems.rows if ".jsonl" not in name]
    assert used + len(told) >= len(pictures), (pictures, used, told)


def streams(rng: Random, fixtures: Path, folder: Path) -> Case:
    """A command that has all it needs, but whose standard streams are closed, full or read by nobody."""
    bundle, checkpoint = str(fixtures / "bundle"), str(fixtures / "checkpoint")
    exporting = ["export", "--tier", str(fixtures / "tier.toml"), "--checkpoint", checkpoint, "--backend", "onnx"]
    lines = (
        (["generate", "a cat", "--bundle", bundle, "--out", "p.png", "--steps", "1"], ("p.png",)),
        ([*exporting, "--components", "decoder", "--out", "o"], ("o/manifest.json", "o/onnx/decoder.onnx")),
        ([*exporting, "--dry-run", "--out", "o"], ()),
        (["inspect", bundle], ()),
        (["bench", "--device", "pixel8", "--bundle", bundle], ()),
        (["devices"], ()), (["devices", "pixel8"], ()), (["tiers"], ()), (["families"], ()),
    )  # fmt: skip
    line, makes = rng.choice(lines)
    spoiled = {
        number: rng.choice(("closed", "full", "gone")) for number in sorted(rng.sample(range(3), rng.randint(1, 3)))
    }
    line = [*line, *(["--json"] if rng.random() < 0.5 else [])]
    may_make = (*PICTURE, *MEASUREMENTS, r"o", r"o/.*")
    return Case("streams", line, may_make=may_make, must_make=makes, code=0, streams=spoiled)


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        manifests, tokenizers, artifacts, links, checkpoints, plans, recipes, targets, command_lines, folders,
        pictures, streams,
    )
}  # fmt: skip
