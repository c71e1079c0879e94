"""Kernel Inception distance: the squared maximum mean discrepancy under a polynomial kernel."""

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_distance(
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "m e"],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Unbiased estimate of MMD^2 with `k(x, y) = (x.y / D + 1)^3`, averaged over random subsets.

    Args:
        generated: features of generated images.
        real: features of real ones.
        subsets: how many pairs of subsets.
        size: images in a subset, drawn without replacement; no more than there are are taken.
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets; the mean may be a little below 0.

    Raises:
        ValueError: if there are fewer than two images on a side, or another number of features.

    Source: Binkowski et al. 2018, Section 4.
    """
    size = min(size, len(generated), len(real))
    if size < 2 or subsets < 1 or generated.shape[1] != real.shape[1]:
        shapes = f"{tuple(generated.shape)} and {tuple(real.shape)}"
        raise ValueError(f"KID needs a subset, two images on each side and the same features, not {shapes}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x = generated[torch.randperm(len(generated), generator=generator)[:size]]
        y = real[torch.randperm(len(real), generator=generator)[:size]]
        values.append(mmd2(x.double(), y.double()))
    estimates = torch.tensor(values, dtype=torch.float64)
    return estimates.mean().item(), estimates.std(correction=0).item()


def mmd2(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """The unbiased estimate on as many rows of each: no row is compared with itself.

    Source: Gretton et al. 2012, Lemma 6, with the cross term over all pairs.
    """
    n, d = x.shape
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return (within - 2 * xy.mean()).item()
