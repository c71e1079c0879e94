"""How fast a run is, what share of the machine that is, and what it takes: operations, waiting for data, memory."""

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from unitgain.analysis.cost import network_cost
from unitgain.analysis.counts import PASSES
from unitgain.analysis.peak import matrix_peak
from unitgain.checkpoint.snapshot import DTYPES
from unitgain.data.loader import Loader
from unitgain.parallel import World
from unitgain.recipe import Recipe

MACHINE = (
    "seconds",
    "evaluation_seconds",
    "images_per_second",
    "flops_per_second",
    "peak_share",
    "data_wait_share",
    "memory_bytes",
)
"""What a line of `stats.jsonl` says of the machine rather than of the numbers of the run."""

SAME = 1.05  # times a peak: what it is at most when it is measured again, if no other work slowed it


@dataclass(kw_only=True)
class Speed:
    """Counts a run's work against what its processes could do.

    Args:
        flops: multiply-adds that training on one image takes.
        precision: in which the network computes.
        loader: of the data; it is asked how long it was waited for.
        world: the processes; all must make this together, and call its methods.

    Attributes:
        peak: multiply-adds per second of matrix products, the best seen of all processes together (0.2 seconds). Where
            training is faster than that, as the machine did other work, it is measured again.
    """

    flops: float
    precision: torch.dtype
    loader: Loader
    world: World
    peak: float = field(init=False)
    _waited: float = 0.0
    _idle: bool = False  # the last two times the peak was about the same

    def __post_init__(self) -> None:
        self.world.barrier()
        self.peak = self._products(again=False)

    @classmethod
    def measure(cls, recipe: Recipe, loader: Loader, world: World, recompute: bool = False) -> "Speed":
        """Count the operations of a run's network.

        Args:
            recipe: of the run.
            loader: of the data.
            world: the processes.
            recompute: a step runs the forward pass twice.
        """
        return cls(
            flops=(PASSES + recompute) * network_cost(recipe.network).flops,
            precision=DTYPES[recipe.precision],
            loader=loader,
            world=world,
        )

    def _products(self, again: bool) -> float:
        peak = torch.tensor([matrix_peak(self.world.device, self.precision, again=again)], dtype=torch.float64)
        self.world.sum([peak])
        return peak.item()

    def row(self, images: int, seconds: float) -> dict[str, float]:
        """What was reached since the last call.

        Args:
            images: trained on.
            seconds: that it took; the first process's count.

        Returns:
            `flops_per_second` and `peak_share` over all processes; of the process with the most: `data_wait_share`, the
            part of the time in which it waited for data, and `memory_bytes`, the most that it has ever had.
        """
        waited, self._waited = self.loader.waited - self._waited, self.loader.waited
        seconds = max(seconds, 1e-9)
        ours = seconds, min(waited / seconds, 1.0), peak_memory(self.world.device)
        times, shares, memory = zip(*self.world.gather(ours), strict=True)
        rate = images * self.flops / times[0]
        if rate > self.peak and not self._idle:
            before, self.peak = self.peak, self._products(again=True)
            self._idle = self.peak < SAME * before
        return {
            "flops_per_second": rate,
            "peak_share": rate / self.peak,
            "data_wait_share": max(shares),
            "memory_bytes": max(memory),
        }


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: allocated by torch on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # getrusage would also count what was there before this program began
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
