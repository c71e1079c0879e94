"""Random numbers that belong to each sample."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unitgain.sample.seeds import Between, Seed, check_seeds


class SampleGenerators:
    """A random generator per sample, so that image number s is the same in any batch; two for a point between seeds.

    Args:
        seeds: one per sample, as `check_seeds` takes them.
        device: where the numbers are drawn; they differ between kinds of device.

    The order of draws is the official one: first `randn` for the noise, then the class, then `randn` for each churn.

    Raises:
        ValueError: if a seed is out of range.
    """

    def __init__(self, seeds: Sequence[Seed], device: torch.device | str = "cpu") -> None:
        check_seeds(seeds)
        self.device = torch.device(device)
        each = [seed.parts() if isinstance(seed, Between) else ((int(seed), 1.0, 1.0),) for seed in seeds]
        self._weights = [[weight for _, weight, _ in parts] for parts in each]
        self._shares = [[share for *_, share in parts] for parts in each]
        self._generators = [[torch.Generator(self.device).manual_seed(seed) for seed, *_ in parts] for parts in each]

    def randn(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Unit noise `[N, *shape]`, float32."""
        samples: list[Tensor] = []
        for generators, weights in zip(self._generators, self._weights, strict=True):
            draws = [torch.randn(tuple(shape), generator=one, device=self.device) for one in generators]
            samples.append(draws[0] if len(draws) == 1 else weights[0] * draws[0] + weights[1] * draws[1])
        return torch.stack(samples)

    def randint(self, classes: int) -> Int[Tensor, " n"] | Float[Tensor, "n classes"]:
        """A class per sample, int64 `[N]`; with points between seeds, mixtures of classes `[N, classes]`, float32."""
        numbers = [
            torch.stack([torch.randint(classes, (), generator=one, device=self.device) for one in generators])
            for generators in self._generators
        ]
        if all(len(shares) == 1 for shares in self._shares):
            return torch.cat(numbers)
        mixtures = torch.zeros(len(numbers), classes, device=self.device)
        for mixture, own, shares in zip(mixtures, numbers, self._shares, strict=True):
            mixture.index_add_(0, own, torch.tensor(shares, device=self.device))
        return mixtures
