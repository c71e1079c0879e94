"""The training loss: noise levels, weighting, learned uncertainty (EDM2, Eqs. 13-16 and 21)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.denoiser import Denoiser, Label


class Loss(NamedTuple):
    """What a loss says of a batch.

    Attributes:
        loss: of every pixel, `[N, C, H, W]`, float32. Training sums over pixels and takes the mean over the batch.
        error: weighted denoising error `lambda(sigma) (D - y)^2` of each image, the mean over pixels, `[N]`, without a
            gradient: 1 for a network that knows nothing.
        u: u(sigma), `[N]`, as it is in the loss.
    """

    loss: Float[Tensor, "n c h w"]
    error: Float[Tensor, " n"]
    u: Float[Tensor, " n"]


@dataclass(frozen=True)
class EDMLoss:
    """Denoising score matching over log-normal noise levels, each scaled by its learned uncertainty (Eq. 21).

    Args:
        P_mean: mean of ln(sigma).
        P_std: standard deviation of ln(sigma), positive.
    """

    P_mean: float
    P_std: float

    def draw(
        self, clean: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c h w"]]:
        """Noise levels `[N]` (Eq. 16) and unit noise of the shape of `clean`, from `generator`, in this order."""
        normal = torch.randn(len(clean), device=clean.device, generator=generator)
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        return self.sigma(normal), noise

    def sigma(self, normal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Noise levels from standard normal draws: `exp(P_mean + P_std n)` (Eq. 16)."""
        return (normal * self.P_std + self.P_mean).exp()

    def weight(self, sigma: Float[Tensor, "..."], sigma_data: float) -> Float[Tensor, "..."]:
        """lambda(sigma), which makes the loss 1 at initialization for every noise level (Eq. 15)."""
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2

    def __call__(
        self,
        denoiser: Denoiser,
        uncertainty: nn.Module,
        clean: Float[Tensor, "n c h w"],
        sigma: Float[Tensor, " n"],
        noise: Float[Tensor, "n c h w"],
        label: Label = None,
    ) -> Loss:
        """`lambda / exp(u) (D(y + sigma n) - y)^2 + u` (Eq. 21), and what it is made of.

        Args:
            denoiser: D; its `sigma_data` is used.
            uncertainty: u(sigma), noise levels `[N]` to `[N]`.
            clean: images y, `[N, C, H, W]`, of standard deviation sigma_data.
            sigma: noise levels `[N]`, as from `draw`.
            noise: unit noise n, shape of `clean`, as from `draw`.
            label: as the denoiser takes it.
        """
        level = sigma[:, None, None, None]
        denoised = denoiser(clean + level * noise, sigma, label)
        weight = self.weight(level, denoiser.sigma_data)
        u = uncertainty(sigma)
        square = (denoised - clean) ** 2
        loss = weight / u[:, None, None, None].exp() * square + u[:, None, None, None]
        return Loss(loss, weight.flatten() * square.detach().flatten(1).mean(1), u)
