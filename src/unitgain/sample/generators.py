"""Random numbers that belong to each sample."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unitgain.sample.seeds import check_seeds


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
