"""MIL operations that place values without computing them: shapes, slices, gathers, padding, resizing.

Legend of shapes: n batch, C channels, H W height and width, f or b the block of a space/depth exchange.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgegen.runtime.mil_ops import Call, Kernel, operation

# --- shape ---------------------------------------------------------------------------------------------------------


@operation("reshape", data="x shape", exact=True)
def _reshape(call: Call) -> Kernel:
    """`0` keeps the size of that axis, `-1` takes what is left (MIL reshape)."""
    constant = call.ints("shape") if call.constant("shape") else None
    if constant is not None and 0 not in constant:
        return lambda x, _: x.reshape(constant)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape.tolist())])

    return run


@operation("reshape_like", data="x *ref_tensors", exact=True)
def _reshape_like(call: Call) -> Kernel:
    bound = [[int(np.reshape(c, -1)[0]) for c in _each(call, key)] for key in ("begins", "ends", "end_masks")]
    slices = [slice(begin, None if mask else end) for begin, end, mask in zip(*bound, strict=True)]

    def run(x: Tensor, *refs: Tensor) -> Tensor:
        return x.reshape([size for ref, part in zip(refs, slices, strict=True) for size in ref.shape[part]])

    return run


def _each(call: Call, parameter: str) -> list[Any]:
    """The constants of a tuple parameter."""
    bound = call.record.inputs[parameter]
    return [(call.program.constants[b] if isinstance(b, str) else b).array() for b in bound]


@operation("transpose", exact=True)
def _transpose(call: Call) -> Kernel:
    perm = call.ints("perm")
    return lambda x: x.permute(perm)


@operation("expand_dims", exact=True)
def _expand_dims(call: Call) -> Kernel:
    axes = call.ints("axes")
    rank = call.rank() + len(axes)
    axes = sorted(axis % rank for axis in axes)

    def run(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return run


@operation("squeeze", exact=True)
def _squeeze(call: Call) -> Kernel:
    axes = call.ints("axes", None)
    return torch.squeeze if axes is None else lambda x: torch.squeeze(x, axes)


@operation("flatten2d", exact=True)
def _flatten2d(call: Call) -> Kernel:
    axis, rank = call.integer("axis", 1), call.rank()
    axis = axis + rank if axis < 0 else axis
    return lambda x: x.reshape(math.prod(x.shape[:axis]), -1)


@operation("shape")
def _shape(call: Call) -> Kernel:
    return lambda x: torch.tensor(x.shape, dtype=torch.int32)


@operation("concat", data="*values", exact=True)
def _concat(call: Call) -> Kernel:
    rank = len(call.infos("values")[0].shape)
    axis = call.integer("axis") % max(rank, 1)
    if not call.flag("interleave", False):
        return lambda *values: torch.cat([v.reshape(1) if v.dim() == 0 else v for v in values], axis)
    return lambda *values: torch.stack(values, axis + 1).flatten(axis, axis + 1)  # a0 b0 a1 b1 ...


@operation("stack", data="*values", exact=True)
def _stack(call: Call) -> Kernel:
    axis = call.integer("axis")
    return lambda *values: torch.stack(values, axis)


@operation("split", exact=True)
def _split(call: Call) -> Kernel:
    axis, sizes, count = call.axis("axis"), call.ints("split_sizes", None), len(call.outputs)
    return lambda x: torch.split(x, list(sizes) if sizes else x.shape[axis] // count, axis)


@operation("tile", data="x reps", exact=True)
def _tile(call: Call) -> Kernel:
    return lambda x, reps: torch.tile(x, tuple(reps.tolist()))


@operation("reverse", exact=True)
def _reverse(call: Call) -> Kernel:
    axes = call.ints("axes", range(call.rank()))
    return lambda x: torch.flip(x, axes)


# --- slices --------------------------------------------------------------------------------------------------------


def _strided(x: Tensor, axis: int, begin: int | None, end: int | None, stride: int) -> Tensor:
    """x[begin:end:stride] on one axis, with Python's meaning of negative numbers."""
    size = x.shape[axis]
    start, stop, step = slice(begin, end, stride).indices(size)
    if step == 1:
        return x if stop - start == size else x.narrow(axis, start, max(0, stop - start))
    index = range(start, stop, step)
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, stop, step),)]
    return x.index_select(axis, torch.tensor(index))


def _window(call: Call, rank: int) -> Any:
    """A function of (begin, end) that gives (axis, begin, end, stride) for each axis cut, and the axes squeezed."""
    strides = call.ints("stride", (1,) * rank)
    masks = [call.ints(key, (0,) * rank) for key in ("begin_mask", "end_mask", "squeeze_mask")]
    squeezed = tuple(axis for axis in range(rank) if masks[2][axis])

    def window(begin: Any, end: Any) -> list[tuple[int, int | None, int | None, int]]:
        cuts = []
        for axis in range(rank):
            first = None if masks[0][axis] else begin[axis]
            last = None if masks[1][axis] else end[axis]
            if masks[2][axis]:  # the one element at begin
                first = 0 if first is None else first
                cuts.append((axis, first, first + 1 or None, 1))
            elif (first, last, strides[axis]) != (None, None, 1):
                cuts.append((axis, first, last, strides[axis]))
        return cuts

    return window, squeezed


