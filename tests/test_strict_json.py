"""JSON of others: what cannot be meant is one line, whatever it is; what can comes back as it was."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegen.errors import LINE, InputError
from edgegen.strict_json import DEPTH, NUMBER, parse_json, read_bytes, read_json

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-NUMBER, NUMBER - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_can_be_meant_comes_back(value):
    assert parse_json(json.dumps(value), "x.json") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "x.json") == value


@given(values, st.randoms())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_bytes_are_there_it_is_a_value_or_one_line(value, random):
    from fuzz.mutate import flipped, text_of

    for data in (text_of(random, value), flipped(random, json.dumps(value).encode())):
        try:
            made = parse_json(data, "x.json")
        except InputError as error:
            told = str(error)
            assert told.startswith("x.json") and len(told) <= LINE and told.isprintable()
        else:
            json.dumps(made, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("data, told", [
    (b"[" * 10_000 + b"]" * 10_000, "nested deeper"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested deeper"),
    (b'{"a": 1, "a": 2}', "'a' is there twice"),
    (b'{"a": [1e999]}', "beyond what a number can hold"),
    (b"[" + b"9" * 10_000 + b"]", "beyond 64 bits"),
    (b"[NaN]", "NaN"),
    (rb'["\ud83c"]', "half of a surrogate pair"),
    (rb'{"\udcff": 1}', "half of a surrogate pair"),
    (b'["caf\xe9"]', "byte 0xe9 at 5"),
    (b"", "is not JSON"),
    (b'{"' + b"k" * 10_000 + b'": 1, "' + b"k" * 10_000 + b'": 1}', "is there twice"),
])  # fmt: skip
def test_what_cannot_be_meant_is_named(data, told):
    with pytest.raises(InputError, match=told) as caught:
        parse_json(data, "x.json")
    assert len(str(caught.value)) <= LINE


def test_depth_counts_nesting_and_not_brackets():
    flat = "[" + ",".join(["[]"] * 1000) + ',"' + "[" * 1000 + '"]'
    assert len(parse_json(flat, "x")) == 1001
    assert parse_json("[" * DEPTH + "]" * DEPTH, "x")
    assert parse_json(rb'["\ud83c\udf4e", "\\ud83c"]', "x") == ["🍎", "\\ud83c"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError):
            read_json(path)
    (tmp_path / "large").write_bytes(b" " * 100)
    with pytest.raises(InputError, match="100 bytes, the limit is 99"):
        read_bytes(tmp_path / "large", largest=99)
