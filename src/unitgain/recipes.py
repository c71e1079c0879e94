"""Recipes: a network with its loss, optimizer, EMA and duration, by name."""

import dataclasses
import math
from dataclasses import dataclass

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.ema import check_sigma_rel
from unitgain.serial import suggest

MIMG = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a training run but its data, seed and machine (EDM2, Table 6).

    Args:
        name: of the recipe.
        summary: one line: what it is for, what it costs, what it scores.
        network: the network.
        P_mean: mean of ln(sigma) in training.
        P_std: standard deviation of ln(sigma) in training.
        sigma_data: standard deviation of the data.
        batch: images per step.
        duration: images in all; a whole number of steps.
        lr: reference learning rate, alpha_ref.
        t_ref: steps after which the learning rate decays; 0 for never.
        rampup: images over which it rises from 0; 0 for none.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        ema: relative lengths of the tracked averages; two or more for accurate post-hoc EMA.
        snapshot_every: images between snapshots; a whole number of steps.
        uncertainty_channels: Fourier features of u(sigma).

    Raises:
        ValueError: if a field is out of its range, naming the field, the value and the remedy.
    """

    name: str
    summary: str = ""
    network: NetworkSpec
    P_mean: float
    P_std: float
    sigma_data: float = 0.5
    batch: int = 2048
    duration: int
    lr: float
    t_ref: float = 70_000
    rampup: int = 10 * MIMG
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    ema: tuple[float, ...] = (0.05, 0.10)
    snapshot_every: int = 8 * 2**20
    uncertainty_channels: int = 128

    def __post_init__(self) -> None:
        for name in ("batch", "duration", "snapshot_every", "uncertainty_channels"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("P_std", "sigma_data", "lr", "eps"):
            self._require(name, getattr(self, name) > 0, "must be positive")
        for name in ("t_ref", "rampup"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "must be in [0, 1)")
        for name in ("duration", "snapshot_every"):
            value = getattr(self, name)
            nearest = max(round(value / self.batch), 1) * self.batch
            self._require(name, value % self.batch == 0, f"must be a multiple of batch={self.batch}, such as {nearest}")
        self._require("ema", len(set(self.ema)) == len(self.ema) >= 1, "needs at least one length, each once")
        for sigma_rel in self.ema:
            check_sigma_rel(sigma_rel)

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

    def _require(self, name: str, holds: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"Recipe.{name} = {getattr(self, name)!r}: {remedy}")


DIGITS = Recipe(
    name="digits",
    summary="8x8 handwritten digits of scikit-learn, ten classes; a minute or two on two CPU cores",
    network=NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(),  # the decoder's first block attends all the same; more of it buys nothing here
        channels_per_head=32,
    ),
    P_mean=-0.8,
    P_std=1.0,
    batch=64,
    duration=640 * 64,
    lr=0.02,
    t_ref=600,
    rampup=5_000,
    snapshot_every=20 * 64,
)

RECIPES = {recipe.name: recipe for recipe in (DIGITS,)}


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name]


def create(what: str | NetworkSpec | Recipe) -> Denoiser:
    """A freshly initialized denoiser.

    Args:
        what: name of a recipe, a recipe, or the spec of a network (sigma_data is then 0.5).

    Raises:
        ValueError: if no recipe has this name.
    """
    if isinstance(what, NetworkSpec):
        return Denoiser(what)
    chosen = recipe(what) if isinstance(what, str) else what
    return Denoiser(chosen.network, chosen.sigma_data)
