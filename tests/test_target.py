"""Target files: what ships is whole, and whatever is wrong in a file is named with the file and the key."""

from pathlib import Path

import pytest

from edgegen.backends.registry import backend_names
from edgegen.errors import InputError
from edgegen.target import list_devices, list_tiers, load_device, load_tier, targets_folder

LOW = targets_folder() / "tiers" / "low-android.toml"


def edited(tmp_path: Path, old: str, new: str) -> str:
    text = LOW.read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


def test_shipped_tiers_have_the_issue_widths_and_floors():
    tiers = {tier.name: tier for tier in list_tiers()}
    assert {name: tier.width for name, tier in tiers.items()} == {"low-android": 0.375, "high-phone": 0.5, "full": 1.0}
    for tier in tiers.values():
        floors = {"coreml": 45, "onnx": 100, "executorch": 80, "coreai": 45}
        assert {name: b.floor_db for name, b in tier.backends.items()} == floors
        assert tier.picture_floor_db == 35
        assert tier.backends["coreml"].deployment_target == "iOS17"
        assert tier.backends["coreml"].attention == "split"


def test_shipped_devices_name_a_shipped_tier_and_their_sources():
    names = {tier.name for tier in list_tiers()}
    devices = list_devices()
    assert devices
    for device in devices:
        assert device.tier in names
        assert load_device(device.name) == device
        assert all(figure.source for figure in (device.chip, device.year, device.memory_gb))


def test_a_tier_file_may_be_given_by_path(tmp_path):
    assert load_tier(edited(tmp_path, '"low-android"', '"mine"')).name == "mine"


@pytest.mark.parametrize("load, name, close", [
    (load_tier, "low-andriod", "low-android"),
    (load_tier, "High_Phone", "high-phone"),
    (load_device, "pixle8", "pixel8"),
    (lambda name: load_tier("full").backend(name), "corml", "coreml"),
])  # fmt: skip
def test_an_unknown_name_suggests_the_closest(load, name, close):
    with pytest.raises(InputError, match=f"Did you mean {close}") as caught:
        load(name)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("old, new, key, expected", [
    ("width = 0.375", "width = '0.375'", "width", "number"),
    ("width = 0.375", "width = 0", "width", "above 0"),
    ("width = 0.375", "width = nan", "width", "number"),
    ("width = 0.375", "widht = 0.375", "width", "nothing"),
    ("width = 0.375", "width = 0.375\nwidths = 1", "widths", "Did you mean width"),
    ("query_chunk = 512", "query_chunk = 4.5", "backends.coreml.query_chunk", "integer from 1"),
    ("query_chunk = 512", "query_chunk = true", "backends.coreml.query_chunk", "integer from 1"),
    ('attention = "split"', 'attention = "fused"', "backends.coreml.attention", "split, batched"),
    ("query_chunk = 512", "query_chunk = 0", "backends.coreml.query_chunk", "integer from 1"),
    ('precision = "float32"', 'precision = "float16"', "backends.onnx.precision", "float32"),
    ("query_chunk = 512", "query_chnk = 512", "backends.coreml.query_chnk", "Did you mean query_chunk"),
    ("floor_db = 45.0", "floor_db = 'high'", "backends.coreml.floor_db", "number"),
    ("floor_db = 100.0", "", "backends.onnx.floor_db", "nothing"),
    ("[backends.onnx]", "[backends.onxx]", "backends.onxx", "Did you mean onnx"),
    ('"iOS17"', '"ios-17"', "backends.coreml.deployment_target", "iOS17"),
    ('name = "low-android"', 'name = "../up"', "name", "letters"),
    ("width = 0.375", "width = 0.375\nresolution = [128]", "resolution", "2 positive integers"),
    ("width = 0.375", "width = ", "", "not TOML"),
])  # fmt: skip
def test_a_wrong_tier_file_is_named_with_its_key(tmp_path, old, new, key, expected):
    path = edited(tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        load_tier(path)
    message = str(caught.value)
    assert path in message and key in message and expected in message
    assert "\n" not in message


def test_a_tier_file_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="nowhere.toml"):
        load_tier("nowhere.toml")


def test_every_back_end_is_in_every_tier():
    assert all(tuple(tier.backends) == backend_names() for tier in list_tiers())
