"""Samplers of the probability-flow ODE `dx/dsigma = (x - D(x; sigma)) / sigma` (EDM2, Eq. 153).

A sampler with its settings is a value, `StochasticHeun(S_churn=10)`; which of them is best at a number of evaluations
depends on the data, see docs/guidance.md. A new one is a class as those below, which `generate` takes as it is, and an
entry of `SAMPLERS`, for the command line: its fields are options there. Nothing here imports torch.

Source: EDM (Karras et al. 2022), Algorithms 1 and 2; DDIM (Song et al. 2021), Eq. 13; DPM-Solver++ (Lu et al. 2022),
Algorithm 2.
"""

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unitgain.given import real, settle
from unitgain.serial import from_dict, suggest
from unitgain.text import brief

if TYPE_CHECKING:
    from torch import Tensor

Denoise = Callable[["Tensor", "Tensor"], "Tensor"]
Randn = Callable[[], "Tensor"]
GAMMA_MAX = math.sqrt(2) - 1  # no step of churn adds more noise than there is


class Sampler(ABC):
    """A sampler with its settings, a frozen dataclass: noise in, images out.

    Attributes:
        name: for the command line and in records.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, denoise: Denoise, noise: "Tensor", sigmas: "Tensor", randn: Randn | None = None) -> "Tensor":
        """Sample.

        Args:
            denoise: D, `denoise(x, sigma) -> denoised` of images `[N, C, *size]` and a scalar noise level.
            noise: unit noise `[N, C, *size]`; its dtype is that of the state.
            sigmas: decreasing noise levels `[steps + 1]`, the last may be 0, as from `sigma_grid`.
            randn: draws unit noise of the shape of `noise`, from the generators of the samples.

        Returns:
            Images `[N, C, *size]` at the last of `sigmas`.
        """

    def evaluations(self, sigmas: "Tensor") -> int:
        """How often `denoise` is called: once in every step, where a sampler does not say otherwise."""
        return len(sigmas) - 1

    def one_of(self, steps: int) -> "Sampler":
        """The sampler of a single one of so many steps: itself, where its settings are not of the whole path."""
        return self

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Sampler":
        """Inverse of `to_json`, of the samplers in `SAMPLERS`.

        Raises:
            ValueError: if there is no such sampler, or a setting is unknown, of another kind, or out of range.
        """
        settings: dict[str, Any] = {**data} if isinstance(data, dict) else {}
        name = settings.pop("sampler", data)
        if not isinstance(name, str) or name not in SAMPLERS:
            raise ValueError(f"{where}: unknown sampler {brief(name)}; {suggest(str(name), SAMPLERS)}")
        settings = {key: math.inf if value == str(math.inf) else value for key, value in settings.items()}
        return from_dict(SAMPLERS[name], settings, where)

    def to_json(self) -> dict[str, Any]:
        """Its name, as `sampler`, and its settings, as JSON."""
        own = dataclasses.asdict(self)  # type: ignore[call-overload]
        values = {name: str(value) if value == math.inf else value for name, value in own.items()}
        return {"sampler": self.name, **values}


def heun(
    denoise: Denoise,
    noise: "Tensor",
    sigmas: "Tensor",
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    randn: Randn | None = None,
) -> "Tensor":
    """Heun's method, optional churn: second order, two evaluations per step, one in a step to 0 (EDM, Algorithm 2).

    Args:
        denoise: as for any `Sampler`, and so the next two, and the result.
        noise: likewise.
        sigmas: likewise.
        S_churn: amount of fresh noise over the whole path; 0 is the deterministic sampler.
        S_min: lowest sigma that is churned.
        S_max: highest sigma that is churned.
        S_noise: standard deviation of the fresh noise.
        randn: needed when S_churn > 0.

    Raises:
        ValueError: if S_churn > 0 without `randn`.
    """
    if S_churn > 0 and randn is None:
        raise ValueError("S_churn > 0 adds fresh noise: pass randn, such as SampleGenerators(seeds).randn")
    sigmas = sigmas.to(noise.device, noise.dtype)
    num_steps = len(sigmas) - 1
    x = noise * sigmas[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        if randn is not None and S_churn > 0 and S_min <= sigma <= S_max:
            sigma_hat = sigma * (1 + min(S_churn / num_steps, GAMMA_MAX))
            x = x + (sigma_hat**2 - sigma**2).sqrt() * S_noise * randn().to(x)
            sigma = sigma_hat
        slope = (x - denoise(x, sigma).to(x)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next).to(x)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


@dataclass(frozen=True)
class Heun(Sampler):
    """`heun` without churn: two evaluations per step, one in a step to 0."""

    name: ClassVar[str] = "heun"

    def __call__(self, denoise: Denoise, noise: "Tensor", sigmas: "Tensor", randn: Randn | None = None) -> "Tensor":
        """As `Sampler` says."""
        return heun(denoise, noise, sigmas)

    def evaluations(self, sigmas: "Tensor") -> int:
        """As `Sampler` says."""
        return len(sigmas) - 1 + int((sigmas[1:] > 0).sum())


@dataclass(frozen=True)
class StochasticHeun(Heun):
    """`heun` with fresh noise: the defaults are those that EDM found for ImageNet-64 with 256 steps (its Table 5).

    Raises:
        ValueError: if a setting is out of range.
    """

    name: ClassVar[str] = "stochastic_heun"

    S_churn: float = 40.0
    """Fresh noise over the whole path."""

    S_min: float = 0.05
    """Lowest noise level that is churned."""

    S_max: float = 50.0
    """Highest noise level that is churned."""

    S_noise: float = 1.003
    """Standard deviation of the fresh noise."""

    def __post_init__(self) -> None:
        for name in ("S_churn", "S_min", "S_max", "S_noise"):
            value = real(getattr(self, name), name)
            settle(self, **{name: value})
            if not value >= 0 or (value == math.inf and name != "S_max"):
                raise ValueError(f"{name} = {value}: must not be negative, and finite")
        if self.S_min > self.S_max:
            raise ValueError(f"S_min = {self.S_min:g} is above S_max = {self.S_max:g}: no noise level is between them")

    def __call__(self, denoise: Denoise, noise: "Tensor", sigmas: "Tensor", randn: Randn | None = None) -> "Tensor":
        """As `Sampler` says.

        Raises:
            ValueError: if S_churn > 0 without `randn`.
        """
        churn = {"S_churn": self.S_churn, "S_min": self.S_min, "S_max": self.S_max, "S_noise": self.S_noise}
        return heun(denoise, noise, sigmas, randn=randn, **churn)

    def one_of(self, steps: int) -> "StochasticHeun":
        """With the fresh noise of one step."""
        return dataclasses.replace(self, S_churn=self.S_churn / steps)


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method, which is deterministic DDIM: first order in the step, one evaluation per step."""

    name: ClassVar[str] = "euler"

    def __call__(self, denoise: Denoise, noise: "Tensor", sigmas: "Tensor", randn: Randn | None = None) -> "Tensor":
        """As `Sampler` says."""
        sigmas = sigmas.to(noise.device, noise.dtype)
        x = noise * sigmas[0]
        for sigma, sigma_next in itertools.pairwise(sigmas):
            x = x + (sigma_next - sigma) * (x - denoise(x, sigma).to(x)) / sigma
        return x


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """DPM-Solver++(2M): second order in the step of -ln sigma, one evaluation per step.

    D is carried half a step forward along the line through its last two values; the rest of a step is exact. The first
    step, which knows one value, and one that ends at 0, which has no middle, hold D constant.
    """

    name: ClassVar[str] = "dpmpp_2m"

    def __call__(self, denoise: Denoise, noise: "Tensor", sigmas: "Tensor", randn: Randn | None = None) -> "Tensor":
        """As `Sampler` says."""
        sigmas = sigmas.to(noise.device, noise.dtype)
        x = noise * sigmas[0]
        before: tuple[Tensor, Tensor] | None = None  # the last evaluation and the step that followed it
        for sigma, sigma_next in itertools.pairwise(sigmas):
            denoised = denoise(x, sigma).to(x)
            step = (sigma / sigma_next).log()
            target = denoised
            if before is not None and sigma_next > 0:
                previous, previous_step = before
                target = denoised + step / (2 * previous_step) * (denoised - previous)
            x = target + sigma_next / sigma * (x - target)
            before = (denoised, step)
        return x


SAMPLERS: dict[str, type[Sampler]] = {one.name: one for one in (Heun, StochasticHeun, Euler, DPMpp2M)}
