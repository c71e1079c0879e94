"""Grids and tile sizes: what turns tensors into launches of the kernels in `device/`.

Sums over pixels are made in two stages, one partial sum per program and then the sum of those, in an order that depends
on the shapes alone: the same inputs give the same bits. For that reason nothing that sums is tuned by time, only the
forward pass of the 3x3 convolution, whose outputs do not depend on the tile.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

TILE = 2048  # elements that a program of a pointwise kernel holds
STRIP = 8  # pixels across, in a strip of the 3x3 convolution
DEPTH = 16  # rows that a program walks down where that is not tuned
MAX_CHANNELS = 8192  # that pixel norm holds at once


def activate(x: Tensor, scale: Tensor | None, gain: float, silu: bool) -> Tensor:
    """Forward pass of `operators.activate`."""
    from unitgain.kernels.device import pointwise

    y = empty_like(x)
    samples, pixels, block_p, block_c = _tiles(x, scale is not None)
    grid = (samples * _cdiv(pixels, block_p), _cdiv(x.shape[1], block_c))
    modulate = scale is not None
    _start(
        pointwise.activate_forward,
        grid,
        x,
        scale if modulate else x,
        y,
        gain,
        pixels,
        x.shape[1],
        MODULATE=modulate,
        SILU=silu,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return y


def activate_backward(grad: Tensor, x: Tensor, scale: Tensor | None, gain: float, silu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `scale` (empty without one)."""
    from unitgain.kernels.device import pointwise

    grad_x = empty_like(x)
    samples, pixels, block_p, block_c = _tiles(x, scale is not None)
    chunks = _cdiv(pixels, block_p)
    modulate = scale is not None
    part = x.new_empty((samples, chunks, x.shape[1]) if modulate else (0,), dtype=torch.float32)
    _start(
        pointwise.activate_backward,
        (samples * chunks, _cdiv(x.shape[1], block_c)),
        grad,
        x,
        scale if modulate else x,
        grad_x,
        part,
        gain,
        pixels,
        x.shape[1],
        MODULATE=modulate,
        SILU=silu,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return grad_x, part.sum(1) if modulate else part


def depthwise3(x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool) -> Tensor:
    """Forward pass of `operators.depthwise` for 3x3."""
    y = empty_like(x)
    samples, channels, height, width = x.shape
    modulate = scale is not None

    def grid(tile: dict[str, Any]) -> tuple[int, int]:
        strips = _cdiv(width, tile["BLOCK_W"]) * _cdiv(height, tile["ROWS"])
        return samples * strips, _cdiv(channels, tile["BLOCK_C"])

    kernel, tile = _forward3(height, width, channels)
    _start(
        kernel,
        grid,
        x,
        taps,
        scale if modulate else x,
        y,
        gain,
        height,
        width,
        channels,
        MODULATE=modulate,
        SILU=silu,
        **tile,
    )
    return y


def depthwise3_backward(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, `taps` and `scale` (empty without one)."""
    from unitgain.kernels.device import depthwise

    grad_x = empty_like(x)
    samples, channels, height, width = x.shape
    modulate = scale is not None
    rows, block_w, block_c = min(DEPTH, height), min(STRIP, _power(width)), min(64, _power(channels))
    strips = _cdiv(width, block_w) * _cdiv(height, rows)
    weight_part = x.new_empty((samples * strips, 9, channels), dtype=torch.float32)
    scale_part = x.new_empty((samples, strips, channels) if modulate else (0,), dtype=torch.float32)
    _start(
        depthwise.backward3,
        (samples * strips, _cdiv(channels, block_c)),
        grad,
        x,
        taps,
        scale if modulate else x,
        grad_x,
        weight_part,
        scale_part,
        gain,
        height,
        width,
        channels,
        MODULATE=modulate,
        SILU=silu,
        ROWS=rows,
        BLOCK_W=block_w,
        BLOCK_C=block_c,
    )
    return grad_x, weight_part.sum(0), scale_part.sum(1) if modulate else scale_part


def depthwise(x: Tensor, taps: Tensor, k: int) -> Tensor:
    """Forward pass of `operators.depthwise` for any odd kernel, without activation."""
    from unitgain.kernels.device import depthwise

    y = empty_like(x)
    samples, channels, height, width = x.shape
    block_p, block_c = _block(height * width, channels)
    grid = (samples * _cdiv(height * width, block_p), _cdiv(channels, block_c))
    _start(depthwise.forward, grid, x, taps, y, height, width, channels, K=k, BLOCK_P=block_p, BLOCK_C=block_c)
    return y


def depthwise_backward(grad: Tensor, x: Tensor, taps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `taps`."""
    from unitgain.kernels.device import depthwise

    grad_x = empty_like(x)
    samples, channels, height, width = x.shape
    block_p, block_c = _block(height * width, channels)
    programs = samples * _cdiv(height * width, block_p)
    part = x.new_empty((programs, k * k, channels), dtype=torch.float32)
    grid = (programs, _cdiv(channels, block_c))
    _start(
        depthwise.backward,
        grid,
        grad,
        x,
        taps,
        grad_x,
        part,
        height,
        width,
        channels,
        K=k,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return grad_x, part.sum(0)


def pixel_norm(x: Tensor, eps: float) -> Tensor:
    """Forward pass of `operators.pixel_norm`."""
    from unitgain.kernels.device import norm

    y = empty_like(x)
    pixels, block_p, block_c = _rows(x)
    _start(
        norm.norm_forward, (_cdiv(pixels, block_p),), x, y, eps, pixels, x.shape[1], BLOCK_P=block_p, BLOCK_C=block_c
    )
    return y


def pixel_norm_backward(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    """Gradient of `x`."""
    from unitgain.kernels.device import norm

    grad_x = empty_like(x)
    pixels, block_p, block_c = _rows(x)
    _start(
        norm.norm_backward,
        (_cdiv(pixels, block_p),),
        grad,
        x,
        grad_x,
        eps,
        pixels,
        x.shape[1],
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return grad_x


def weighted_sum(a: Tensor, b: Tensor, of_a: float, of_b: float, limit: float | None) -> Tensor:
    """Forward pass of `operators.weighted_sum`."""
    from unitgain.kernels.device import pointwise

    y, block = empty_like(a), min(TILE, _power(a.numel()))
    _start(
        pointwise.sum_forward,
        (_cdiv(a.numel(), block),),
        a,
        b,
        y,
        of_a,
        of_b,
        limit or 0.0,
        a.numel(),
        CLAMP=limit is not None,
        BLOCK=block,
    )
    return y


def weighted_sum_backward(
    grad: Tensor, y: Tensor, of_a: float, of_b: float, limit: float | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `a` and `b` from the output `y`, which is not looked at without a limit."""
    from unitgain.kernels.device import pointwise

    grad_a, grad_b, block = empty_like(grad), empty_like(grad), min(TILE, _power(grad.numel()))
    _start(
        pointwise.sum_backward,
        (_cdiv(grad.numel(), block),),
        grad,
        y,
        grad_a,
        grad_b,
        of_a,
        of_b,
        limit or 0.0,
        grad.numel(),
        CLAMP=limit is not None,
        BLOCK=block,
    )
    return grad_a, grad_b


def _start(kernel: Any, grid: Any, *arguments: Any, **constants: int) -> None:
    """Start a kernel on the device of its first argument, a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


def empty_like(x: Tensor) -> Tensor:
    """Memory for an image of the same kind, channels-last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _forward3(height: int, width: int, channels: int) -> tuple[Any, dict[str, int]]:
    """The kernel, and its tile unless it is tuned."""
    from unitgain.kernels.device.depthwise import forward3
    from unitgain.kernels.ready import interpreted

    if not interpreted():
        return tuned3(forward3), {}
    return forward3, {
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
        key=["height", "width", "channels", "MODULATE", "SILU"],
    )(kernel)


TILES_3 = (
    ({"ROWS": 4, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 8, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 16, "BLOCK_W": 8, "BLOCK_C": 64}, 4),
    ({"ROWS": 16, "BLOCK_W": 16, "BLOCK_C": 32}, 4),
)
"""Tiles to choose from, with the number of warps."""


def _tiles(x: Tensor, per_sample: bool) -> tuple[int, int, int, int]:
    """Samples, pixels of each, and the tile; all pixels are one sample's where nothing depends on the sample."""
    samples, channels, height, width = x.shape
    pixels = height * width
    if not per_sample:
        samples, pixels = 1, samples * pixels
    return samples, pixels, *_block(pixels, channels)


def _block(pixels: int, channels: int) -> tuple[int, int]:
    block_c = min(64, _power(channels))
    return min(TILE // block_c, _power(pixels)), block_c


def _rows(x: Tensor) -> tuple[int, int, int]:
    samples, channels, height, width = x.shape
    pixels, block_c = samples * height * width, _power(channels)
    return pixels, min(max(1, TILE // block_c), _power(pixels)), block_c


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power(n: int) -> int:
    """The smallest power of two that is not below `n`."""
    return 1 << (n - 1).bit_length()
