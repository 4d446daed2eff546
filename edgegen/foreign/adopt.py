"""A module that stands around another and keeps its layers' names."""

from __future__ import annotations

from torch import nn


def adopt_(holder: nn.Module, module: nn.Module, without: tuple[str, ...] = ()) -> None:
    """Gives a module another's children and parameters under the same names, and so the checkpoint's."""
    for name, child in module.named_children():
        if name not in without:
            holder.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        holder.register_parameter(name, parameter)
