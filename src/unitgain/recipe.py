"""A recipe: a network with its loss, optimizer, EMA and duration, and what a paper says it scores."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Suppress, arg  # no options, where a recipe is read from a command line

from unitgain.arch import NetworkSpec
from unitgain.ema import check_sigma_rel, file_name
from unitgain.loss import DenoisingLoss, EDMLoss

MIMG = 1_000_000
PIXELS, LATENTS = EDMLoss(P_mean=-0.8, P_std=1.6), EDMLoss(P_mean=-0.4, P_std=1.0)  # noise levels of both papers
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Score:
    """A published result and the settings it was sampled with.

    Args:
        metric: "FID" or "FD-DINOv2".
        value: of the metric; lower is better.
        sigma_rel: EMA length; None where the paper does not say.
        guidance: guidance weight; 1 for none, None where the paper does not say.
        guide: name of the guiding network's recipe; empty for none.
        guide_nimg: images after which the guide was taken; 0 for its whole duration.
        guide_sigma_rel: EMA length of the guide; None for the same.
    """

    metric: str
    value: float
    sigma_rel: float | None = None
    guidance: float | None = 1.0
    guide: str = ""
    guide_nimg: int = 0
    guide_sigma_rel: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a training run but its data, seed and machine (EDM2, Table 6).

    Args:
        name: of the recipe.
        summary: one line: what it is for, what it costs, what it scores.
        network: the network.
        latents: whether the data are latents, so that a sample still has to be decoded.
        loss: noise levels and their weights.
        label_dropout: part of the images that is trained on without their label, so that the network can guide itself.
        sigma_data: standard deviation of the data.
        precision: the network is trained in, mixed: weights, embedding, loss and optimizer stay in float32. On a CPU a
            new run takes bfloat16 for float16, or float32 where the processor lacks it.
        batch: images per step.
        duration: images in all; rounded up to whole steps.
        lr: reference learning rate, alpha_ref.
        t_ref: steps after which the learning rate decays; 0 for never.
        rampup: images over which it rises from 0 (warmup); 0 for none.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        forced_normalization: project weights onto their spheres before each step (Eq. 66); config E and up.
        loss_scaling: factor of the loss before the backward pass, for float16 without magnitude-preserving layers.
        ema: relative lengths of the tracked averages; two or more for accurate post-hoc EMA.
        ema_half_life: images in which an exponential average forgets half, tracked beside those; 0 for none.
        snapshot_every: images between snapshots; rounded up to whole steps.
        uncertainty_channels: Fourier features of u(sigma); 0 for the loss without uncertainty (Eq. 14).
        scores: what the paper reports, and how it was sampled.

    Raises:
        ValueError: if a field is out of its range, naming the field, the value and the remedy.
    """

    name: Suppress[str]
    summary: Suppress[str] = ""
    network: NetworkSpec
    latents: Suppress[bool] = False
    loss: DenoisingLoss
    label_dropout: float = 0.0
    sigma_data: float = 0.5
    precision: Annotated[Precision, arg(aliases=["--dtype"])] = "float32"
    batch: int = 2048
    duration: int
    lr: float
    t_ref: float = 70_000
    rampup: int = 10 * MIMG
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    forced_normalization: bool = True
    loss_scaling: float = 1.0
    ema: tuple[float, ...] = (0.05, 0.10)
    ema_half_life: int = 0
    snapshot_every: int = 8 * 2**20
    uncertainty_channels: int = 128
    scores: Suppress[tuple[Score, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("batch", "duration", "snapshot_every"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("sigma_data", "lr", "eps", "loss_scaling"):
            self._require(name, 0 < getattr(self, name) < math.inf, "must be positive and finite")
        for name in ("t_ref", "rampup", "ema_half_life"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        most = 2**16
        self._require("uncertainty_channels", 0 <= self.uncertainty_channels <= most, f"must be 0 to {most}")
        for name in ("beta1", "beta2", "label_dropout"):
            self._require(name, 0 <= getattr(self, name) < 1, "must be in [0, 1)")
        self._require("label_dropout", not self.label_dropout or self.network.label_dim, "needs a network with labels")
        self._require("loss", isinstance(self.loss, DenoisingLoss), "must be a DenoisingLoss, such as EDMLoss")
        for name in ("duration", "snapshot_every"):
            object.__setattr__(self, name, -(-getattr(self, name) // self.batch) * self.batch)
        self._require("ema", self.ema or self.ema_half_life, "needs at least one length, or an ema_half_life")
        for sigma_rel in self.ema:
            check_sigma_rel(sigma_rel)
        names = {file_name(1, {"kind": "power", "sigma_rel": sigma_rel}) for sigma_rel in self.ema}
        self._require("ema", len(names) == len(self.ema), "names a length twice, in the nine decimals of snapshots")

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"unitgain train {self.name}"

    def learning_rate(self, nimg: int) -> float:
        """Learning rate of the step that follows `nimg` images: ramp-up, then inverse square root decay (Eq. 67)."""
        lr = self.lr
        if self.t_ref > 0:
            lr /= math.sqrt(max(nimg / (self.t_ref * self.batch), 1))
        if self.rampup > 0:
            lr *= min(nimg / self.rampup, 1)
        return lr

    def replace(self, **changes: object) -> "Recipe":
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_network(self, network: NetworkSpec) -> "Recipe":
        """A copy for another network; where that has no labels, none are dropped."""
        return self.replace(network=network, label_dropout=self.label_dropout if network.label_dim else 0.0)

    def _require(self, name: str, holds: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"Recipe.{name} = {getattr(self, name)!r}: {remedy}")


def trained_parameters(recipe: Recipe) -> int:
    """Parameters that training by a recipe learns, as the papers count them: the network's and those of u(sigma)."""
    import torch

    from unitgain.denoiser import Denoiser, make_uncertainty, parameter_count

    with torch.device("meta"):
        network = Denoiser(recipe.network)
        uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
    return parameter_count(network) + parameter_count(uncertainty)
