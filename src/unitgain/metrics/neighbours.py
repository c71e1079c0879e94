"""Precision and recall, density and coverage: who lies within reach of whose nearest neighbours.

Everything is computed in blocks of pairs, so the memory does not grow with the square of the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2048  # rows on each side of a block of pairs: 32 MiB of squared distances
ROUNDING = 1e-12  # of squared distances, relative; so that ties, such as duplicates, count as within


@dataclass(frozen=True)
class Neighbourhoods:
    """Four figures of one number of neighbours k, each at least 0; all but density at most 1.

    Args:
        precision: part of the generated images within reach of a real one (Kynkaanniemi et al. 2019, Eq. 2).
        recall: part of the real images within reach of a generated one.
        density: real images that a generated one is in reach of, over k (Naeem et al. 2020, Eq. 3).
        coverage: part of the real images that have a generated one within their reach (Eq. 4).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def radii(features: Float[Tensor, "n d"], ks: tuple[int, ...]) -> Float[Tensor, "k n"]:
    """Squared distance of each row to its k-th nearest other row, for each k; float64 `[len(ks), N]`.

    Raises:
        ValueError: unless there are more rows than the largest k.
    """
    if len(features) <= max(ks) or min(ks) < 1:
        raise ValueError(f"{len(features)} images: a neighbourhood of {max(ks)} needs at least {max(ks) + 1}")
    found = []
    for start, rows in _blocks(features):
        nearest = rows.new_zeros(len(rows), 0)
        for other, columns in _blocks(features):
            distances = squared_distances(rows, columns)
            if start == other:
                distances.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, distances], 1)
            nearest = nearest.topk(min(max(ks), nearest.shape[1]), largest=False).values
        found.append(nearest)
    sorted_ = torch.cat(found)
    return torch.stack([sorted_[:, k - 1] for k in ks])


def neighbourhoods(
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "m e"],
    ks: tuple[int, ...],
    *,
    real_radii: Float[Tensor, "k m"] | None = None,
) -> dict[int, Neighbourhoods]:
    """Compare generated with real features, for each number of neighbours that make the reach of an image.

    Args:
        generated: of generated images.
        real: of real ones, on the same device.
        ks: numbers of neighbours.
        real_radii: `radii(real, ks)`, if it is at hand.

    Raises:
        ValueError: if the numbers of features differ, or there are not more images than neighbours.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features against {real.shape[1]}: use one detector")
    reach_real = [_tolerant(real, r) for r in (radii(real, ks) if real_radii is None else real_radii)]
    reach_generated = [_tolerant(generated, r) for r in radii(generated, ks)]
    precise = torch.zeros(len(ks), len(generated), dtype=torch.bool, device=generated.device)
    recalled, covered = (torch.zeros(len(ks), len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    pairs = [0] * len(ks)
    for i, centres in _blocks(real):
        rows = slice(i, i + len(centres))
        for j, points in _blocks(generated):
            columns = slice(j, j + len(points))
            distances = squared_distances(centres, points)
            for n in range(len(ks)):
                within = distances <= reach_real[n][rows, None]
                precise[n, columns] |= within.any(0)
                covered[n, rows] |= within.any(1)
                pairs[n] += int(within.sum())
                recalled[n, rows] |= (distances <= reach_generated[n][None, columns]).any(1)
    return {
        k: Neighbourhoods(
            precision=precise[n].double().mean().item(),
            recall=recalled[n].double().mean().item(),
            density=pairs[n] / (k * len(generated)),
            coverage=covered[n].double().mean().item(),
        )
        for n, k in enumerate(ks)
    }


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances of float64 rows, from their products."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None]
    return squares.addmm_(x, y.T, alpha=-2).clamp_(min=0)


def _blocks(features: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(features), BLOCK):
        yield start, features[start : start + BLOCK].double()


def _tolerant(centres: Tensor, squared: Tensor) -> Tensor:
    """Squared radii, wider by the rounding of distances between rows as long as these."""
    return squared + ROUNDING * (centres.double().square().sum(1) + squared)
