"""Memory that something takes: anonymous memory of this process on a CPU, what torch has allocated on a GPU."""

import gc
import threading
from pathlib import Path

import torch

from unitgain.native.memory import forget, give_back

STATUS = Path("/proc/self/status")
BETWEEN = 0.005  # seconds between looks


class PeakMemory:
    """Highest memory in a block, in bytes above what there was at its start.

    On a CPU it is looked at every 5 ms (Linux; elsewhere there is nothing to see and the figures are 0), on a GPU torch
    keeps the record. Memory that was freed before the block began is given back to the system first, and that which
    prepared networks keep for their next images.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.start = self.peak = self.end = 0

    def __enter__(self) -> "PeakMemory":
        forget()
        gc.collect()
        give_back()
        self.start = self.peak = in_use(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
            self.peak = max(self.peak, in_use(self.device))
        gc.collect()
        give_back()
        self.end = in_use(self.device)

    @property
    def gained(self) -> int:
        """Bytes at the peak above the start."""
        return max(self.peak - self.start, 0)

    @property
    def kept(self) -> int:
        """Bytes that were still there after the block above the start."""
        return max(self.end - self.start, 0)

    def _watch(self) -> None:
        while not self._stop.wait(BETWEEN):
            self.peak = max(self.peak, in_use(self.device))


def in_use(device: torch.device | str = "cpu") -> int:
    """Bytes in use now: anonymous memory of this process, or what torch has allocated on the GPU."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)
