"""Device profiles: the families that were promised, a source behind every figure, rates that can be right."""

import json
from pathlib import Path

import pytest

from benchmarks.predictor import sources
from edgegen.bench.predict import CannotPredict, tera_operations, unit_of
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.target import UNCHECKED, core_widths, list_devices, load_device, targets_folder

PIXEL = targets_folder() / "devices" / "iphone13.toml"


def edited(tmp_path: Path, old: str, new: str) -> str:
    text = PIXEL.read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


def test_promised_families_are_there():
    names = {device.name for device in list_devices()}
    assert len(names) >= 24
    for prefix in (
        *(f"iphone{n}" for n in range(12, 18)),
        *(f"pixel{n}" for n in range(7, 11)),
        *(f"galaxys{n}" for n in range(22, 26)),
        "ipadprom1",
        "ipadprom2",
        "ipadairm3",
        "ipadprom4",
        "galaxya",
        "redmi",
    ):
        assert any(name.startswith(prefix) for name in names), prefix


def test_every_figure_has_a_source_and_a_size_that_can_be():
    for device in list_devices():
        for name, figure in device.figures.items():
            address = "http://" in figure.source or "https://" in figure.source
            assert address if figure.checked else len(figure.source) > len(UNCHECKED), (device.name, name)
        assert device.memory_gb is not None and 2 <= device.memory_gb.value <= 24
        assert 2020 <= device.year.value <= 2026
        if device.app_memory_gb:
            assert device.app_memory_gb.value < device.memory_gb.value
        if device.bandwidth_gbs:
            assert 10 < device.bandwidth_gbs.value < 200
        for unit in device.units.values():
            assert 0.05 < tera_operations(device, unit, "float32") < 100, (device.name, unit.kind)


def test_one_app_gets_a_part_of_the_memory_and_a_device_where_that_is_not_known_is_named():
    readme = (sources.FOLDER / "README.md").read_text(encoding="utf-8")
    missing = " ".join(readme[readme.index("- **Missing**") :].split("\n\n")[0].split())
    limits = {}  # of Android, by memory
    for device in list_devices():
        if device.app_memory_gb is None:
            assert not device.name.startswith("ip") and device.title.split(" (Exynos)")[0] in missing, device.name
            continue
        assert 0.2 < device.app_memory_gb.value / device.memory_gb.value < 0.75, device.name
        if not device.name.startswith("ip"):
            size = device.memory_gb.value
            assert limits.setdefault(size, device.app_memory_gb.value) == device.app_memory_gb.value, device.name
    assert {size: round(limit * 1e9 / 2**20) for size, limit in limits.items()} == {6: 4096, 8: 5120, 12: 8192}


def test_the_counts_of_checked_sources_are_those_of_the_profiles():
    assert sources.table() in (sources.FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_corrected_figure_is_what_its_profile_says():
    for row in sources.corrections():
        assert row["was"] != row["is"] == sources.current(row), row


def test_a_source_that_nobody_opened_is_told(tmp_path, capfd):
    path = edited(tmp_path, 'source = "https://www.cpu-monkey', f'source = "{UNCHECKED}https://www.cpu-monkey')
    device = load_device(path)
    assert [name for name, figure in device.figures.items() if not figure.checked] == ["units.npu"]
    assert run(["devices", path]) == 0
    told = capfd.readouterr().out
    assert f"{len(device.figures) - 1} of {len(device.figures)}" in told and f"units.npu: {UNCHECKED}" in told
    assert run(["devices", path, "--json"]) == 0
    assert UNCHECKED in json.loads(capfd.readouterr().out)[0]["units"]["npu"]["source"]


def test_devices_of_one_chip_agree_on_what_belongs_to_the_chip():
    seen = {}
    for device in list_devices():
        facts = (device.bandwidth_gbs, tuple(sorted((k, u) for k, u in device.units.items())))
        assert seen.setdefault(device.chip.value, facts) == facts, device.name


def test_the_rate_of_a_cpu_follows_from_its_cores():
    device = load_device("iphone13")
    unit = unit_of(device, "cpu")
    widths = core_widths()
    by_hand = 2e-3 * (2 * 3.23 * widths["Avalanche"] + 4 * 2.02 * widths["Blizzard"])
    assert tera_operations(device, unit, "float32") == pytest.approx(by_hand)
    assert tera_operations(device, unit, "int8") == pytest.approx(4 * by_hand)


@pytest.mark.parametrize("old, new, key", [
    ("tops = 15.8", "tops = -1", "units.npu.tops"),
    ("tops = 15.8", "tops = 'fast'", "units.npu.tops"),
    ('precision = "float16"', 'precision = "fp16"', "units.npu.precision"),
    ("[units.npu]", "[units.tpu]", "units.tpu"),
    ('core = "Avalanche"', 'core = "Avalanch"', "clusters[0].core"),
    ("count = 2", "count = 0", "clusters[0].count"),
    ("value = 34.1", "value = 0", "bandwidth_gbs.value"),
    ("value = 34.1", "value = nan", "bandwidth_gbs.value"),
    ("[bandwidth_gbs]", "[bandwith_gbs]", "bandwidth_gbs"),
])  # fmt: skip
def test_a_wrong_profile_is_named_with_its_key(tmp_path, old, new, key):
    with pytest.raises(InputError) as caught:
        load_device(edited(tmp_path, old, new))
    assert key in str(caught.value) and "\n" not in str(caught.value)


def test_a_rate_that_is_not_known_is_said(tmp_path):
    path = edited(tmp_path, "[units.npu]", "[unused]").replace("mine", "mine")
    text = Path(path).read_text()
    Path(path).write_text(text[: text.index("[unused]")])
    with pytest.raises(CannotPredict, match="npu of iPhone 13 is not known"):
        unit_of(load_device(path), "npu")


def test_the_command_lists_devices_and_suggests_the_closest(capsys):
    assert run(["devices", "pixel8", "--json"]) == 0
    assert '"Tensor G3"' in capsys.readouterr().out
    assert run(["devices", "iphone16pmax"]) == 2
    assert "Did you mean iphone16pm" in capsys.readouterr().err
