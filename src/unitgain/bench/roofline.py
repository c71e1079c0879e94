"""What a computation has to do, and how long the machine needs for that at the least (Williams et al. 2009).

The operations are those of convolutions and matrix products, attention included, one multiply-add counting as one. The
bytes are what these read and write, each of their inputs, weights and results once: everything pointwise is taken to be
fused into them. The larger of the two times is a floor; for what runs layer after layer so is the sum of the larger
times of each layer. What stays in caches and what multiplies less (Winograd's convolutions) may go below.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unitgain.analysis.cost import denoiser_inputs
from unitgain.analysis.flops import flops, operation
from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser

PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm")
ADAM_STATE = 2  # tensors of the size of the parameters


@dataclass(frozen=True)
class Counts:
    """What one call computes and moves.

    Attributes:
        operations: of every kind, as the papers count them; the normalization of weights is among them.
        multiply_adds: of convolutions and matrix products alone.
        bytes: read and written by these.
        bytes_unfused: read and written by every operation, if each runs on its own.
        layers: multiply-adds and bytes of each convolution and product.
    """

    operations: int
    multiply_adds: int
    bytes: int
    bytes_unfused: int
    layers: tuple[tuple[int, int], ...]

    def times(self, factor: int) -> "Counts":
        """Those of so many calls."""
        layers = tuple((flops * factor, size * factor) for flops, size in self.layers)
        moved, unfused = self.bytes * factor, self.bytes_unfused * factor
        return Counts(self.operations * factor, self.multiply_adds * factor, moved, unfused, layers)

    def and_then(self, other: "Counts") -> "Counts":
        """Those of this call and another one."""
        moved, unfused = self.bytes + other.bytes, self.bytes_unfused + other.bytes_unfused
        operations, products = self.operations + other.operations, self.multiply_adds + other.multiply_adds
        return Counts(operations, products, moved, unfused, self.layers + other.layers)

    def plus(self, size: int) -> "Counts":
        """With `size` more bytes to move, which nothing is multiplied with."""
        return self.and_then(Counts(0, 0, size, size, ((0, size),)))


class Counter(TorchDispatchMode):
    """Counts what tensor operations compute and move while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes_unfused = 0
        self.layers: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if func.is_view or not written:
            return out
        count, moved = flops(func, args, out), sum(map(_size, read)) + sum(map(_size, written))
        name = operation(func)
        self.operations += count
        self.bytes_unfused += moved
        if name in PRODUCTS or "scaled_dot_product" in name:
            self.layers.append((count, moved))
        return out

    def counts(self) -> Counts:
        """What was counted."""
        products, moved = (sum(column) for column in zip(*self.layers, strict=True)) if self.layers else (0, 0)
        return Counts(self.operations, products, moved, self.bytes_unfused, tuple(self.layers))


@functools.cache
def forward_counts(spec: NetworkSpec, batch: int, dtype: torch.dtype) -> Counts:
    """One evaluation of a denoiser of `batch` images whose network computes in `dtype`."""
    with torch.device("meta"):
        denoiser = Denoiser(spec).eval()
    denoiser.dtype = dtype
    counter = Counter()
    with torch.no_grad(), counter:
        denoiser(*denoiser_inputs(spec, batch))
    return counter.counts()


def step_counts(
    spec: NetworkSpec, batch: int, microbatch: int, dtype: torch.dtype, parameters: int, averages: int
) -> Counts:
    """One training step: each product is computed three times, forward, for its input and for its weight.

    So are its bytes: of input, weight and result, each is read or written in two of the three, and its gradient too.
    Weights are then read and written once with all that belongs to them: gradient, Adam's two moments, averages.

    Args:
        spec: the network.
        batch: images of the step.
        microbatch: images of a forward pass.
        dtype: in which the network computes.
        parameters: that are trained, in float32.
        averages: that are tracked.
    """
    passes = forward_counts(spec, microbatch, dtype).times(3 * (batch // microbatch))
    read, written = 2 + ADAM_STATE + averages, 1 + ADAM_STATE + averages
    return passes.plus(4 * parameters * (read + written))


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """What a call costs, what the machine can do, and what came of it.

    Attributes:
        multiply_adds: of a call, in convolutions and matrix products.
        operations: of a call, of every kind, as the papers count them.
        bytes: of a call, with everything pointwise fused.
        bytes_unfused: of a call, each operation on its own.
        peak: multiply-adds per second of square matrix products in this precision, measured.
        bandwidth: bytes per second of copies in memory, read and written, measured.
        floor: seconds that a call takes at least: the larger of products at their peak and bytes at theirs.
        floor_by_layer: the same for each layer, added up.
        seconds: that it took.
        achieved: multiply-adds per second.
        share: of `peak`.
    """

    multiply_adds: int
    operations: int
    bytes: int
    bytes_unfused: int
    peak: float
    bandwidth: float
    floor: float
    floor_by_layer: float
    seconds: float
    achieved: float
    share: float


def roofline(counts: Counts, peak: float, bandwidth: float, seconds: float) -> Roofline:
    """The roofline of a call that took `seconds`."""
    achieved = counts.multiply_adds / seconds
    return Roofline(
        multiply_adds=counts.multiply_adds,
        operations=counts.operations,
        bytes=counts.bytes,
        bytes_unfused=counts.bytes_unfused,
        peak=peak,
        bandwidth=bandwidth,
        floor=max(counts.multiply_adds / peak, counts.bytes / bandwidth),
        floor_by_layer=sum(max(flops / peak, size / bandwidth) for flops, size in counts.layers),
        seconds=seconds,
        achieved=achieved,
        share=achieved / peak,
    )


@functools.cache
def memory_bandwidth(device: torch.device | str, seconds: float = 0.3, size: int | None = None) -> float:
    """Bytes per second that a copy within memory reads and writes, the best seen; measured once in a process.

    Args:
        device: where.
        seconds: to measure for, at least two copies.
        size: bytes of what is copied, more than caches hold; by default 256 MiB, 1 GiB on a GPU.
    """
    device = torch.device(device)
    size = size or (2**30 if device.type == "cuda" else 2**28)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    wait: Callable[[], None] = torch.get_device_module(device).synchronize
    best, end, turns = 0.0, time.perf_counter() + seconds, 0
    while turns < 2 or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        best, turns = max(best, 2 * size / (time.perf_counter() - start)), turns + 1
    return best


def _size(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())
