"""Mean and covariance of features, a batch at a time and over processes, in float64."""

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.parallel import World


class Moments:
    """Count, mean `[D]` and scatter `[D, D]` (sum of squared deviations) of all rows seen, on their device.

    Batches are merged by deviations from their own means (Chan, Golub and LeVeque 1983), so nothing cancels where the
    mean is large beside the spread.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Take in a batch.

        Raises:
            ValueError: if a value is not finite, or there is another number of features than before.
        """
        rows = features.to(torch.float64)
        if not torch.isfinite(rows).all():
            raise ValueError("the detector gave features that are NaN or infinite: check its weights and its input")
        if not self.n:
            self.mean = rows.new_zeros(rows.shape[1])
            self.scatter = rows.new_zeros(rows.shape[1], rows.shape[1])
        elif rows.shape[1] != len(self.mean):
            raise ValueError(
                f"the detector gave {rows.shape[1]} features after {len(self.mean)}: use images of one size"
            )
        mean = rows.mean(0)
        deviations, shift = rows - mean, mean - self.mean
        total = self.n + len(rows)
        self.scatter.addmm_(deviations.T, deviations)
        self.scatter.addr_(shift, shift, alpha=self.n * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.n = total

    def reduce(self, world: World) -> tuple[int, Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Number of rows, mean and covariance (divided by N - 1) over all processes, on the CPU; one large reduction.

        Raises:
            ValueError: if there are fewer than two rows in all.
        """
        parts = world.gather((self.n, self.mean.cpu()))
        total = sum(n for n, _ in parts)
        if total < 2:
            raise ValueError(f"{total} images: a covariance needs at least 2")
        means = [n * mean for n, mean in parts if n]
        mean = torch.stack(means).sum(0) / total
        scatter = self.scatter.cpu() if self.n else torch.zeros(len(mean), len(mean), dtype=torch.float64)
        shift = self.mean.cpu() - mean if self.n else torch.zeros_like(mean)
        scatter = scatter.addr(shift, shift, alpha=self.n)
        world.sum([scatter])
        return total, mean, scatter / (total - 1)
