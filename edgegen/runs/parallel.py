"""Several processes that train one model: started by torchrun, joined through gloo or NCCL; one process needs nothing.

Either every process holds the whole model and gradients are averaged, or FSDP2 shards parameters, gradients, optimizer
states and the moving average over them. The batch of a step is the same whatever the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edgegen.errors import InputError
from edgegen.model.elastic import slice_parameter


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def join_if_launched(device: str = "cpu") -> None:
    """Joins the process group when torchrun set its variables."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Waits until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def share_of_batch(batch: int, accumulate: int) -> int:
    """Rows of one process in one pass; refuses a batch that does not divide."""
    parts = world_size() * accumulate
    if batch % parts:
        near = max(parts, round(batch / parts) * parts)
        raise InputError(
            f"batch {batch} does not divide among {world_size()} processes of {accumulate} passes.",
            f"Use --set batch={near}, or other numbers of either.",
        )
    return batch // parts


def average_gradients_(gradients: Iterable[Tensor]) -> None:
    """Averages gradients over all processes, in one message; the same ones must be there on each.

    FSDP has averaged its shards already.
    """
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    if world_size() == 1 or not whole:
        return
    flat = torch.cat([g.flatten() for g in whole])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(whole, flat.split([g.numel() for g in whole]), strict=True):
        gradient.copy_(part.view_as(gradient))


def average(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each number over all processes."""
    if world_size() == 1:
        return dict(values)
    tensor: Tensor = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(tensor)
    return dict(zip(values, (tensor / world_size()).tolist(), strict=True))


def broadcast(value: Any) -> Any:
    """A small value of the first process, on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def any_process(value: bool) -> bool:
    """Whether it is true on any process."""
    if world_size() == 1:
        return value
    flag = torch.tensor(float(value))
    dist.all_reduce(flag)
    return bool(flag > 0)


def shard_rest_(module: nn.Module) -> None:
    """Shards a small module, such as projectors, as one piece."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(module)


def gather(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, gathered on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def norm_of_slices(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> float:
    """Norm of tensors by name, each restricted to the slice of the shape given; sharded ones stay where they are."""
    squares = [
        slice_parameter(n, *local_slice(tensors[n], shape)).square().sum()
        for n, shape in shapes.items()
        if n in tensors
    ]
    total = torch.stack(squares).sum()
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        dist.all_reduce(total)
    return float(total.sqrt())


def local_slice(tensor: Tensor, shape: torch.Size) -> tuple[Tensor, torch.Size]:
    """What a process holds of a tensor, and the shape of the wanted slice within it; FSDP shards the first axis."""
    if not isinstance(tensor, DTensor):
        return tensor, shape
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local = tensor.to_local()
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    rows = min(max(shape[0] - offsets[0], 0), local.shape[0])
    return local, torch.Size((rows, *shape[1:]))


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor that every process has, on the device of another one and sharded as it is."""
    if not isinstance(model, DTensor):
        return tensor.to(model.device)
    local, shape = local_slice(model, model.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offsets = compute_local_shape_and_global_offset(model.shape, model.device_mesh, model.placements)
    start = min(offsets[0], tensor.shape[0])
    part = tensor.narrow(0, start, shape[0]).to(local.device).contiguous()
    return DTensor.from_local(
        part, model.device_mesh, model.placements, run_check=False, shape=model.shape, stride=model.stride()
    )
