"""What an export refuses before it begins, and what it leaves out because it changes nothing."""

from types import SimpleNamespace

import pytest

from edgegen import export as work
from edgegen import plan as planning
from edgegen.cli.options import open_checkpoint
from edgegen.emit.xnnpack_passes import NEEDS, needed
from edgegen.errors import InputError
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.plan import make_plan
from edgegen.target import load_tier


def test_too_little_memory_is_said_before_the_work(tmp_path, monkeypatch):
    plan = make_plan(load_checkpoint(bundled_folder()), load_tier("low-android"), out=tmp_path / "bundle")
    for module in (work, planning):
        monkeypatch.setattr(module, "available_bytes", lambda: plan.memory_bytes - 1)
    with pytest.raises(InputError, match="GiB of memory") as caught:
        work.export(plan)
    assert "tier" in caught.value.remedy and not list(tmp_path.iterdir())
    assert not work.fits_two(plan)


def test_memory_is_that_of_the_back_end(tmp_path):
    """ONNX's writer holds more copies of the weights than others, until they go beside the graph; Core ML's the least.
    The full width was written in 12.3 and 9.1 GB at the peak, of 14 GiB at the most.
    """
    checkpoint = open_checkpoint(None, "paper")

    def plan(backend: str, tier: str):
        return make_plan(checkpoint, load_tier(tier), (backend,), ("transformer",), out=tmp_path / "bundle")

    small = [plan(name, "low-android") for name in ("coreml", "onnx")]
    more = small[1].memory_bytes - small[0].memory_bytes
    assert more == pytest.approx(4 * 3.0 * small[0].parameters, rel=1e-6) and more > 1e9
    full = [plan(name, "full") for name in ("coreml", "onnx")]
    for one, peak in zip(full, (12.3e9, 9.1e9), strict=True):
        assert peak < one.memory_bytes < 14 * 2**30


def test_transformers_are_begun_first_and_each_part_once(tmp_path):
    plan = make_plan(load_checkpoint(bundled_folder()), load_tier("low-android"), out=tmp_path / "bundle")
    order = work.hardest_first(plan)
    assert sorted(order) == list(range(len(plan.parts)))
    count = len(plan.backends)
    assert {plan.parts[i].component for i in order[:count]} == {"transformer"} and count > 1


def program_of(*names: str):
    nodes = [SimpleNamespace(op="call_function", target=SimpleNamespace(__name__=name)) for name in names]
    return SimpleNamespace(graph=SimpleNamespace(nodes=nodes))


def test_passes_run_where_their_operations_are():
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    every = XNNPACKPassManager(None).passes
    assert set(NEEDS) <= {made.__name__ for made in every}
    left = needed(every, program_of("aten.mul.Tensor"))
    assert len(left) == len(every) - len(NEEDS) and set(left) < set(every)
    kept = {
        made.__name__ for made in needed(every, program_of("aten._prelu_kernel.default", "aten.convolution.default"))
    }
    assert {"PReLUReshapePass", "Conv1dUnsqueezePass"} <= kept and "FuseBatchNormPass" not in kept
