"""Runs a module once and records the calls that touch its inputs; all else becomes constants.

Masks, position ids, rotary tables, lists and Python control flow are settled by running them. Inputs are fake tensors:
shapes without values, so a network of any size runs in little memory, and a value that a decision would need is an
error that names the line.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgegen.errors import InputError

READS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero", "__len__"}
HERE = ("edgegen/capture/", "torch/")  # frames that are not the user's


@dataclass(frozen=True)
class Recording:
    """A module as a graph: `graph` takes the varying inputs in the order of `names`, and gives a tuple of tensors."""

    graph: fx.GraphModule
    names: tuple[str, ...]
    examples: tuple[Tensor, ...]
    outputs: tuple[str, ...]


def leaf_names(arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every leaf of nested keyword arguments with a name: `added.resolution`, `x.0` become words with underscores."""
    leaves, _ = pytree.tree_flatten_with_path(dict(arguments))
    return [
        ("_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path), leaf) for path, leaf in leaves
    ]


def specialize(module: nn.Module, arguments: Mapping[str, Any], constant: Sequence[str] = ()) -> Recording:
    """Records `module(**arguments)`. Tensors among the arguments vary, but for those named in `constant`.

    InputError where the module reads a value of a varying tensor, with the line that does.
    """
    named = leaf_names(arguments)
    strangers = set(constant) - {name for name, _ in named}
    if strangers:
        raise InputError(
            f"no input is called {', '.join(sorted(strangers))}.", f"Inputs: {', '.join(n for n, _ in named)}."
        )
    _, spec = pytree.tree_flatten(dict(arguments))
    recorder = Recorder(module)
    leaves, examples, names = [], [], []
    for name, leaf in named:
        if isinstance(leaf, Tensor) and name not in constant:
            examples.append(leaf.detach())
            names.append(name)
            leaf = recorder.input(name, leaf)
        leaves.append(leaf)
    if not names:
        raise InputError("the module has no input that varies.", "Give at least one tensor.")
    with torch.no_grad():
        result = recorder.run(lambda: module(**pytree.tree_unflatten(leaves, spec)))
    outputs = recorder.finish(result)
    return Recording(recorder.module(), tuple(names), tuple(examples), outputs)


class Recorder(TorchFunctionMode):
    """Writes the graph while a module runs on fake inputs."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}  # of varying tensors, by id
        self.kept: list[Any] = []  # so that no id is used twice
        self.tensors: dict[str, Tensor] = {}  # what the graph holds, by name
        self.own = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
        self.anonymous: dict[Any, str] = {}
        self.replaced: dict[int, Tensor] = {}  # constants that were written into, by id

    def input(self, name: str, example: Tensor) -> Tensor:
        """A fake tensor for an input."""
        fake = self.fake.from_tensor(example.detach())
        self._hold(fake, self.graph.placeholder(name))
        return fake

    def run(self, call: Callable[[], Any]) -> Any:
        """Runs the module; reading a value is told with its line."""
        try:
            with self:
                return call()
        except DataDependentOutputException as error:
            raise reading_error(error.func) from error

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = self._current((args, kwargs or {}))
        if not any(isinstance(t, FakeTensor) for t in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in READS and name != "__len__":
            raise reading_error(name)
        args = self._adopt(func, name, args)
        with self.fake:
            out = func(*args, **kwargs)
        made = [t for t in tensors_in(out) if isinstance(t, FakeTensor)]
        if made or name == "__setitem__":
            self._record(func, name, args, kwargs, out)
        return out

    def _current(self, value: Any) -> Any:
        """Arguments with constants that were written into as they are now."""
        if not self.replaced:
            return value
        return pytree.tree_map(lambda leaf: self.replaced.get(id(leaf), leaf), value)

    def _adopt(self, func: Callable, name: str, args: tuple) -> tuple:
        """A constant that a varying value is written into varies from then on."""
        writes = name == "__setitem__" or (name.endswith("_") and not name.startswith("__")) or name.startswith("__i")
        target = args[0] if args else None
        if not writes or not isinstance(target, Tensor) or isinstance(target, FakeTensor):
            return args
        node = self.graph.call_method("clone", (self._constant(target),))
        raise_if_view(target)
        fake = self.fake.from_tensor(target.detach())
        self._hold(fake, node)
        self.replaced[id(target)] = fake
        self.kept.append(target)
        return (fake, *args[1:])

    def _record(self, func: Callable, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        if name == "__get__":  # of a property that is a tensor, such as x.T
            node = self.graph.call_function(getattr, (self._argument(args[0]), func.__self__.__name__))
        else:
            node = self.graph.call_function(func, self._argument(args), self._argument(kwargs))
        if isinstance(out, Tensor):
            self._hold(out, node)
            return
        leaves, _ = pytree.tree_flatten_with_path(out)
        for path, leaf in leaves:
            if isinstance(leaf, FakeTensor):
                part = node
                for key in path:
                    part = self.graph.call_function(getitem, (part, getattr(key, "idx", getattr(key, "key", None))))
                self._hold(leaf, part)

    def _hold(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)

    def _argument(self, value: Any) -> Any:
        """An argument of a call as the graph writes it."""
        return pytree.tree_map(self._leaf, value)

    def _leaf(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return torch.device("cpu") if isinstance(value, torch.device) else value
        node = self.nodes.get(id(value))
        return self._constant(value) if node is None else node

    def _constant(self, value: Tensor) -> fx.Node:
        """A tensor that does not vary; one of the module's keeps its name, others are kept once by content."""
        name = self.own.get(id(value))
        if name is None:
            key = content_key(value)
            name = self.anonymous.setdefault(key, f"constants.c{len(self.anonymous)}")
        self.tensors.setdefault(name, value.detach())
        return self.graph.get_attr(name)

    def finish(self, result: Any) -> tuple[str, ...]:
        """Ends the graph with every tensor of the module's result; returns their names."""
        leaves = output_leaves(self._current(result))
        constant = [name for name, leaf in leaves if id(leaf) not in self.nodes]
        if constant or not leaves:
            raise InputError(f"the output {', '.join(constant) or 'of the module'} does not depend on the inputs.")
        self.graph.output(tuple(self.nodes[id(leaf)] for _, leaf in leaves))
        return tuple(name for name, _ in leaves)

    def module(self) -> fx.GraphModule:
        self.graph.eliminate_dead_code(is_impure_node=writes_in_place)
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        holder = Holder({name: tensor for name, tensor in self.tensors.items() if name in used})
        return fx.GraphModule(holder, self.graph)


class Holder(nn.Module):
    """Tensors under dotted names, as frozen parameters of nested modules."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            hold_(self, name, tensor)


def hold_(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor into a module under a dotted name: floats as frozen parameters, others as buffers."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if tensor.is_floating_point():
        root.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(last, tensor)


def getitem(value: Any, index: Any) -> Any:
    """A part of a result that is no plain tensor."""
    return value[index] if isinstance(index, int) or isinstance(value, dict) else getattr(value, index)


def writes_in_place(node: fx.Node) -> bool:
    """Whether a call changes its argument, so that it is needed though nothing reads its result."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        node.op in ("placeholder", "output")
        or name == "__setitem__"
        or (name.endswith("_") and not name.endswith("__"))
        or (name.startswith("__i") and name not in ("__index__", "__invert__"))
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor of nested arguments."""
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def content_key(value: Tensor) -> Any:
    """Equal for tensors of the same type, shape and values; a large or fake one only equals itself."""
    if value.is_meta or isinstance(value, FakeTensor):
        return id(value)
    data = torch.view_as_real(value) if value.is_complex() else value
    digest = hashlib.sha256(data.detach().contiguous().view(-1).view(torch.uint8).numpy()).digest()
    return value.dtype, tuple(value.shape), digest


def output_leaves(result: Any) -> list[tuple[str, Tensor]]:
    """Tensors of a result with names: fields of a dataclass or dictionary, `output` of a lone tensor or tuple."""
    if isinstance(result, Tensor):
        return [("output", result)]
    if isinstance(result, Mapping):
        named = [(name, leaf) for name, leaf in leaf_names(result) if isinstance(leaf, Tensor)]
        return [(name.removesuffix("_0"), leaf) for name, leaf in named] if len(named) == 1 else named
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return [("output" if len(leaves) == 1 else f"output_{i}", leaf) for i, leaf in enumerate(leaves)]


def raise_if_view(target: Tensor) -> None:
    if target._is_view():
        raise InputError("the module writes a varying value into a view of a constant.", f"At {users_line()}.")


def users_line() -> str:
    """File and line of the module's code that is running."""
    frames = [f for f in traceback.extract_stack() if not any(part in f.filename for part in HERE)]
    last = frames[-1]
    return f"{last.filename}:{last.lineno} ({last.line})"


def reading_error(what: object) -> InputError:
    return InputError(
        f"the module reads a value of an input ({what}) at {users_line()}.",
        "A program is static: make that argument constant, or take the decision outside the module.",
    )
