"""What lowering leaves out: the code of graphs that nobody calls, lists asked for again, delegates run for shapes."""

import operator

import pytest
import torch
from torch import nn
from torch._export import utils

from edgegen.emit import late_code as late
from edgegen.emit.known_operations import operations_known
from edgegen.emit.late_code import late_code


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.fixture
def written(monkeypatch):
    """The graph modules whose code was written."""
    modules, write = [], late.write_code
    monkeypatch.setattr(late, "write_code", lambda module: modules.append(module) or write(module))
    return modules


def turn_to_product_(module) -> None:
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.target = operator.mul
    module.recompile()


def test_code_is_written_when_a_graph_is_called(written):
    x, y = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])
    with late_code():
        module = torch.fx.symbolic_trace(Sum())
        assert not written
        assert torch.equal(module(x, y), x + y) and written == [module]
        turn_to_product_(module)
        turn_to_product_(module)
        assert written == [module]
    assert torch.equal(module(x, y), x * y) and written == [module, module]
    turn_to_product_(module)
    assert torch.equal(module(x, y), x * y)


def test_code_is_written_when_it_is_read():
    with late_code():
        module = torch.fx.symbolic_trace(Sum())
        turn_to_product_(module)
        assert "x * y" in module.code
        with pytest.raises(AttributeError, match="absent"):
            _ = module.absent


def test_a_capture_changes_nothing_but_time():
    network = nn.Linear(3, 5)

    def capture():
        return torch.export.export(network, (torch.ones(2, 3),)).run_decompositions()

    plain = capture()
    with late_code(), operations_known():
        lean = capture()
    assert str(lean.graph) == str(plain.graph)
    feed = torch.randn(2, 3)
    assert torch.equal(lean.module()(feed), plain.module()(feed))


def test_the_list_of_operations_is_made_once_and_is_whole(monkeypatch):
    calls, ask = [], utils._materialize_cpp_cia_ops
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: calls.append(None) or ask())
    plain = utils._collect_all_valid_cia_ops()
    calls.clear()
    with operations_known():
        assert utils._collect_all_valid_cia_ops() == utils._collect_all_valid_cia_ops() == plain
    assert len(calls) == 1 and len(plain) > 100
    utils._collect_all_valid_cia_ops()
    assert len(calls) > 1
