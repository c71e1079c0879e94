"""How images are drawn: everything that changes them but the networks and the seeds."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.sample import SAMPLERS, Sampler, sigma_grid, stochastic_heun
from unitgain.serial import suggest

CHURN = ("S_churn", "S_min", "S_max", "S_noise")


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Settings of sampling and guidance.

    Args:
        guidance: weight w of Eq. 152; 1 is none.
        interval: noise levels `lo < sigma <= hi` that are guided; None for all.
        label: class of all images; None for one per seed.
        sampler: name of one of `unitgain.sample.SAMPLERS`.
        steps: of the sampler.
        sigma_min: last noise level before 0.
        sigma_max: first noise level.
        rho: exponent of the spacing.
        S_churn: this and the next three as in `stochastic_heun`, for that sampler alone; None for its defaults.
        S_min: lowest sigma that is churned.
        S_max: highest sigma that is churned.
        S_noise: standard deviation of the fresh noise.
        dtype: precision of the networks: "float32", "bfloat16" or "float16".
        exact: the networks compute as in training, rather than prepared for speed (`unitgain.infer.prepare`), which
            differs in the rounding.
        compile: the networks are compiled (`torch.compile`), which takes a while at the start; not with `exact`.
        no_winograd: 3x3 convolutions are made by their definition on CPUs too; not with `exact`, which does so anyway.
        kernels: depthwise convolutions run on the Triton kernels (`unitgain.kernels`), for GPUs; not with `exact`.
        graph: evaluations are recorded as CUDA graphs and replayed; not with `exact` or `compile`.
        vae: folder or Hub id of the VAE that decodes latents; None for the one that the network names.

    Raises:
        ValueError: if a value is out of range or a name is unknown.
    """

    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    label: int | None = None
    sampler: str = "heun"
    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    S_churn: float | None = None
    S_min: float | None = None
    S_max: float | None = None
    S_noise: float | None = None
    dtype: str = "float32"
    exact: bool = False
    compile: bool = False
    no_winograd: bool = False
    kernels: bool = False
    graph: bool = False
    vae: str | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; {suggest(self.sampler, SAMPLERS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        for name in ("compile", "no_winograd", "kernels", "graph"):
            if self.exact and getattr(self, name):
                raise ValueError(f"exact and {name} exclude each other: {name} is for prepared networks")
        if self.compile and self.graph:
            raise ValueError("compile and graph exclude each other: a compiled network has no graph recorded of it")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance}: must be finite")
        if self._churn() and self.sampler != "stochastic_heun":
            raise ValueError(f"{', '.join(self._churn())} belong to the sampler stochastic_heun, not to {self.sampler}")
        self.sigmas()

    def sigmas(self) -> Float[Tensor, " steps"]:
        """The noise levels, float64."""
        return sigma_grid(self.steps, self.sigma_min, self.sigma_max, self.rho)

    def function(self) -> Sampler:
        """The sampler with its settings bound."""
        if self.sampler == "stochastic_heun":
            return functools.partial(stochastic_heun, **self._churn())
        return SAMPLERS[self.sampler]

    def replace(self, **changes: Any) -> "DrawSettings":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def opening(self) -> dict[str, Any]:
        """How networks are prepared: the arguments of `open_network`."""
        names = ("dtype", "exact", "compile", "kernels", "graph")
        return {name: getattr(self, name) for name in names} | {"winograd": not self.no_winograd}

    def record(self) -> dict[str, Any]:
        """The settings as JSON; those of churn only where there is some, and no infinity, which JSON does not know."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in CHURN:
            if values[name] is None or math.isinf(values[name]):
                del values[name]
        for name in ("vae", "compile", "no_winograd", "kernels", "graph"):  # only where they are asked for
            if not values[name]:
                del values[name]
        values["class"] = values.pop("label")
        values["interval"] = None if self.interval is None else list(self.interval)
        return values

    def _churn(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in CHURN if getattr(self, name) is not None}
