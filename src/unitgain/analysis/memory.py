"""How many bytes of tensors live at the peak of a computation, found without computing.

The computation runs on fake tensors, which have shapes, types and a device but no numbers; every storage is counted
from its first appearance until it is freed. What kernels take and give back within one operation is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
