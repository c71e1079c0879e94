"""Samplers of the probability-flow ODE `dx/dsigma = (x - D(x; sigma)) / sigma` (EDM2, Eq. 153).

One function each, with the same first arguments and the same keywords `randn` and `on_step`; which of them is best at a
number of evaluations depends on the data, see docs/guidance.md.

Source: EDM (Karras et al. 2022), Algorithms 1 and 2; DDIM (Song et al. 2021), Eq. 13; DPM-Solver++ (Lu et al. 2022),
Algorithm 2.
"""

import itertools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
GAMMA_MAX = math.sqrt(2) - 1  # no step of churn adds more noise than there is


@runtime_checkable
class Sampler(Protocol):
    """What `generate` calls: noise in, images out."""

    def __call__(
        self,
        denoise: Denoise,
        noise: Float[Tensor, "n c h w"],
        sigmas: Float[Tensor, " steps"],
        *,
        randn: Callable[[], Tensor] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Images `[N, C, H, W]` at the last of `sigmas`."""
        ...


def euler(
    denoise: Denoise,
    noise: Float[Tensor, "n c h w"],
    sigmas: Float[Tensor, " steps"],
    *,
    randn: Callable[[], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Euler's method, which is deterministic DDIM: first order in the step, one evaluation per step, N in all.

    Args:
        denoise: D.
        noise: unit noise `[N, C, H, W]`; its dtype is that of the state.
        sigmas: decreasing noise levels, the last may be 0, as from `sigma_grid`.
        randn: not used; there is no fresh noise.
        on_step: called with the number of steps done, after each.

    Returns:
        Images `[N, C, H, W]` at the last level of `sigmas`.
    """
    del randn
    sigmas = sigmas.to(noise.device, noise.dtype)
    x = noise * sigmas[0]
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        x = x + (sigma_next - sigma) * (x - denoise(x, sigma).to(x)) / sigma
        if on_step is not None:
            on_step(i + 1)
    return x


def heun(
    denoise: Denoise,
    noise: Float[Tensor, "n c h w"],
    sigmas: Float[Tensor, " steps"],
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    randn: Callable[[], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Heun's method, with optional churn: second order, two evaluations per step, one in the last, 2N - 1 in all.

    Args:
        denoise: D.
        noise: unit noise `[N, C, H, W]`; its dtype is that of the state.
        sigmas: decreasing noise levels, the last may be 0, as from `sigma_grid`.
        S_churn: amount of fresh noise over the whole path; 0 is the deterministic sampler.
        S_min: lowest sigma that is churned.
        S_max: highest sigma that is churned.
        S_noise: standard deviation of the fresh noise.
        randn: draws unit noise of the shape of `noise`; needed when S_churn > 0, so that it comes from the generators
            of the samples.
        on_step: called with the number of steps done, after each.

    Returns:
        Images `[N, C, H, W]` at the last level of `sigmas`.

    Raises:
        ValueError: if S_churn > 0 without `randn`.
    """
    if S_churn > 0 and randn is None:
        raise ValueError("S_churn > 0 adds fresh noise: pass randn, such as SampleGenerators(seeds).randn")
    sigmas = sigmas.to(noise.device, noise.dtype)
    num_steps = len(sigmas) - 1
    x = noise * sigmas[0]
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        if randn is not None and S_churn > 0 and S_min <= sigma <= S_max:
            sigma_hat = sigma * (1 + min(S_churn / num_steps, GAMMA_MAX))
            x = x + (sigma_hat**2 - sigma**2).sqrt() * S_noise * randn().to(x)
            sigma = sigma_hat
        slope = (x - denoise(x, sigma).to(x)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if i < num_steps - 1:
            slope_next = (x_next - denoise(x_next, sigma_next).to(x)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
        if on_step is not None:
            on_step(i + 1)
    return x


def stochastic_heun(
    denoise: Denoise,
    noise: Float[Tensor, "n c h w"],
    sigmas: Float[Tensor, " steps"],
    *,
    S_churn: float = 40.0,
    S_min: float = 0.05,
    S_max: float = 50.0,
    S_noise: float = 1.003,
    randn: Callable[[], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """`heun` with fresh noise: the defaults are those that EDM found for ImageNet-64 with 256 steps (its Table 5).

    Arguments, result and errors are those of `heun`.
    """
    return heun(
        denoise,
        noise,
        sigmas,
        S_churn=S_churn,
        S_min=S_min,
        S_max=S_max,
        S_noise=S_noise,
        randn=randn,
        on_step=on_step,
    )


def dpmpp_2m(
    denoise: Denoise,
    noise: Float[Tensor, "n c h w"],
    sigmas: Float[Tensor, " steps"],
    *,
    randn: Callable[[], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """DPM-Solver++(2M): second order in the step of -ln sigma, one evaluation per step, N in all.

    D is carried half a step forward along the line through its last two values; the rest of a step is exact. The first
    step, which knows one value, and one that ends at 0, which has no middle, hold D constant.

    Args:
        denoise: D.
        noise: unit noise `[N, C, H, W]`; its dtype is that of the state.
        sigmas: decreasing noise levels, the last may be 0, as from `sigma_grid`.
        randn: not used; there is no fresh noise.
        on_step: called with the number of steps done, after each.

    Returns:
        Images `[N, C, H, W]` at the last level of `sigmas`.
    """
    del randn
    sigmas = sigmas.to(noise.device, noise.dtype)
    x = noise * sigmas[0]
    before: tuple[Tensor, Tensor] | None = None  # the last evaluation and the step that followed it
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        denoised = denoise(x, sigma).to(x)
        step = torch.log(sigma / sigma_next)
        slope_known = before is not None and bool(sigma_next > 0)
        target = denoised
        if before is not None and slope_known:
            previous, previous_step = before
            target = denoised + step / (2 * previous_step) * (denoised - previous)
        x = target + sigma_next / sigma * (x - target)
        before = (denoised, step)
        if on_step is not None:
            on_step(i + 1)
    return x


SAMPLERS: dict[str, Sampler] = {
    "heun": heun,
    "stochastic_heun": stochastic_heun,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
}


def evaluations(sampler: str, num_steps: int) -> int:
    """How often a sampler of `SAMPLERS` evaluates the denoiser in `num_steps` steps."""
    return 2 * num_steps - 1 if sampler in ("heun", "stochastic_heun") else num_steps
