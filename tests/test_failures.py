"""What users reported, each as the smallest input that showed it; and whatever else comes from outside."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz.fixtures import make_fixtures
from fuzz.harness import contents
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file

from edgegen import export as export_module
from edgegen.bundle import load_bundle
from edgegen.cli.main import run
from edgegen.errors import LINE, InputError, brief
from edgegen.generate import slug
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.plan import make_plan
from edgegen.target import load_tier


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A checkpoint with both tokenizers, its tier and its ONNX bundle."""
    return make_fixtures(tmp_path_factory.mktemp("made"), ("onnx",))


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def line(folder: Path, *more: str) -> list[str]:
    return ["export", "--tier", str(folder / "tier.toml"), "--checkpoint", str(folder / "checkpoint"), *map(str, more)]


def refused(capfd, arguments, *told: str) -> str:
    capfd.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and out == "" and len(errors[0]) <= len("error: ") + LINE
    assert all(part in errors[0] for part in told), errors[0]
    return errors[0]


def command(arguments: list[str], **more) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "edgegen", *arguments], env=environment, timeout=120, **more)


# ---- checkpoints


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["../escaped", "org/model", "", "a\0b", "x" * 65, ".hidden"])
def test_a_name_that_leads_out_is_refused(copy, capfd, name):
    edit(copy / "checkpoint" / "config.json", name=name)
    refused(capfd, line(copy, "--dry-run"), "config.json: name is")


def test_weights_of_eight_bits_are_refused_before_the_work(copy, capfd):
    path = copy / "checkpoint" / "decoder.safetensors"
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path)
    refused(capfd, line(copy, "--dry-run"), "F8_E4M3", "Store float16 or float32")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "ema."])
def test_a_prefix_that_a_wrapper_left_is_named(copy, capfd, prefix):
    path = copy / "checkpoint" / "decoder.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
    refused(capfd, line(copy, "--dry-run"), f"The names start with {prefix}")


def test_a_pointer_and_a_shard_are_named(copy, capfd):
    path = copy / "checkpoint" / "transformer.safetensors"
    path.rename(path.with_name("transformer-00001-of-00002.safetensors"))
    refused(capfd, line(copy, "--dry-run"), "is one of 1 shards")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(capfd, line(copy, "--dry-run"), "pointer of Git LFS", "git lfs pull")


def test_a_tensor_twice_in_a_header_is_refused(copy, capfd):
    path = copy / "checkpoint" / "decoder.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b"{", b'{"x": 1, "x": 2, ', 1)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    refused(capfd, line(copy, "--dry-run"), "'x' is there twice")


def test_files_beside_the_tokenizers_are_let_be(copy):
    folder = copy / "checkpoint" / "tokenizer"
    (folder / "._word.json").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / "tokenizer_config.json").write_text("{}")
    assert load_checkpoint(copy / "checkpoint").tokenizer_files.keys() == {"word.json", "byte.json"}


def test_ids_past_the_embedding_are_refused_before_the_work(copy, capfd):
    path = copy / "checkpoint" / "tokenizer" / "word.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["zebra"] = 99
    path.write_text(json.dumps(values))
    refused(capfd, line(copy, "--dry-run"), "gives ids up to 99", "vocabulary is 11")


@pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000])
def test_a_config_of_any_depth_is_refused_before_it_is_known_whose_it_is(copy, capfd, text):
    (copy / "checkpoint" / "config.json").write_text(text)
    refused(capfd, line(copy, "--dry-run"), "config.json", "nested deeper")


@pytest.mark.parametrize("model", ["preset = {}", "preset = [1]", "preset = 3"])
def test_a_preset_that_is_no_name_is_refused(tmp_path, capfd, model):
    (tmp_path / "r.toml").write_text(f'stage = "elastic"\n[model]\n{model}\n')
    refused(capfd, ["train", tmp_path / "r.toml", "--runs", tmp_path / "runs"], "preset")


def test_a_width_that_is_missing_names_tiers_that_fit(made):
    checkpoint = load_checkpoint(made / "checkpoint")
    with pytest.raises(InputError, match="Tiers that fit: high-phone, full"):
        make_plan(checkpoint, load_tier("low-android"))