@operation("slice_by_index", data="x begin end", exact=True)
def _slice_by_index(call: Call) -> Kernel:
    window, squeezed = _window(call, call.rank())
    fixed = call.constant("begin") is not None and call.constant("end") is not None
    cuts = window(call.ints("begin"), call.ints("end")) if fixed else None

    def run(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        for cut in window(begin.tolist(), end.tolist()) if cuts is None else cuts:
            x = _strided(x, *cut)
        return x.squeeze(squeezed) if squeezed else x

    return run


@operation("slice_by_size", data="x begin size", exact=True)
def _slice_by_size(call: Call) -> Kernel:
    """`size` -1 runs to the end; a negative `begin` counts from the end (MIL slice_by_size)."""

    def run(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
        for axis, (first, count) in enumerate(zip(begin.tolist(), size.tolist(), strict=True)):
            first = first + x.shape[axis] if first < 0 else first
            x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
        return x

    return run


@operation("crop", exact=True)
def _crop(call: Call) -> Kernel:
    (top, bottom), (left, right) = call.ints("crop_height"), call.ints("crop_width")
    return lambda x: x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operation("band_part")
def _band_part(call: Call) -> Kernel:
    lower, upper = call.integer("lower", -1), call.integer("upper", -1)

    def run(x: Tensor) -> Tensor:
        x = x if upper < 0 else torch.tril(x, upper)
        return x if lower < 0 else torch.triu(x, -lower)

    return run


@operation("sliding_windows", exact=True)
def _sliding_windows(call: Call) -> Kernel:
    axis, size, stride = call.axis("axis"), call.integer("size"), call.integer("stride", 1)
    return lambda x: x.unfold(axis, size, stride).movedim(-1, axis + 1)


# --- gathers -------------------------------------------------------------------------------------------------------


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices as int64, negative ones counted from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operation("gather", data="x indices", exact=True)
def _gather(call: Call) -> Kernel:
    axis, batch = call.axis("axis", 0), call.integer("batch_dims", 0)
    if batch:
        return lambda x, indices: _gather_batched(x, indices, axis, batch)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        chosen = x.index_select(axis, _wrapped(indices, x.shape[axis]).reshape(-1))
        return chosen.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])

    return run


def _gather_batched(x: Tensor, indices: Tensor, axis: int, batch: int) -> Tensor:
    """x (*batch, *before, S, *after), indices (*batch, *I) -> (*batch, *before, *I, *after)."""
    lead, before, after = x.shape[:batch], x.shape[batch:axis], x.shape[axis + 1 :]
    rows = x.reshape(math.prod(lead), math.prod(before), x.shape[axis], -1)  # (B, P, S, Q)
    flat = _wrapped(indices, x.shape[axis]).reshape(rows.shape[0], 1, -1, 1)  # (B, 1, N, 1)
    flat = flat.expand(-1, rows.shape[1], -1, rows.shape[3])
    return rows.gather(2, flat).reshape(lead + before + indices.shape[batch:] + after)


@operation("gather_along_axis", data="x indices", exact=True)
def _gather_along_axis(call: Call) -> Kernel:
    axis = call.axis("axis", 0)
    return lambda x, indices: torch.take_along_dim(x, _wrapped(indices, x.shape[axis]), axis)


