"""How fast this machine multiplies matrices: what the speed of a network is measured against."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

CPU_SIZES = (256, 512, 1024, 2048)
GPU_SIZES = (1024, 2048, 4096)  # three matrices of the largest take 100 MB in bfloat16
AT_ONCE = 8  # products that a GPU is given before it is waited for: waiting takes as long as a small one

_best: dict[tuple[str, torch.dtype, int], float] = {}  # by device, precision and threads


def matrix_peak(device: torch.device | str, dtype: torch.dtype, seconds: float = 0.2, *, again: bool = False) -> float:
    """Multiply-adds per second of square matrix products, the best that this process has seen.

    It is measured at the first call, and where it is asked for again, since other work may have slowed that one.

    As the process computes now: with its threads, and with the settings of torch that a product of float32 obeys. It
    draws no number from the global generators. A first product, which sets libraries up, is not timed.

    Args:
        device: where.
        dtype: of the matrices, floating point.
        seconds: to measure for. Slow machines stay with smaller matrices; the last product may end later.
        again: measure once more, and keep what is better.

    Raises:
        ValueError: if `seconds` is not positive or `dtype` is no floating point.
    """
    if not seconds > 0:
        raise ValueError(f"seconds = {seconds}: must be positive")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype = {dtype}: must be a floating-point type, such as torch.bfloat16")
    where = torch.device(device)
    key = str(where), dtype, torch.get_num_threads()
    if again or key not in _best:
        _best[key] = max(_best.get(key, 0.0), _measure(where, dtype, seconds))
    return _best[key]


def _measure(where: torch.device, dtype: torch.dtype, seconds: float) -> float:
    sizes = CPU_SIZES if where.type == "cpu" else GPU_SIZES
    product_seconds(_matrix(sizes[0], where, dtype))
    end = time.perf_counter() + seconds
    best = 0.0
    for size in sizes:
        matrix = _matrix(size, where, dtype)
        took = product_seconds(matrix)
        again = min(took, product_seconds(matrix))  # the first one of a size may set something up
        best = max(best, size**3 / again)
        if time.perf_counter() + 2 * 8 * again > end:  # two of the next size
            break
    while time.perf_counter() < end:
        best = max(best, len(matrix) ** 3 / product_seconds(matrix))
    return best


@torch.no_grad()
def product_seconds(matrix: Tensor) -> float:
    """Seconds that the product of a square matrix with itself takes."""
    out = torch.empty_like(matrix)
    times = 1 if matrix.device.type == "cpu" else AT_ONCE
    return seconds_of(lambda: torch.mm(matrix, matrix, out=out), matrix.device, times)


def seconds_of(run: Callable[[], object], device: torch.device | str = "cpu", calls: int = 1) -> float:
    """Seconds that a call takes, the mean of `calls`; the device has done what it was given before and after."""
    wait = torch.get_device_module(device).synchronize
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return (time.perf_counter() - start) / calls


def _matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(size, size, device=device, generator=generator).to(dtype)
