"""Grids and tile sizes: what turns tensors into launches of the kernels in `device/`.

Sums over pixels are made in two stages, one partial sum per program and then the sum of those, in an order that depends
on the shapes alone: the same inputs give the same bits. For that reason nothing that sums is tuned by time, only the
forward pass, whose outputs do not depend on the tile.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

STRIP = 8  # pixels across, in a strip
DEPTH = 16  # rows that a program walks down where that is not tuned


def depthwise3(
    x: Tensor,
    taps: Tensor,
    scale: Tensor | None,
    gain: float,
    silu: bool,
    after: bool = False,
) -> Tensor:
    """Depthwise 3x3 convolution of `gain silu(scale x)`, or of `scale gain silu(x)` if `after`.

    `taps` are `[9, C]`, float32; `scale` is `[N, C]`, float32, each row dense.
    """
    y = empty_like(x)
    samples, channels, height, width = x.shape

    def grid(tile: dict[str, Any]) -> tuple[int, int]:
        strips = _cdiv(width, tile["BLOCK_W"]) * _cdiv(height, tile["ROWS"])
        return samples * strips, _cdiv(channels, tile["BLOCK_C"])

    kernel, tile = _forward3(height, width, channels)
    how = {"MODULATE": scale is not None, "SILU": silu, "AFTER": after, **tile}
    _start(kernel, grid, x, taps, *_factors(scale, x), y, gain, height, width, channels, **how)
    return y


def depthwise3_backward(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, `taps` and `scale` (empty without one)."""
    from unitgain.kernels.device import depthwise

    grad_x = empty_like(x)
    samples, channels, height, width = x.shape
    tile = _strip(height, width, channels)
    strips = _cdiv(width, tile["BLOCK_W"]) * _cdiv(height, tile["ROWS"])
    weight_part = _partial(x, True, samples * strips, 9, channels)
    scale_part = _partial(x, scale is not None, samples, strips, channels)
    grid = (samples * strips, _cdiv(channels, tile["BLOCK_C"]))
    tensors = (grad, x, taps, *_factors(scale, x), grad_x, weight_part, scale_part)
    how = {"MODULATE": scale is not None, "SILU": silu, "AFTER": after, **tile}
    _start(depthwise.backward3, grid, *tensors, gain, height, width, channels, **how)
    return grad_x, weight_part.sum(0), scale_part if scale is None else scale_part.sum(1)


def _start(kernel: Any, grid: Any, *arguments: Any, **constants: int) -> None:
    """Start a kernel on the device of its first argument, a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


def empty_like(x: Tensor) -> Tensor:
    """Memory for an image of the same kind, channels-last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _factors(scale: Tensor | None, x: Tensor) -> tuple[Tensor, int]:
    """The modulation and the distance of its rows; anything where there is none, as nothing reads it."""
    return (x, 0) if scale is None else (scale, scale.stride(0))


def _partial(x: Tensor, wanted: bool, *size: int) -> Tensor:
    """Room for the sums of programs; none where they are not wanted."""
    return x.new_empty(size if wanted else (0,), dtype=torch.float32)


def _forward3(height: int, width: int, channels: int) -> tuple[Any, dict[str, int]]:
    """The kernel, and its tile unless it is tuned."""
    from unitgain.kernels.device.depthwise import forward3
    from unitgain.kernels.ready import interpreted

    if not interpreted():
        return tuned3(forward3), {}
    return forward3, _strip(height, width, channels)


def _strip(height: int, width: int, channels: int) -> dict[str, int]:
    """The tile where it is not tuned."""
    return {
        "ROWS": min(DEPTH, height),
        "BLOCK_W": min(STRIP, _power(width)),
        "BLOCK_C": min(64, _power(channels)),
    }


@cache
def tuned3(kernel: Any) -> Any:
    """The kernel with the fastest of a few tiles for each shape; every tile gives the same output."""
    import triton  # pyright: ignore[reportMissingImports]

    return triton.autotune(
        configs=[triton.Config(tile, num_warps=warps) for tile, warps in TILES_3],
        key=["height", "width", "channels", "MODULATE", "SILU", "AFTER"],
    )(kernel)


TILES_3 = (
    ({"ROWS": 4, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 8, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 16, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 16, "BLOCK_W": 16, "BLOCK_C": 32}, 4),
)
"""Tiles to choose from, with the number of warps."""


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power(n: int) -> int:
    """The smallest power of two that is not below `n`."""
    return 1 << (n - 1).bit_length()
