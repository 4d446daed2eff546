"""The documents are true: their commands run, the files they name are there, README's tree is the repository's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgegen.cli import run

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/extending.md", "CHANGELOG.md")
PATHS = re.compile(r"`((?:edgegen|targets|tests|docs|benchmarks|examples|\.ci|\.github)/[\w./-]*)`")


def blocks(document: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.S)


@pytest.mark.parametrize("block", blocks("docs/extending.md"))
def test_commands_of_extending_run(block, tmp_path):
    bin_folder = Path(sys.executable).parent
    script = f'set -e\nedgegen() {{ "{sys.executable}" -m edgegen "$@"; }}\n{block}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_commands_of_contributing_are_those_of_ci():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    (block,) = blocks("CONTRIBUTING.md")
    commands = [line for line in block.splitlines() if not line.startswith("pip install")]
    assert len(commands) >= 5 and set(commands) <= set(ci)
    readme = (ROOT / "README.md").read_text()
    assert "pip install '.[dev]' && pytest -q" in readme and "pip install --quiet '.[dev]'" in ci


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_documents_name_are_there(document):
    text = (ROOT / document).read_text()
    missing = [path for path in PATHS.findall(text) if not (ROOT / path).exists()]
    assert not missing


def test_readme_tree_is_true():
    tree = re.search(r"```\n(edgegen/ .*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree
    inside = [line.split()[0] for line in tree[1].splitlines() if re.match(r"  [\w/]+(\.py|/)", line)]
    top = [line.split()[0] for line in tree[1].splitlines() if re.match(r"\w+/", line)]
    assert all((ROOT / "edgegen" / name).exists() for name in inside), inside
    assert all((ROOT / name).exists() for name in top) and len(inside) >= 10
    rooms = {path.parent.name for path in (ROOT / "edgegen").glob("*/__init__.py")}
    assert rooms <= {name.rstrip("/").split("/")[0] for name in inside}, rooms


def test_layers_of_the_architecture_are_those_of_the_contract():
    drawn = re.search(r"```\n(cli .*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)[1]
    rooms = {path.stem for path in (ROOT / "edgegen").iterdir() if path.name != "__pycache__"}
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    layers = {name for name in re.findall(r"edgegen\.(\w+)", contract)} & rooms
    missing = {name for name in layers if not re.search(rf"\b{name}\b", drawn)}
    assert missing <= {"files", "prompts", "quiet", "meter", "show", "errors"}


def test_every_command_has_help_with_an_example(capsys):
    for command in ("export", "generate", "verify", "inspect", "quantize", "bench", "recommend", "tiers", "devices"):
        assert run([command, "--help"]) == 0
        assert "Example:" in capsys.readouterr().out, command
