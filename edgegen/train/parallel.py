"""Several processes that train one model: started by torchrun, joined through gloo; one process needs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def join_if_launched() -> None:
    """Joins the process group when torchrun set its variables."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Waits until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Averages the gradients over all processes, in one message; the same parameters must have one on each."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def average(value: float) -> float:
    """The mean of a number over all processes."""
    if world_size() == 1:
        return value
    tensor: Tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor)
    return float(tensor / world_size())
