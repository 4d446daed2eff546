"""A fourth back end from outside the package: programs of `torch.export` in their own file, run by PyTorch."""

import torch

from edgegen.backends.backend import Backend, RuntimeMemory, dense_bytes, same_signature
from edgegen.backends.health import BackendHealth, attempt
from edgegen.emit.program import exported
from edgegen.graph.operations import Builder, Operation


def write(component, path, target, weights):
    torch.export.save(exported(component), path)


def open_program(path, inputs, outputs, native):
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(feed):
        made = module(*(torch.from_numpy(feed[name]) for name in inputs))
        made = made if isinstance(made, tuple | list) else (made,)
        return {name: value.numpy() for name, value in zip(outputs, made, strict=True)}

    return run


def read_graph(path):
    """Operations by name, each with the elements it makes."""
    graph, builder = torch.export.load(path).graph, Builder()
    for node in graph.nodes:
        if node.op == "placeholder":
            builder.value(node.name, *size(node))
        elif node.op == "call_function":
            used = tuple(source.name for source in node.all_input_nodes)
            builder.add(Operation(str(node.target), used, (node.name,)), {node.name: size(node)})
    return builder.program((), ())


def size(node):
    value = node.meta.get("val")
    count = value.numel() if isinstance(value, torch.Tensor) else 0
    return count, 4 * count


def examine():
    works = attempt(lambda: torch.export, "torch.export")
    return BackendHealth("toy", works, works, works)


BACKEND = Backend(
    name="toy",
    title="Toy",
    suffix=".pt2",
    packages=(),
    precisions=("float32",),
    activations=("float32",),
    forms=("batched",),
    speed_rank=9,
    unit="cpu",
    compute="float32",
    compute_unit="cpu",
    memory=RuntimeMemory(1.0, 0.0, 0.0, 0.0),
    check=lambda weights, target: None,
    write=write,
    signature=same_signature,
    predicted_bytes=lambda parameters, weights, target: dense_bytes(parameters, {}, target)[0],
    resident_bytes=lambda path, quantized: path.stat().st_size,
    palette_bits=lambda target: 32,
    open=open_program,
    read_graph=read_graph,
    evaluator=lambda: f"torch {torch.__version__}",
    examine=examine,
    runs_here=lambda: True,
    warm=lambda: None,
)
