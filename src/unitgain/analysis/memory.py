"""Bytes of tensors, without any: of what is trained, by its shapes, and at the peak of a computation.

A computation runs on fake tensors, which have shapes, types and a device but no numbers; every storage is counted from
its first appearance until it is freed. What kernels take and give back within one operation is not seen.

Weights, gradients, Adam's moments and averages are float32. Under DDP each process holds all of them. FSDP2 cuts rows
into equal shares, rounded up; scalars stay whole. It gathers blocks as they run, and what is outside the blocks (the
embedding, the output layer, u(sigma)) once per pass.
"""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORD = 4  # bytes of float32


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes of what is trained: parameters of each block, and those outside all blocks."""

    blocks: tuple[tuple[torch.Size, ...], ...]
    rest: tuple[torch.Size, ...]

    @property
    def all(self) -> list[torch.Size]:
        """Of all parameters."""
        return [shape for part in (*self.blocks, self.rest) for shape in part]


def shapes_of(module: nn.Module, blocks: Sequence[nn.Module]) -> Shapes:
    """Shapes of a module, on any device (meta for free), that is trained in these blocks."""
    inner = {parameter for block in blocks for parameter in block.parameters()}
    return Shapes(
        blocks=tuple(tuple(parameter.shape for parameter in block.parameters()) for block in blocks),
        rest=tuple(parameter.shape for parameter in module.parameters() if parameter not in inner),
    )


def copy_bytes(shapes: Shapes, processes: int, shard: bool) -> int:
    """Memory of one number for each parameter (a weight, a gradient, ...), on the process that has most of them."""
    share = processes if shard else 1
    return WORD * sum(math.ceil(shape[0] / share) * math.prod(shape[1:]) if shape else 1 for shape in shapes.all)


def gathered_bytes(shapes: Shapes, shard: bool) -> int:
    """Memory that FSDP2 takes in a pass beside that: weights outside the blocks, and twice the largest block with its
    gradient, as the next one is gathered while one computes; none under DDP.
    """
    if not shard:
        return 0
    largest = max(sum(math.prod(shape) for shape in block) for block in shapes.blocks)
    return WORD * (2 * sum(math.prod(shape) for shape in shapes.rest) + 2 * 2 * largest)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, from the moment this is entered.

    Attributes:
        now: bytes that live.
        peak: the most that lived at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        given = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not any(leaf.untyped_storage() is one for one in given):
                self._take(leaf.untyped_storage())
        return out

    def _take(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def peak_bytes(make: Callable[[], Callable[[], object]]) -> int:
    """The most bytes that live at a time in a computation, beside what was there before it.

    Args:
        make: called on fake tensors; makes what is there before, and returns the computation.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    with FakeTensorMode():
        work = make()
        with LiveBytes() as live:
            work()
    return live.peak
