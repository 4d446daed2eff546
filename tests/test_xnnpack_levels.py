"""Parts for XNNPACK never wait for each other; SANA, whose parts did, lowers and runs."""

from graphlib import TopologicalSorter

import pytest
from foreign import sana, source
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from edgegen.capture.deploy import deploy
from edgegen.emit import executorch
from edgegen.emit.xnnpack_levels import levels
from edgegen.foreign.export import record
from edgegen.rewrite.component import Form
from edgegen.runtime.executorch import open_executorch
from edgegen.verify import psnr


def graph_of(inputs: list[list[int]]) -> list[fx.Node]:
    """Nodes of a graph in which node i reads those of `inputs[i]`."""
    graph, nodes = fx.Graph(), []
    for number, given_ in enumerate(inputs):
        made = [nodes[i] for i in given_]
        nodes.append(graph.call_function(max, tuple(made)) if made else graph.placeholder(f"x{number}"))
    return nodes


def order_of(nodes: list[fx.Node], parts: list[list[fx.Node]]) -> list[object]:
    """The order in which parts and the nodes outside can run; CycleError where there is none."""
    holder = {node: index for index, part in enumerate(parts) for node in part}
    before: dict[object, set[object]] = {}
    for node in nodes:
        unit = holder.get(node, node)
        before.setdefault(unit, set()).update({holder.get(n, n) for n in node.all_input_nodes} - {unit})
    return list(TopologicalSorter(before).static_order())


@given(st.data())
def test_parts_can_always_run_one_after_the_other(data):
    count = data.draw(st.integers(1, 24))
    nodes = graph_of([data.draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else [] for i in range(count)])
    taken = [node for node in nodes if node.op == "call_function" and data.draw(st.booleans())]
    parts = levels(nodes[0].graph, [[node] for node in taken], [])
    assert sorted(n.name for part in parts for n in part) == sorted(n.name for n in taken)
    assert order_of(nodes, parts)


def test_two_parts_that_would_wait_for_each_other_are_cut():
    """a1 -> outside -> b1 and b2 -> outside -> a2: {a1, a2} and {b1, b2} are each free of cycles, not both together."""
    a1, b2, out1, out2, b1, a2 = range(2, 8)
    nodes = graph_of([[], [], [0], [1], [a1], [b2], [out1, b2], [out2, a1]])
    parts = levels(nodes[0].graph, [[nodes[i]] for i in (a1, b2, b1, a2)], [])
    assert order_of(nodes, parts) and len(parts) == 2


@pytest.mark.parametrize("sprint", [False, True])
def test_sana_runs_on_xnnpack(tmp_path, sprint):
    recorded = record(source(*sana(sprint=sprint)))
    component = deploy(recorded.traced, Form("batched"))
    executorch.write(component, tmp_path / "sana.pte")
    (output,) = component.outputs
    run = open_executorch(tmp_path / "sana.pte", [s.name for s in component.inputs], [output.name])
    for case in recorded.cases:
        assert psnr(case.expected[output.name], run(case.feed)[output.name]) >= 80
