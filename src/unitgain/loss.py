"""The training loss: noise levels, weighting, learned uncertainty (EDM2, Eqs. 13-16 and 21).

A loss is a value of a recipe, so it can be read without torch.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float
from tyro.conf import Suppress  # no options, where a recipe is read from a command line

from unitgain.serial import from_dict, to_dict

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from unitgain.denoiser import Denoiser, Label
else:  # shapes are checked all the same
    Generator = Tensor = Denoiser = Label = Any

CLASS = "class"  # in JSON: of a loss that is not EDMLoss


class Loss(NamedTuple):
    """What a loss says of a batch.

    Attributes:
        loss: of every pixel, `[N, C, *size]`, float32. Training sums over pixels and takes the mean over the batch.
        error: weighted denoising error `lambda(sigma) (D - y)^2` of each image, the mean over pixels, `[N]`, without a
            gradient: 1 for a network that knows nothing.
        u: u(sigma), `[N]`, as it is in the loss.
    """

    loss: Float[Tensor, "n c *size"]
    error: Float[Tensor, " n"]
    u: Float[Tensor, " n"]


class DenoisingLoss(ABC):
    """Denoising score matching over random noise levels, each scaled by its learned uncertainty (Eq. 21).

    A subclass, a frozen dataclass whose fields are JSON values, says how noise levels are distributed and weighted.
    `config.json` holds its name and its fields.
    """

    @abstractmethod
    def sigma(self, normal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Noise levels from standard normal draws, larger ones from larger ones."""

    def weight(self, sigma: Float[Tensor, "..."], sigma_data: float) -> Float[Tensor, "..."]:
        """lambda(sigma), which makes the loss 1 at initialization for every noise level (Eq. 15)."""
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2

    def draw(
        self, clean: Float[Tensor, "n c *size"], generator: Generator | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c *size"]]:
        """Noise levels `[N]` and unit noise of the shape of `clean`, from `generator`, in this order."""
        import torch

        normal = torch.randn(len(clean), device=clean.device, generator=generator)
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        return self.sigma(normal), noise

    def __call__(
        self,
        denoiser: Denoiser,
        uncertainty: "nn.Module",
        clean: Float[Tensor, "n c *size"],
        sigma: Float[Tensor, " n"],
        noise: Float[Tensor, "n c *size"],
        label: Label = None,
    ) -> Loss:
        """`lambda / exp(u) (D(y + sigma n) - y)^2 + u` (Eq. 21), and what it is made of.

        Args:
            denoiser: D; its `sigma_data` is used.
            uncertainty: u(sigma), noise levels `[N]` to `[N]`.
            clean: images y, `[N, C, *size]`, of standard deviation sigma_data.
            sigma: noise levels `[N]`, as from `draw`.
            noise: unit noise n, shape of `clean`, as from `draw`.
            label: as the denoiser takes it.
        """
        from unitgain.ops import over_pixels

        level = over_pixels(sigma, clean)
        denoised = denoiser(clean + level * noise, sigma, label)
        weight = self.weight(level, denoiser.sigma_data)
        u = uncertainty(sigma)
        per_image = over_pixels(u, clean)
        square = (denoised - clean) ** 2
        loss = weight / per_image.exp() * square + per_image
        return Loss(loss, weight.flatten() * square.detach().flatten(1).mean(1), u)

    def to_json(self) -> dict[str, Any]:
        """Its fields, and the name of its class, unless that is `EDMLoss`.

        Raises:
            ValueError: if it is no dataclass.
        """
        if not dataclasses.is_dataclass(self):
            raise ValueError(f"the loss {type(self).__name__} is no dataclass: config.json cannot say what it is")
        named = {} if type(self) is EDMLoss else {CLASS: type(self).__name__}
        return named | {one.name: to_dict(getattr(self, one.name)) for one in dataclasses.fields(self)}

    @staticmethod
    def from_json(data: Any, where: str) -> "DenoisingLoss":
        """The loss that was written so; one of another class can be looked at and compared, not trained with.

        Raises:
            ValueError: if a field is unknown, missing or of another type.
        """
        if not isinstance(data, Mapping) or CLASS not in data:
            return from_dict(EDMLoss, data, where)
        return RecordedLoss(name=str(data[CLASS]), settings={key: data[key] for key in data if key != CLASS})


@dataclass(frozen=True)
class EDMLoss(DenoisingLoss):
    """Log-normal noise levels, and the papers' weighting.

    Args:
        P_mean: mean of ln(sigma), finite.
        P_std: standard deviation of ln(sigma), positive.
    """

    P_mean: float
    P_std: float

    def __post_init__(self) -> None:
        if not float("-inf") < self.P_mean < float("inf"):
            raise ValueError(f"EDMLoss.P_mean = {self.P_mean!r}: must be finite")
        if not 0 < self.P_std < float("inf"):
            raise ValueError(f"EDMLoss.P_std = {self.P_std!r}: must be positive and finite")

    def sigma(self, normal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`exp(P_mean + P_std n)` (Eq. 16)."""
        return (normal * self.P_std + self.P_mean).exp()


@dataclass(frozen=True, kw_only=True)
class RecordedLoss(DenoisingLoss):
    """What a run says of a loss whose class is not known here.

    Args:
        name: of the class.
        settings: its fields, as JSON.
    """

    name: Suppress[str]
    settings: Suppress[Mapping[str, Any]]

    def sigma(self, normal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """No noise levels: what they were is not known.

        Raises:
            ValueError: always; says what to do.
        """
        raise ValueError(
            f"the run was trained with a loss of its own, {self.name}, which its files only name: go on in Python, "
            f"with TrainConfig(recipe=...replace(loss={self.name}(...))) and unitgain.train.train(..., resume=True)"
        )

    def to_json(self) -> dict[str, Any]:
        """As it was read."""
        return {CLASS: self.name, **self.settings}
