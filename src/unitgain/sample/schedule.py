"""Noise levels of sampling (EDM, Eq. 5; EDM2, Appendix D.1). Imports no torch before it is needed."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1e18  # noise level, whose square float32 still holds


def check_schedule(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> None:
    """Raise `ValueError` unless num_steps >= 1, 0 < sigma_min < sigma_max <= 1e18, rho > 0, and levels can be made."""
    good = num_steps >= 1 and 0 < sigma_min < sigma_max <= LARGEST and rho > 0
    try:
        good = good and 0 < sigma_min ** (1 / rho) < sigma_max ** (1 / rho) < math.inf
    except OverflowError:
        good = False
    if not good:
        raise ValueError(
            f"a schedule needs num_steps >= 1, 0 < sigma_min < sigma_max <= {LARGEST:g} and rho > 0, and numbers that "
            f"can be computed with, not {num_steps=}, {sigma_min=}, {sigma_max=}, {rho=}"
        )


def sigma_grid(num_steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> "Tensor":
    """Noise levels from `sigma_max` down to `sigma_min`, then 0; dense at the low end.

    Args:
        num_steps: N, number of steps, at least 1.
        sigma_min: last level before 0.
        sigma_max: first level.
        rho: exponent of the spacing.

    Returns:
        `[num_steps + 1]`, float64: `(smax^(1/rho) + i/(N-1) (smin^(1/rho) - smax^(1/rho)))^rho` and a final 0.

    Raises:
        ValueError: as `check_schedule`.
    """
    import torch

    check_schedule(num_steps, sigma_min, sigma_max, rho)
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(first + ramp * (last - first)) ** rho, torch.zeros(1, dtype=torch.float64)])
