"""Processes: the only file that imports torch.distributed.

A program that uses `World` runs unchanged on one process and under torchrun. On one process nothing is initialized and
every operation is the identity.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that work together, and which of them this is.

    Args:
        rank: of this process, 0 to size - 1.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes, prints and draws progress bars."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up over all processes, in place, on `device`."""
        if self.size > 1:
            for tensor in tensors:
                there = tensor.to(self.device)
                dist.all_reduce(there)
                if there is not tensor:
                    tensor.copy_(there)

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of ranks, on every process; any picklable object."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """The value of rank 0 on every process; any picklable object."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: every `size`-th one from `rank` on; sizes differ by at most one."""
        return items[self.rank :: self.size]


@contextmanager
def processes(device: torch.device | str = "cpu", timeout: float = 1800.0) -> Iterator[World]:
    """The world that torchrun describes in the environment, or a single process.

    Args:
        device: kind of device; with several processes on GPUs each takes the one of its local rank.
        timeout: seconds that a process waits for the others before it fails.

    Raises:
        ValueError: if there are more processes than GPUs on a machine.
    """
    device = torch.device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        yield World(rank, size, device)
        return
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(f"process {local} of this machine has no GPU: {found} found; start one process per GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
