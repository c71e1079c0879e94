"""Loss by noise level: what a network has learned where (the first EDM paper, Fig. 5a), and u(sigma) beside it.

The twelve bins are half a standard deviation wide in the normal draws that noise levels are made of, so half a P_std of
ln(sigma) around P_mean for the papers' loss, and every loss has the same share of its images in each; the outer two are
open. What is measured is the denoising error of an image, lambda(sigma) (D - y)^2,
the mean over pixels: 1 for a network that knows nothing. Eq. 21 divides it by exp(u(sigma)), which learns its mean.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from unitgain.loss import DenoisingLoss, Loss
from unitgain.parallel import World, full

BINS = 12
WIDTH = 0.5  # standard deviations
# Errors count in whole multiples of this: their sums are then exact in float64, up to 5e8, whatever the order.
STEP = 2.0**-24


class NoiseLevels:
    """Sums by bin over the images that one process trains on, kept on its device; nothing waits for it.

    Args:
        loss: says which noise levels there are.
        device: where the network is.

    Attributes:
        centres: ln(sigma) in the middle of each bin, float32.
        sums: `[3, bins]`, float64: denoising error, loss (Eq. 21), images; those with an infinite loss are left out.
    """

    def __init__(self, loss: DenoisingLoss, device: torch.device | str = "cpu") -> None:
        half = torch.arange(1 - BINS, BINS, dtype=torch.float64) * (WIDTH / 2)  # centres and edges in turns
        places = loss.sigma(half).log().float().to(device)
        self.centres, self.edges = places[::2].contiguous(), places[1::2].contiguous()
        self.sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, sigma: Float[Tensor, " n"], loss: Loss) -> None:
        """Take in images of these noise levels."""
        mean = loss.loss.detach().flatten(1).mean(1)
        values = torch.stack([loss.error, mean, torch.ones_like(mean)]).double()
        values = torch.where(values.isfinite().all(0), values, 0.0)
        values = (values / STEP).round() * STEP
        place = torch.bucketize(sigma.log(), self.edges)
        inside = place == torch.arange(BINS, device=place.device)[:, None]
        self.sums += torch.where(inside, values[:, None], 0.0).sum(-1)

    def collect(self, world: World) -> list[list[float]]:
        """The sums over all processes, which must call this together; they begin again at 0."""
        total = self.sums.clone()
        world.sum([total])
        self.sums.zero_()
        return total.tolist()


def added(sums: Sequence[Sequence[float]], more: Sequence[Sequence[float]]) -> list[list[float]]:
    """Two times' sums together; those of no time are empty."""
    if not sums:
        return [list(row) for row in more]
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(sums, more, strict=True)]


@torch.no_grad()
def uncertainty_at(uncertainty: nn.Module, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"] | None:
    """U(sigma) as it is now; None where nothing of it is learned. All processes must call this together."""
    whole = {name: full(parameter.detach()) for name, parameter in uncertainty.named_parameters()}
    return functional_call(uncertainty, whole, (sigma,)) if whole else None


def level_row(
    centres: Float[Tensor, " bins"], sums: Sequence[Sequence[float]], u: Float[Tensor, " bins"] | None
) -> dict[str, list[float | None] | None]:
    """What `stats.jsonl` says of noise levels: means by bin, None for a bin without images.

    Returns:
        `ln_sigma` (bin centres), `error`, `loss`, `images`, and `u` at the centres, None where there is none.
    """
    error, loss, images = sums
    return {
        "ln_sigma": [round(value, 6) for value in centres.tolist()],
        "error": [total / count if count else None for total, count in zip(error, images, strict=True)],
        "loss": [total / count if count else None for total, count in zip(loss, images, strict=True)],
        "images": [int(count) for count in images],
        "u": None if u is None else [value if abs(value) < float("inf") else None for value in u.tolist()],
    }
