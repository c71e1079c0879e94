"""Random numbers that belong to each sample."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

SEEDS = 2**32  # as many as official generators tell apart, which take a seed modulo this


class SampleGenerators:
    """A random generator per sample, so that image number s is the same in any batch.

    Args:
        seeds: one per sample, as `check_seeds` takes them.
        device: where the numbers are drawn; they differ between kinds of device.

    The order of draws is the official one: first `randn` for the noise, then `randint` for the class, then `randn` for
    each churn.

    Raises:
        ValueError: if a seed is out of range.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        check_seeds(seeds)
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(int(seed)) for seed in seeds]

    def randn(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Unit noise `[N, *shape]`, float32."""
        return torch.stack([torch.randn(tuple(shape), generator=g, device=self.device) for g in self.generators])

    def randint(self, high: int) -> Int[Tensor, " n"]:
        """One integer below `high` per sample, int64 `[N]`."""
        return torch.stack([torch.randint(high, (), generator=g, device=self.device) for g in self.generators])


def check_seeds(seeds: Sequence[int], what: str = "seed") -> None:
    """Raise `ValueError` unless each seed is a whole number from 0 to 2^32 - 1: beyond, two seeds would be one."""
    if len(seeds) and not (min(seeds) >= 0 and max(seeds) < SEEDS):
        wrong = min(seeds) if min(seeds) < 0 else max(seeds)
        raise ValueError(f"{what} {wrong} is out of range: seeds are whole numbers from 0 to {SEEDS - 1}")
