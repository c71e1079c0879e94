"""How much memory is free for this process: what the machine, its containers and limits leave."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

# Bytes of address space that threads and libraries still to come reserve, most of it without using it. Builds of torch
# for GPUs start eight threads with the first gradients, also without a GPU, and each has an arena of the allocator.
RESERVED = 2**30 if torch.version.cuda or torch.version.hip else 2**29
UNLIMITED = 2**60  # what control groups say for no limit is larger


@dataclass(frozen=True)
class Room:
    """Memory that can still be taken.

    Attributes:
        bytes: how much.
        source: what limits it, for messages.
    """

    bytes: int
    source: str


def free_memory(device: torch.device | str, root: Path = Path("/")) -> Room:
    """What is free for tensors on a device: the least of what the limits leave.

    On a CPU these are the memory that the system calls available, those of the control group and the ones above it
    (version 1 or 2; files that are cached and could go are not counted as used), and the address space (`ulimit -v`).
    Where nothing is known, it is unlimited.

    Args:
        device: "cpu" or a GPU.
        root: of the file system that /proc and /sys are read from.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return Room(torch.cuda.mem_get_info(device)[0], "free on the GPU")
    rooms = [Room(2**63, "unlimited"), *_available(root), *_groups(root), *_address_space(root)]
    return min(rooms, key=lambda room: room.bytes)


def _available(root: Path) -> Iterator[Room]:
    if (available := _fields(root / "proc/meminfo").get("MemAvailable")) is not None:
        yield Room(1024 * available, "available")


def _groups(root: Path) -> Iterator[Room]:
    """Of the control group of this process, and of those that it is in."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):  # in a container the path may be one of the host: then only the top is
            folder = root.joinpath(mount, *parts[:depth])
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None and most < UNLIMITED:
                spare = _fields(folder / "memory.stat").get(cache, 0)
                yield Room(max(most - used + spare, 0), "left by the limit of the control group")


def _address_space(root: Path) -> Iterator[Room]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = next(iter(_lines(root / "proc/self/statm")), "0").split()[0]
    if limit != resource.RLIM_INFINITY:
        used = int(pages) * os.sysconf("SC_PAGE_SIZE")
        yield Room(max(limit - used - RESERVED, 0), "left by the limit of the address space (ulimit -v)")


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name, one on each line."""
    rows = [line.replace(":", " ").split() for line in _lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _number(path: Path) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