def test_what_a_file_format_cannot_hold_is_refused_in_the_plan(capfd, tmp_path):
    refused(capfd, ["export", "--resolution", "100000x100000", "--dry-run"], "more than 8192 pixels")


# side of the picture: GB at the peak of an export to ONNX and MB of its files, measured with Linux on x86-64 at 777c803
TINY_PEAKS = {64: (0.992, 0.32), 512: (1.014, 0.54), 1024: (1.459, 1.13)}
BUNDLED_PEAKS = {128: (1.080, 29.6), 1024: (1.698, 31.5), 1536: (3.121, 34.0)}


@pytest.mark.parametrize("bundled", [False, True])
def test_a_plan_knows_the_resolution(made, bundled, tmp_path):
    """What is predicted holds what was measured, and is at most a fifth more; of files, the graph is not counted."""
    checkpoint = load_checkpoint(bundled_folder() if bundled else made / "checkpoint")
    tier = load_tier("low-android" if bundled else str(made / "tier.toml"))
    for side, (peak, size) in (BUNDLED_PEAKS if bundled else TINY_PEAKS).items():
        plan = make_plan(checkpoint, tier, ("onnx",), resolution=(side, side), out=tmp_path / "o")
        assert peak <= plan.memory_bytes / 1e9 <= 1.2 * peak, side
        assert size - 0.3 <= plan.bytes / 1e6 <= size, side


# ---- folders, names and text


def test_an_export_is_apart_from_its_checkpoint_and_follows_no_link(copy, capfd):
    (copy / "big").mkdir()
    (copy / "linked").symlink_to(copy / "big")
    before = contents(copy)
    for out, told in (
        ("linked", "is a link to"), ("checkpoint", "is the checkpoint"), ("checkpoint/x", "lies in the checkpoint"),
        (".", "holds the checkpoint"),
    ):  # fmt: skip
        refused(capfd, line(copy, "--out", copy / out, "--overwrite", "--dry-run"), told)
        refused(capfd, ["quantize", *line(copy, "--out", copy / out, "--overwrite")[3:]], told)
    assert contents(copy) == before


def test_a_users_own_checkpoint_is_not_overwritten(copy, capfd):
    mine = copy / "my_hf_model"
    mine.mkdir()
    (mine / "config.json").write_text('{"_class_name": "SomeTransformer"}')
    (mine / "weights.bin").write_bytes(b"years of work")
    before = contents(copy)
    arguments = ["quantize", *line(copy, "--out", mine, "--overwrite")[3:]]
    refused(capfd, arguments, "replaces only what was made here")
    assert contents(copy) == before


