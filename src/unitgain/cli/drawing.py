"""Options of the commands that draw with a network, and the networks that they name."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from unitgain.cli.arguments import Unset
from unitgain.recipe import Precision

if TYPE_CHECKING:
    import torch

    from unitgain.draw.networks import Network
    from unitgain.draw.settings import DrawSettings

SamplerName = Literal["heun", "stochastic_heun", "euler", "dpmpp_2m"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How networks are evaluated, and in which steps; for all commands that draw."""

    interval: Unset[tuple[float, float]] = None
    """Noise levels LO < sigma <= HI that are guided. Default: all."""

    sampler: SamplerName = "heun"
    """heun takes 2 N - 1 evaluations of the network in N steps, stochastic_heun too; euler (DDIM) and dpmpp_2m N."""

    steps: int = 32
    """Steps N of the sampler."""

    batch: int = 64
    """Images in flight at a time in each process; does not change the images."""

    sigma_min: float = 0.002
    """Lowest noise level before 0."""

    sigma_max: float = 80.0
    """Highest noise level."""

    rho: float = 7.0
    """Exponent of the schedule; higher is denser at low noise."""

    dtype: Literal["auto"] | Precision = "auto"
    """Precision of the networks. auto is the fastest that the hardware has, bfloat16 or float32, and float32 with
    --exact; name one to draw the same images everywhere."""

    exact: bool = False
    """Evaluate networks as in training, step by step; slower. By default their weights are normalized and constants
    folded beforehand, which differs in the rounding."""

    compile: bool = False
    """Compile the networks (torch.compile): a minute or more at the start, for long runs. Differs in the rounding."""

    no_winograd: bool = False
    """Make 3x3 convolutions on CPUs by their definition. By Winograd's filtering networks of them are about twice as
    fast (on one processor, with AVX-512); their weights take 2 to 4 times the memory. Differs in the rounding."""

    kernels: bool = False
    """Run depthwise convolutions on kernels of our own (Triton, the extra kernels), for GPUs. They are tested, but no
    GPU has run them: measure before you rely on them (unitgain bench forward NETWORK:bfloat16+kernels). Differs in the
    rounding."""

    graph: bool = False
    """Record what an evaluation starts on the GPU as a CUDA graph, and replay it: for networks so small, or batches,
    that the GPU waits for the processor. Not with --compile. No GPU has run it yet either."""

    vae: Unset[str] = None
    """Folder or Hub id of the VAE that decodes latents. Default: the one that the network names."""

    def settings(self, device: "torch.device", guidance: float = 1.0) -> "DrawSettings":
        """The options that change the images, on this device, with this weight of guidance."""
        from unitgain.draw.settings import DrawSettings

        names = {field.name for field in fields(DrawSettings)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in names - {"guidance", "dtype"}}
        return DrawSettings(guidance=guidance, dtype=self.precision(device), **given)

    def precision(self, device: "torch.device") -> str:
        """The precision that was asked for, or the fastest that the device has."""
        from unitgain.infer import fastest_dtype

        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.exact else str(fastest_dtype(device)).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Drawing(Sampling):
    """What changes the images of a network, and how many are drawn at a time."""

    label: Annotated[Unset[int], tyro.conf.arg(name="class")] = None
    """Class of all images. Default: each seed draws its own."""

    guide: Unset[str] = None
    """What guides: a network as above, unconditional, smaller or less trained; or self, the network without its label,
    if it was trained to do without."""

    guidance: Unset[float] = None
    """Weight of guidance w: w times the network plus (1 - w) times the guide. 1 is none."""

    S_churn: Unset[float] = None
    """Fresh noise over the whole path, of stochastic_heun. Default: 40."""

    S_min: Unset[float] = None
    """Lowest noise level that is churned. Default: 0.05."""

    S_max: Unset[float] = None
    """Highest noise level that is churned. Default: 50."""

    S_noise: Unset[float] = None
    """Standard deviation of the fresh noise. Default: 1.003."""

    def guided_by(self, network: str) -> tuple[str | None, float]:
        """Name of the guide of `network` and weight of guidance: as asked for, or those of the preset.

        Raises:
            ValueError: if the options do not go together.
        """
        from unitgain.presets import PRESETS, fetched

        if self.guide is None and self.guidance is None and not Path(network).exists():
            found = PRESETS.get(network)
            if found is not None and found.guide is not None:
                return str(fetched(network).guide), found.guidance
        if self.guide is not None and self.guidance is None:
            raise ValueError(f"--guide {self.guide} without --guidance: say how much, as in --guidance 1.5")
        if self.guide is None and (self.guidance not in (None, 1) or self.interval is not None):
            raise ValueError("--guidance and --interval need a --guide: a network, or self")
        return self.guide, 1.0 if self.guidance is None else self.guidance

    def networks(self, network: str, device: "torch.device") -> "tuple[Network, Network | None, DrawSettings]":
        """The network of this name, what guides it if that is another one, and the settings.

        Raises:
            ValueError: if the options do not go together.
        """
        from unitgain.draw.networks import SELF, open_network

        guide, weight = self.guided_by(network)
        settings = self.settings(device, weight)
        names = [network] if guide in (None, SELF) else [network, str(guide)]
        main, *others = (open_network(name, device, **settings.opening()) for name in names)
        return main, others[0] if others else None, settings
