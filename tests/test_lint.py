"""Every Neural Engine rule finds a program that breaks it, and is silent on the one written as it says."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.optimize import coreml as cto
from mil_packages import IOS18, normal, save

from edgegen import lint as module
from edgegen.lint import RULES, lint


def half(*shape: int) -> np.ndarray:
    return normal(*shape).astype(np.float16)


def rules(tmp_path, build, inputs, **more) -> set[str]:
    """The rules that a program breaks, alignment of its inputs and outputs aside."""
    found = lint(save(tmp_path / "program.mlpackage", inputs, build, **more))
    assert all(finding.remedy and finding.operation and finding.what for finding in found)
    return {finding.rule for finding in found} - {"ANE002"}


def one(build):
    return lambda x: {"out": build(x)}


TOKENS = {"x": half(1, 8, 1, 64)}  # (B, C, 1, S)


@pytest.mark.parametrize("rule, build, inputs", [
    ("ANE001", one(lambda x: mb.expand_dims(x=x, axes=[1])), TOKENS),
    ("ANE003", one(lambda x: mb.cast(x=x, dtype="fp32")), TOKENS),
    ("ANE005", one(lambda x: mb.linear(x=x, weight=half(16, 64))), TOKENS),
    ("ANE006", one(lambda x: mb.matmul(x=x, y=x, transpose_y=True)), TOKENS),
    ("ANE007", one(lambda x: mb.softmax(x=x, axis=-1)), TOKENS),
    ("ANE008", one(lambda x: mb.transpose(x=x, perm=[0, 3, 2, 1])), TOKENS),
    ("ANE008", one(lambda x: mb.reshape(x=x, shape=[1, 8, 8, 8])), TOKENS),
    ("ANE009", one(lambda x: mb.add(x=x, y=np.float16(-np.inf))), TOKENS),
    ("ANE010", one(lambda x: mb.softmax(x=x, axis=1)), {"x": half(1, 8, 1, 1024)}),
    ("ANE011", one(lambda x: mb.tile(x=x, reps=[1, 1, 1, 300])), TOKENS),
    ("ANE012", one(lambda x: mb.gather(x=x, indices=np.int32([0, 3]), axis=1)), TOKENS),
])  # fmt: skip
def test_a_program_that_breaks_a_rule_is_found(tmp_path, rule, build, inputs):
    assert rule in rules(tmp_path, build, inputs)


def test_fused_attention_is_found(tmp_path):
    def build(x):
        return {"out": mb.scaled_dot_product_attention(query=x, key=x, value=x)}

    assert "ANE006" in rules(tmp_path, build, {"x": half(1, 2, 64, 32)}, target=IOS18)


def test_attention_as_the_rules_say_breaks_none(tmp_path):
    def build(q, k):
        scores = mb.einsum(values=(q, mb.transpose(x=k, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu")
        return {"out": mb.relu(x=mb.conv(x=mb.softmax(x=scores, axis=1), weight=half(4, 32, 1, 1)))}

    inputs = {"q": half(1, 32, 1, 32), "k": half(1, 32, 1, 32)}
    assert rules(tmp_path, build, inputs) == {"ANE008"}  # the one transpose of k per layer


def test_unaligned_inputs_and_outputs_are_named(tmp_path):
    path = save(
        tmp_path / "p.mlpackage",
        {"narrow": half(1, 4, 1, 8), "wide": half(1, 4, 1, 64)},
        lambda narrow, wide: {
            "sum": mb.reduce_sum(x=wide, axes=[3], keep_dims=True),
            "same": mb.relu(x=wide),
            "other": mb.relu(x=narrow),
        },
    )
    named = {finding.operation for finding in lint(path) if finding.rule == "ANE002"}
    assert named == {"narrow", "sum", "other"}


def test_a_palettized_convolution_of_stride_above_two_is_found(tmp_path):
    def build(stride):
        return lambda x: {"out": mb.conv(x=x, weight=normal(32, 8, 4, 4), strides=[stride, stride])}

    config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0))
    for stride, expected in ((4, True), (2, False)):
        path = save(tmp_path / f"{stride}.mlpackage", {"x": normal(1, 8, 32, 32)}, build(stride))
        model = cto.palettize_weights(ct.models.MLModel(path, skip_model_load=True), config)
        model.save(str(tmp_path / f"{stride}-lut.mlpackage"))
        found = {finding.rule for finding in lint(tmp_path / f"{stride}-lut.mlpackage")}
        assert ("ANE014" in found) == expected


def test_too_many_weights_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHTS", 100)
    build = one(lambda x: mb.conv(x=x, weight=half(8, 8, 1, 1)))
    assert "ANE013" in rules(tmp_path, build, TOKENS)


def test_rules_have_distinct_names_and_remedies():
    assert len({rule.id for rule in RULES}) == len({rule.remedy for rule in RULES}) == len(RULES)