def test_stages_of_others_are_let_be(copy, capfd):
    work = copy / ".q.unfinished"
    arguments = ["quantize", *line(copy, "--out", copy / "q", "--overwrite")[3:]]
    work.symlink_to(copy / "checkpoint")
    refused(capfd, arguments, "is a link")
    work.unlink()
    work.mkdir()
    (work / "diary.txt").write_text("mine")
    refused(capfd, arguments, "diary.txt")
    assert (work / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("settings", ["", "[]", "{", "3", '{"width": 2}', "[" * 9999])
def test_broken_settings_of_a_run_are_named(copy, capfd, settings):
    work = copy / ".q.unfinished"
    work.mkdir()
    (work / "settings.json").write_text(settings)
    refused(capfd, ["quantize", *line(copy, "--out", copy / "q", "--resume")[3:]], "--overwrite to start again")


def test_a_prompt_or_path_that_is_no_text_is_one_line(made, tmp_path, capfd):
    bundle = ["--bundle", str(made / "bundle")]
    refused(capfd, ["generate", "caf\udce9 on a table", *bundle, "--out", tmp_path / "a.png"], "not UTF-8 text")
    refused(capfd, ["generate", "a cat", *bundle, "--out", f"{tmp_path}/h\udce9.png"], "not UTF-8 text")
    assert run(["generate", "caf\udce9", *bundle, "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["exit_code"] == 2
    assert not list(tmp_path.iterdir())


def test_prompts_of_any_script_have_pictures_of_their_own():
    prompts = ["красное сердце", "蓝色的狗", "❤️", "🐶", "a " * 99 + "cat", "a " * 99 + "dog", "ένα", "", "a red heart"]
    names = [slug(prompt) for prompt in prompts]
    assert len(set(names)) == len(prompts) and names[-1] == "a-red-heart" and names[0] == "красное-сердце"
    assert all(len(name.encode()) <= 80 and "/" not in name and name.strip(".") == name for name in names)


def test_values_of_any_length_are_echoed_in_one_short_line(made, capfd):
    for arguments in (
        ["devices", "x" * 10_000], ["export", "--tier", "y" * 200, "--dry-run"], ["inspect", "z" * 10_000],
        ["export", "--dry-run", "--resolution", "9" * 10_000], ["export", "--dry-run", "--backend", "[/x]" * 999],
    ):  # fmt: skip
        refused(capfd, arguments)
    assert len(brief("x" * 10**6)) <= 60 and brief({"a": 1}) == "{'a': 1}"


def test_text_of_files_is_no_markup(tmp_path, capfd):
    from edgegen.target import targets_folder

    path = tmp_path / "d.toml"
    text = (targets_folder() / "devices" / "pixel8.toml").read_text()
    path.write_text(text.replace("Tensor G3", "[/x] [bold]Tensor", 1))
    assert run(["devices", str(path)]) == 0
    assert "[/x] [bold]Tensor" in capfd.readouterr().out


def test_a_table_of_a_narrow_terminal_breaks_no_word():
    from rich.console import Console

    from edgegen.show import marked, table

    rows = [("transformer", "onnx", marked("1,234,567", "red")), ("decoder", "onnx", "")]
    sheet = table(("component", "back end", ">bytes"), rows, "A title")
    narrow, wide = (Console(width=width, record=True, file=open(os.devnull, "w")) for width in (24, 80))
    for console in (narrow, wide):
        console.print(sheet)
    told = "\n".join(text.rstrip() for text in narrow.export_text().splitlines())
    assert "component: transformer\nback end: onnx\nbytes: 1,234,567" in told and "bytes:\n" not in told
    assert re.search(r"transformer +onnx +1,234,567", wide.export_text())


# ---- artifacts of others


def spoil_onnx(bundle: Path, component: str, change) -> None:
    """Changes a model, and the manifest with it, as whoever means harm would."""
    import onnx

    from edgegen.files import digest

    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = next(c for c in manifest["components"] if c["name"] == component)
    model = onnx.load(bundle / entry["path"])
    change(model)
    (bundle / entry["path"]).write_bytes(model.SerializeToString())
    entry["sha256"], entry["bytes"] = digest(bundle / entry["path"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_no_session_option_of_a_file_is_taken_but_ours(copy, capfd):
    told = json.dumps({"session.collect_node_memory_stats_to_file": str(copy / "written.csv")})
    spoil_onnx(copy / "bundle", "decoder", lambda m: m.metadata_props.add(key="edgegen.session_options", value=told))
    before = contents(copy)
    arguments = ["generate", "a cat", "--bundle", copy / "bundle", "--out", copy / "p.png"]
    refused(capfd, arguments, "edgegen never sets")
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["rename_", "external_", "huge_", "loop_", "function_", "expand_"])
def test_graphs_that_edgegen_never_writes_are_refused(copy, capfd, name):
    from random import Random

    from fuzz import kinds

    spoil_onnx(copy / "bundle", "decoder", lambda model: getattr(kinds, name)(Random(3), model))
    for arguments in (
        ["generate", "a cat", "--bundle", copy / "bundle", "--out", copy / "p.png"], ["verify", copy / "bundle"],
    ):  # fmt: skip
        refused(capfd, arguments, "decoder.onnx")
    assert not (copy / "p.png").exists()


def test_a_crash_of_a_runtime_is_one_line(made, tmp_path):
    """The process that opens an artifact dies, and the command tells of it."""
    script = (
        "import os, signal, sys\n"
        "from edgegen.cli import main\n"
        "import edgegen.pipeline.artifact as artifact\n"
        "artifact.open_component = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = ["generate", "a cat", "--bundle", str(made / "bundle"), "--out", str(tmp_path / "p.png"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "SIGSEGV" in done.stderr.splitlines()[-1]
    assert json.loads(done.stdout)["error"]["exit_code"] == 2 and not list(tmp_path.iterdir())


def test_artifacts_that_run_without_end_are_stopped_in_one_line(made, tmp_path):
    """Even where the runtime never comes back to Python."""
    script = (
        "import ctypes\n"
        "import importlib\n"
        "main = importlib.import_module('edgegen.cli.main')\n"
        "import edgegen.pipeline.artifact as artifact\n"
        "main.STILL = 5.0\n"
        "artifact.open_component = lambda *_: ctypes.PyDLL(None).pause()\n"  # holds the interpreter's lock
        "main.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = ["generate", "a cat", "--bundle", str(made / "bundle"), "--out", str(tmp_path / "p.png")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "without a sign of progress" in done.stderr.splitlines()[-1], done.stderr
    assert not list(tmp_path.iterdir())


def test_work_that_shows_progress_may_take_longer(tmp_path):
    script = (
        "import sys, time\n"
        "from edgegen.process import apart, goes_on\n"
        "code = apart(still_s=1.0)\n"
        "if code is not None: print(code); sys.exit()\n"
        "for _ in range(6): time.sleep(0.4); goes_on()\n"
        "time.sleep(3 if sys.argv[1] == 'stop' else 0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for word, code in (("go", "0"), ("stop", "-14")):
        line = [sys.executable, "-c", script, word]
        assert subprocess.run(line, env=environment, capture_output=True, text=True).stdout.strip() == code


def test_what_passed_is_written_when_a_back_end_fails(copy, capfd, monkeypatch):
    real = export_module.verify_network

    def verify(bundle, name, backend, reference):
        rows = real(bundle, name, backend, reference)
        fails = (backend, name) == ("executorch", "decoder")
        return [export_module.replace(row, passed=False, psnr_db=3.0) for row in rows] if fails else rows

    monkeypatch.setattr(export_module, "verify_network", verify)
    arguments = line(copy, "--backend", "onnx,executorch", "--components", "decoder", "--out", copy / "o")
    assert run(arguments) == 1
    out, err = capfd.readouterr()
    assert "decoder on executorch reached 3.0 dB" in err and f"{copy / 'o'} has onnx" in err and "onnx" in out
    assert load_bundle(copy / "o").backends == ("onnx",) and not (copy / "o" / "executorch").exists()
    assert all(row["passed"] for row in json.loads((copy / "o" / "verify.json").read_text()))


# ---- pictures


def p3_profile() -> bytes:
    """Pillow's sRGB profile with red and green changed places: whoever ignores it reads another colour."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_the_profile(mode):
    from io import BytesIO

    from edgegen.train.data.dataset_picture import decode_picture

    picture, data = Image.new("RGB", (4, 4), (230, 40, 30)), BytesIO()
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(data, "PNG", icc_profile=p3_profile())
    assert np.abs(np.subtract(decode_picture(data.getvalue()).getpixel((0, 0)), (40, 230, 30))).max() <= 3
    broken = BytesIO()
    picture.save(broken, "PNG", icc_profile=b"no profile")
    assert decode_picture(broken.getvalue()).getpixel((0, 0)) == (230, 40, 30)


def read_dataset(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Keys of the samples that can be used, and the problem of every other by name."""
    from edgegen.train.data.dataset import DataConfig, open_dataset
    from edgegen.train.data.dataset_picture import BadPicture
    from edgegen.train.data.dataset_sample import Problems

    dataset, problems, used = open_dataset(DataConfig(path=str(folder))), Problems(lambda text: None), []
    assert dataset.stamp() == dataset.stamp()
    for sample in dataset.samples(problems):
        try:
            sample.image()
            used.append(sample.key)
        except BadPicture as error:
            problems.add(sample.key, "unusable picture", str(error))
    return used, {name: f"{kind} {detail}" for name, kind, detail in problems.rows}


def picture(path: Path, caption: str | None = "a box") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (60, 90, 10)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def test_every_picture_is_used_or_told_of_by_name(tmp_path):
    root = tmp_path / "d"
    for name in ("a.png", "b.avif", "UPPER.PNG"):
        picture(root / name)
    (root / "UPPER.txt").rename(root / "UPPER.TXT")
    for name in ("i.HEIC", "j.heif", "k.jxl", "l.svg"):
        (root / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(2000))
        (root / name).with_suffix(".txt").write_text("holiday")
    picture(tmp_path / "other" / "q.png")
    (root / "more").symlink_to(tmp_path / "other")
    (root / "more2").symlink_to(root)  # a ring
    (root / "gone.png").symlink_to("nowhere")
    (root / "gone.txt").write_text("gone")
    os.mkfifo(root / "pipe.png")
    (root / "pipe.txt").write_text("pipe")
    picture(root / "cut.png", None)
    (root / "captions.jsonl").write_text('{"file_name": "cut.png", "text": "party \\ud83c"}\n' + "[" * 9999 + "\n")
    used, told = read_dataset(root)
    assert used == ["UPPER.PNG", "a.png", "b.avif", "more/q.png"]
    assert told.keys() == {
        "i.HEIC", "j.heif", "k.jxl", "l.svg", "gone.png", "pipe.png", "cut.png", "captions.jsonl:2"
    }  # fmt: skip
    assert "surrogate" in told["cut.png"] and "leads nowhere" in told["gone.png"]


# ---- streams and processes


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"])
def test_work_goes_on_when_nobody_listens(made, tmp_path, redirection):
    out = tmp_path / "p.png"
    words = f"'{sys.executable}' -m edgegen generate 'a cat' --steps 1 --bundle '{made / 'bundle'}' --out '{out}'"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["sh", "-c", f"{words} {redirection}"], env=environment, timeout=120, capture_output=True)
    assert done.returncode == 0 and Image.open(out).size == (64, 64)


@pytest.mark.parametrize("arguments, unbuffered", [
    (["devices", "pixel8"], ""), (["devices", "pixel8", "--json"], ""), (["tiers"], "1"),
])  # fmt: skip
def test_a_full_stdout_is_one_line(arguments, unbuffered, monkeypatch):
    """Also where Python holds what was printed until it ends."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        done = command(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_child_ends_with_its_parent():
    """However the parent ends, and while the child computes."""
    script = (
        "import subprocess, sys, time\n"
        "from edgegen.process import of_this_process\n"
        "code = 'from edgegen.process import *; end_with_parent_(); print(1, flush=True)\\nwhile True: pass'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], env=of_this_process(), stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "\nState:\tZ" in Path(f"/proc/{child}/status").read_text():
            break  # ended; whoever adopted it has not looked
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()
    parent.stdout.close()


def test_long_stages_say_so_without_a_terminal(monkeypatch, capfd):
    from edgegen import show

    monkeypatch.setattr(show, "HEARTBEAT", 0.05)
    monkeypatch.setattr(show, "LEAST_TO_TELL", 0.0)
    with show.Progress() as progress:
        progress("long [/x] work")
        progress.advance(3, 9)
        time.sleep(0.3)
    told = capfd.readouterr().err
    assert told.count("long [/x] work 3/9, about 0 s left") >= 2 and "so far" in told


def test_the_time_left_is_told_once_there_is_something_to_tell_it_from():
    from edgegen.show import left

    assert [left(1.0, 1, 9), left(60.0, 0, 9), left(60.0, 9, 9)] == [""] * 3
    assert left(30.0, 3, 9) == ", about 60 s left" and left(600.0, 1, 3) == ", about 20 min left"


def test_a_tier_may_ask_for_float32_where_float16_does_not_reach(copy, capfd):
    """A residual stream beyond what fp16 holds: refused with what to do, and done."""
    path = copy / "checkpoint" / "decoder.safetensors"
    state = load_file(path)
    names = [name for name in state if name.startswith("layers.0.")]
    save_file({name: tensor * (60_000 if name in names else 1) for name, tensor in state.items()}, path)
    arguments = line(copy, "--backend", "coreml", "--components", "decoder", "--out", copy / "o")
    assert run(arguments) == 1
    assert 'precision = "float32" for coreml' in capfd.readouterr().err and not (copy / "o").exists()
    tier = copy / "tier.toml"
    tier.write_text(tier.read_text().replace('precision = "float16"', 'precision = "float32"'))
    assert run(arguments) == 0
    (artifact,) = load_bundle(copy / "o").manifest.components
    assert artifact.inputs[0].dtype == "float32" and artifact.bytes > 4 * 5000
