"""How fast a run is, what share of the machine that is, and what it takes: operations, waiting for data, memory."""

import resource
import sys
from dataclasses import dataclass
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


@dataclass(kw_only=True)
class Speed:
    """Counts a run's work against what its processes could do.

    Args:
        flops: multiply-adds that training on one image takes.
        peak: multiply-adds per second of matrix products, of all processes together.
        loader: of the data; it is asked how long it was waited for.
        world: the processes.
    """

    flops: float
    peak: float
    loader: Loader
    world: World
    _waited: float = 0.0

    @classmethod
    def measure(cls, recipe: Recipe, loader: Loader, world: World, recompute: bool = False) -> "Speed":
        """Count the network's operations and measure the peak, on all processes at once (0.2 seconds).

        Args:
            recipe: of the run.
            loader: of the data.
            world: the processes; all must call this together.
            recompute: a step runs the forward pass twice.
        """
        world.barrier()
        peak = torch.tensor([matrix_peak(world.device, DTYPES[recipe.precision])], dtype=torch.float64)
        world.sum([peak])
        return cls(
            flops=(PASSES + recompute) * network_cost(recipe.network).flops,
            peak=peak.item(),
            loader=loader,
            world=world,
        )

    def row(self, images: int, seconds: float) -> dict[str, float]:
        """What was reached since the last call; all processes must call this together.

        Args:
            images: trained on.
            seconds: that it took.

        Returns:
            `flops_per_second` and `peak_share` over all processes; of the process with the most: `data_wait_share`, the
            part of the time in which it waited for data, and `memory_bytes`, the most that it has ever had.
        """
        waited, self._waited = self.loader.waited - self._waited, self.loader.waited
        seconds = max(seconds, 1e-9)
        ours = min(waited / seconds, 1.0), peak_memory(self.world.device)
        shares, memory = zip(*self.world.gather(ours), strict=True)
        rate = images * self.flops / seconds
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
