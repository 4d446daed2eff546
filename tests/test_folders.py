"""Only what was made here is ever replaced or removed, whatever a folder is called and whatever is in it."""

import json
import os
import subprocess
import sys

import pytest
from fuzz.harness import contents
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.errors import InputError
from edgegen.folders import FILES, TOKEN, check_apart, checked_target, new_folder

MARKER = "manifest.json"


def fill(root, text="new"):
    (root / "sub").mkdir()
    (root / "sub" / "weights.bin").write_text(text)
    (root / MARKER).write_text("{}")


@pytest.fixture
def ours(tmp_path):
    with new_folder(tmp_path / "o", MARKER) as partial:
        fill(partial, "old")
    return tmp_path / "o"


def make(target, overwrite=True):
    with new_folder(target, MARKER, overwrite) as partial:
        fill(partial)


def test_a_folder_lists_its_files_and_is_replaced(ours):
    assert json.loads((ours / MARKER).read_text())[FILES] == [MARKER, "sub/weights.bin"]
    (ours / ".DS_Store").touch()  # the system's, not the user's
    make(ours)
    assert (ours / "sub" / "weights.bin").read_text() == "new"
    assert contents(ours).keys() == {MARKER, "sub/weights.bin"} and os.listdir(ours.parent) == ["o"]


names = st.sampled_from(("thesis.txt", "sub/thesis.txt", "a/b/c", TOKEN, "sub/weights.bin2", ".hidden", "ü"))


@given(st.lists(names, min_size=1, unique=True), st.booleans())
@settings(max_examples=30)
def test_one_file_that_is_not_listed_keeps_the_whole_folder(tmp_path_factory, added, link):
    ours = tmp_path_factory.mktemp("home") / "o"
    make(ours)
    for name in added:
        (ours / name).parent.mkdir(parents=True, exist_ok=True)
        (ours / name).symlink_to("/etc/passwd") if link else (ours / name).write_text("years of work")
    before = contents(ours.parent)
    with pytest.raises(InputError, match="does not list") as caught:
        make(ours)
    assert any(name in str(caught.value) or repr(name)[1:-1] in str(caught.value) for name in added)
    assert contents(ours.parent) == before


@pytest.mark.parametrize("marker", [
    "{}", "[]", "", "{", '{"files": 3}', '{"files": ["thesis.txt"]}', '{"files": ["manifest.json", 3]}', "[" * 9999,
])  # fmt: skip
def test_a_marker_that_does_not_say_so_is_not_ours(tmp_path, marker):
    folder = tmp_path / "o"
    folder.mkdir()
    (folder / MARKER).write_text(marker)
    (folder / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="replaces only what was made here"):
        make(folder)
    assert contents(tmp_path) == before


def test_links_are_never_followed_to_write_or_delete(ours, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    (tmp_path / "linked").symlink_to(home)
    (tmp_path / "dangling").symlink_to("nowhere")
    for target in ("linked", "dangling"):
        with pytest.raises(InputError, match="is a link to"):
            make(tmp_path / target)
    (ours / "sub" / "weights.bin").unlink()
    (ours / "sub" / "weights.bin").symlink_to(home / "thesis.txt")  # listed, and yet not what was made here
    with pytest.raises(InputError, match="which is no file"):
        make(ours)
    (ours / MARKER).rename(home / MARKER)
    (ours / MARKER).symlink_to(home / MARKER)
    with pytest.raises(InputError, match="replaces only"):
        make(ours)
    assert (home / "thesis.txt").read_text() == "years of work"


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["partial", "replaced"])
def test_leftovers_of_others_are_let_be(tmp_path, kind):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    pid = ended_process()
    (tmp_path / f".o.{kind}-{pid}").symlink_to(home)
    theirs = tmp_path / f".o.{kind}-{ended_process()}"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    (theirs / MARKER).write_text("{}")
    before = contents(tmp_path)
    make(tmp_path / "o")
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_leftovers_of_ours_go(tmp_path):
    left = tmp_path / f".o.partial-{ended_process()}"
    (left / "sub").mkdir(parents=True)
    (left / TOKEN).touch()
    (left / "sub" / "x").touch()
    make(tmp_path / "o")
    assert os.listdir(tmp_path) == ["o"]


def test_what_no_rename_can_replace_is_refused_before_the_work(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for target, told in (
        ("/dev/null", "is no folder"), (tmp_path / "pipe", "is no folder"), (tmp_path / "file", "is a file"),
        (".", "working folder"), ("..", "working folder"), ("/", "working folder"), ("/proc", "mount point"),
        (tmp_path / "file" / "x", "is no folder"), (tmp_path / ("x" * 300), "the limit is"), ("caf\udce9", "UTF-8"),
        ("a\0b", "zero byte"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            make(target)
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_read_only_place_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="cannot be written to"):
        checked_target(tmp_path / "a" / "b")


def test_home_is_where_the_tilde_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make("~/out/x")
    assert (tmp_path / "out" / "x" / MARKER).is_file() and not (tmp_path / "~").exists()


@pytest.mark.parametrize("target, told", [(".", "is the"), ("inside/deep", "lies in the"), ("..", "holds the")])
def test_an_output_is_apart_from_what_is_read(tmp_path, target, told):
    source = tmp_path / "checkpoint"
    source.mkdir()
    (tmp_path / "other").symlink_to(source)
    for name in ("checkpoint", "other"):
        with pytest.raises(InputError, match=told):
            check_apart(tmp_path / name / target if target != ".." else tmp_path, source, "checkpoint")
    check_apart(tmp_path / "elsewhere", source, "checkpoint")