@operation("gather_nd", data="x indices", exact=True)
def _gather_nd(call: Call) -> Kernel:
    """x (*batch, *D), indices (*batch, *I, K) -> (*batch, *I, *D[K:])."""
    batch = call.integer("batch_dims", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        grids = [
            torch.arange(size).reshape(-1, *[1] * (indices.dim() - 2 - axis))
            for axis, size in enumerate(indices.shape[:batch])
        ]
        points = [_wrapped(indices[..., k], x.shape[batch + k]) for k in range(depth)]
        return x[tuple(grids + points)]

    return run


@operation("one_hot", data="indices one_hot_vector_size on_value off_value")
def _one_hot(call: Call) -> Kernel:
    axis = call.integer("axis", -1)

    def run(indices: Tensor, size: Tensor, on: Tensor | None, off: Tensor | None) -> Tensor:
        on, off = torch.tensor(1) if on is None else on, torch.tensor(0) if off is None else off
        hit = indices.unsqueeze(axis if axis >= 0 else indices.dim() + 1 + axis)
        levels = [1] * hit.dim()
        levels[axis] = int(size)
        return torch.where(hit == torch.arange(int(size)).reshape(levels), on, off)

    return run


# --- scatters ------------------------------------------------------------------------------------------------------

COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.true_divide,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _put(x: Tensor, where: tuple[Any, ...], updates: Tensor, mode: str) -> Tensor:
    """A copy of `x` with `updates` combined into x[where]; with repeated places only add and sub accumulate."""
    x = x.clone()
    if mode in ("add", "sub"):
        return x.index_put_(where, updates if mode == "add" else -updates, accumulate=True)
    x[where] = COMBINE[mode](x[where], updates)
    return x


@operation("scatter", data="data indices updates")
def _scatter(call: Call) -> Kernel:
    """updates (*D[:axis], *I, *D[axis+1:]) go to data[..., indices, ...] on one axis."""
    axis, mode = call.axis("axis", 0, of="data"), call.value("mode", "add")

    def run(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        rows = data.movedim(axis, 0)
        updates = updates.reshape(data.shape[:axis] + (-1,) + data.shape[axis + 1 :]).movedim(axis, 0)
        return _put(rows, (_wrapped(indices.reshape(-1), rows.shape[0]),), updates, mode).movedim(0, axis)

    return run


@operation("scatter_along_axis", data="data indices updates")
def _scatter_along_axis(call: Call) -> Kernel:
    axis, mode = call.axis("axis", 0, of="data"), call.value("mode", "add")

    def run(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        grids = list(torch.meshgrid(*[torch.arange(size) for size in indices.shape], indexing="ij"))
        grids[axis] = _wrapped(indices, data.shape[axis])
        return _put(data, tuple(grids), updates, mode)

    return run


@operation("scatter_nd", data="data indices updates")
def _scatter_nd(call: Call) -> Kernel:
    """indices (*I, K), updates (*I, *D[K:]) go to data[indices]."""
    mode = call.value("mode", "add")

    def run(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        points = tuple(_wrapped(indices[..., k], data.shape[k]) for k in range(indices.shape[-1]))
        return _put(data, points, updates, mode)

    return run


@operation("slice_update", data="x update begin end", exact=True)
def _slice_update(call: Call) -> Kernel:
    """A copy of `x` whose slice [begin:end:stride] is `update` (iOS 18)."""
    window, squeezed = _window(call, call.rank())

    def run(x: Tensor, update: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        places = [torch.arange(size) for size in x.shape]
        for axis, *cut in window(begin.tolist(), end.tolist()):
            places[axis] = _strided(places[axis], 0, *cut)
        for axis in squeezed:
            update = update.unsqueeze(axis)
        x = x.clone()
        x[torch.meshgrid(*places, indexing="ij")] = update
        return x

    return run


# --- made from nothing ---------------------------------------------------------------------------------------------


@operation("fill", data="shape value")
def _fill(call: Call) -> Kernel:
    def run(shape: Tensor, value: Tensor | None) -> Tensor:
        sizes = tuple(shape.tolist())
        return torch.zeros(sizes) if value is None else value.reshape([1] * len(sizes)).expand(sizes)

    return run


@operation("fill_like", data="ref_tensor value")
def _fill_like(call: Call) -> Kernel:
    return lambda ref, value: torch.zeros(ref.shape) if value is None else value.reshape(()).expand(ref.shape)


@operation("range_1d", data="start end step")
def _range_1d(call: Call) -> Kernel:
    return lambda start, end, step: torch.arange(start.item(), end.item(), step.item())


# --- padding -------------------------------------------------------------------------------------------------------


@operation("pad", data="x pad")
def _pad(call: Call) -> Kernel:
    """Pads the last N axes; `reflect` leaves the edge out, `replicate` repeats it (MIL pad)."""
    mode = call.value("mode", "constant")
    fill = call.number("constant_val", 0.0) if mode == "constant" else 0.0

    def run(x: Tensor, pad: Tensor) -> Tensor:
        pairs = pad.reshape(-1, 2).tolist()
        if mode == "constant":
            return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=fill)
        for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
            if before or after:
                x = x.index_select(axis, _edge_index(x.shape[axis], before, after, mode))
        return x

    return run


def _edge_index(size: int, before: int, after: int, mode: str) -> Tensor:
    index = torch.arange(-before, size + after)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    return (size - 1) - ((size - 1) - index.abs()).abs()


# --- blocks of space and depth -------------------------------------------------------------------------------------


@operation("pixel_shuffle", exact=True)
def _pixel_shuffle(call: Call) -> Kernel:
    f = call.integer("upscale_factor")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c // (f * f), f, f, h, w).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c // (f * f), h * f, w * f)

    return run


@operation("pixel_unshuffle", exact=True)
def _pixel_unshuffle(call: Call) -> Kernel:
    f = call.integer("downscale_factor")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // f, f, w // f, f).permute(0, 1, 3, 5, 2, 4)
        return blocks.reshape(n, c * f * f, h // f, w // f)

    return run


@operation("depth_to_space", exact=True)
def _depth_to_space(call: Call) -> Kernel:
    """Channels are (b, b, C): block position outermost, as in TensorFlow."""
    b = call.integer("block_size")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)

    return run


@operation("space_to_depth", exact=True)
def _space_to_depth(call: Call) -> Kernel:
    b = call.integer("block_size")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)

    return run


@operation("space_to_batch", exact=True)
def _space_to_batch(call: Call) -> Kernel:
    (b, d), ((top, bottom), (left, right)) = call.ints("block_shape"), call.value("paddings").tolist()

    def run(x: Tensor) -> Tensor:
        x = F.pad(x, (left, right, top, bottom))
        n, c, h, w = x.shape
        return x.reshape(n, c, h // b, b, w // d, d).permute(3, 5, 0, 1, 2, 4).reshape(n * b * d, c, h // b, w // d)

    return run


@operation("batch_to_space", exact=True)
def _batch_to_space(call: Call) -> Kernel:
    (b, d), ((top, bottom), (left, right)) = call.ints("block_shape"), call.value("crops").tolist()

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(b, d, n // (b * d), c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n // (b * d), c, h * b, w * d)
        return x[..., top : h * b - bottom, left : w * d - right]

    return run


# --- resizing ------------------------------------------------------------------------------------------------------


def _grid(source: int, target: int, mode: str) -> Tensor:
    """Where each output element samples its axis, in input elements (MIL resize_bilinear, Notes)."""
    i = torch.arange(target, dtype=torch.float64)
    steps = max(target - 1, 1)
    if mode == "STRICT_ALIGN_CORNERS":
        grid = i * ((source - 1) / steps)
    elif mode == "ALIGN_CORNERS":
        grid = i * ((source - 1) / steps) if target > 1 else torch.full((1,), (source - 1) / 2, dtype=torch.float64)
    elif mode == "DEFAULT":
        grid = i * (source / target)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, source - 1) / target
        grid = 0.5 * delta + i * delta
    else:  # UNALIGN_CORNERS: half-pixel centres
        grid = (i + 0.5) * (source / target) - 0.5
    return grid.clamp(0, source - 1)


def _interpolate(x: Tensor, axis: int, grid: Tensor) -> Tensor:
    low = grid.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (grid - low).float().reshape([-1 if a == axis else 1 for a in range(x.dim())])
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


def _nearest_index(source: int, target: int, mode: str) -> Tensor:
    """DEFAULT takes the element at or before the sample; the other modes round it, halves up."""
    grid = _grid(source, target, mode)
    return (grid + (1e-9 if mode == "DEFAULT" else 0.5)).floor().long().clamp(max=source - 1)


def _resizer(sizes: tuple[tuple[int, int], ...], mode: str, nearest: bool) -> Kernel:
    """Resizes the last axes; `sizes` holds (source, target) for each."""
    first = -len(sizes)
    make = _nearest_index if nearest else _grid
    grids = [make(source, target, mode) for source, target in sizes]

    def run(x: Tensor) -> Tensor:
        for axis, (grid, (source, target)) in enumerate(zip(grids, sizes, strict=True), start=x.dim() + first):
            if nearest:
                x = x.index_select(axis, grid)
            elif source != target or mode == "OFFSET_CORNERS":
                x = _interpolate(x, axis, grid)
        return x

    return run


def _last_two(call: Call) -> tuple[tuple[int, int], ...]:
    return tuple(zip(call.shape("x")[-2:], call.outputs[0].sizes()[-2:], strict=True))


@operation("upsample_nearest_neighbor", "resize_nearest_neighbor", exact=True)
def _resize_nearest(call: Call) -> Kernel:
    return _resizer(_last_two(call), "DEFAULT", nearest=True)


@operation("upsample_bilinear")
def _upsample_bilinear(call: Call) -> Kernel:
    align = call.flag("align_corners", True)
    half_pixel = call.flag("half_pixel_centers", not align)
    mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    return _resizer(_last_two(call), mode, nearest=False)


@operation("resize_bilinear")
def _resize_bilinear(call: Call) -> Kernel:
    return _resizer(_last_two(call), call.value("sampling_mode", "DEFAULT"), nearest=False)


@operation("resize")
def _resize(call: Call) -> Kernel:
    count = call.integer("resized_dims")
    sizes = tuple(zip(call.shape("x")[-count:], call.outputs[0].sizes()[-count:], strict=True))
    nearest = call.value("interpolation_mode", "LINEAR") == "NEAREST_NEIGHBOR"
    return _resizer(sizes, call.value("sampling_mode", "DEFAULT"), nearest)
