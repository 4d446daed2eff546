"""What `pip install .` carries: every module, the targets and the weights."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = {"targets": "edgegen/targets"}  # folders beside the package in a checkout, inside it when installed


@pytest.fixture(scope="module")
def carried(tmp_path_factory) -> set[str]:
    """Paths inside the wheel that the project's own settings make."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs the extra [test]")
    folder = tmp_path_factory.mktemp("wheel")
    path = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with zipfile.ZipFile(path) as file:
        return set(file.namelist())


def files(folder: Path) -> set[str]:
    """Everything below a folder but what Python leaves there."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_every_file_of_the_package_is_carried(carried):
    needed = {f"edgegen/{path}" for path in files(ROOT / "edgegen")}
    assert len(needed) > 200 and needed <= carried, sorted(needed - carried)


@pytest.mark.parametrize("folder", OUTSIDE)
def test_every_file_beside_the_package_is_carried(carried, folder):
    needed = {f"{OUTSIDE[folder]}/{path}" for path in files(ROOT / folder)}
    assert needed and needed <= carried, sorted(needed - carried)


def test_nothing_else_is_carried(carried):
    assert {path.split("/")[0] for path in carried} == {"edgegen", "edgegen-0.1.0.dist-info"}
