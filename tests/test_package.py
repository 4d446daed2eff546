"""What `pip install .` carries: every package, the targets and the weights."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed():
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "edgegen").rglob("__init__.py")}
    assert set(SETUP["packages"]) == found | {"edgegen.targets"}


def test_every_file_that_is_not_python_is_carried():
    folders = {name: ROOT / SETUP["package-dir"].get(name, name.replace(".", "/")) for name in SETUP["packages"]}
    carried = {path for name, patterns in SETUP["package-data"].items() for pattern in patterns
               for path in folders[name].glob(pattern)}
    needed = {p for folder in (ROOT / "edgegen", ROOT / "targets") for p in folder.rglob("*")
              if p.is_file() and p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts}
    assert needed <= carried, sorted(needed - carried)
