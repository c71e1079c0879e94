"""From what is stored, 8-bit pixels or latents, to what the network sees, and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unitgain import official
from unitgain.data.settings import PixelRange
from unitgain.data.vae import load_vae, vae_decode
from unitgain.serial import from_dict

DATA_STD = 0.5  # of what the network sees; what the papers' noise levels presume


@dataclass(frozen=True, kw_only=True)
class PixelEncoder:
    """Standardize 8-bit pixels to `(pixel - mean) / std * 0.5`.

    The defaults map 0...255 to [-1, 1], the official convention for RGB; statistics measured on the data give mean 0
    and standard deviation 0.5, which is what the noise levels of the paper presume (EDM2, Appendix B.1).

    Args:
        mean: of the pixels, in 0...255.
        std: standard deviation of the pixels, positive.
    """

    mean: float = 127.5
    std: float = 63.75
    kind: str = "pixels"

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.mean) and math.isfinite(self.std)) or self.kind != "pixels":
            raise ValueError(f"a pixel encoder needs std > 0 and kind 'pixels', not std={self.std}, kind={self.kind!r}")

    @classmethod
    def measure(cls, images: UInt8[Tensor, "n c h w"]) -> "PixelEncoder":
        """The encoder that gives these images mean 0 and standard deviation 0.5.

        Raises:
            ValueError: if all pixels are equal.
        """
        pixels = images.double()
        std = pixels.std(correction=0).item()
        if std == 0:
            raise ValueError("all pixels of the data are equal: there is nothing to learn")
        return cls(mean=pixels.mean().item(), std=std)

    def encode(
        self, pixels: UInt8[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Float32 images of the shape of `pixels`; nothing is random."""
        return (pixels.float() - self.mean) * (DATA_STD / self.std)

    def decode(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """8-bit pixels, rounded to the nearest and clipped."""
        return (images.float() * (self.std / DATA_STD) + (self.mean + 0.5)).floor().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class LatentEncoder:
    """Draw latents from the means and standard deviations that a VAE gave, and standardize them per channel.

    `encode` draws `z = mean + std * noise` anew at each use and returns `(z - self.mean) * 0.5 / self.std`.

    Args:
        vae: folder or Hub id of the diffusers `AutoencoderKL` that made the latents.
        mean: of the latents, one per channel.
        std: standard deviation of the latents, one per channel, positive.
        pixels: what the VAE takes and gives: "0..1" as the official networks have it, or "-1..1".
    """

    vae: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: PixelRange = "0..1"
    kind: str = "latents"

    def __post_init__(self) -> None:
        known = all(map(math.isfinite, (*self.mean, *self.std))) and all(s > 0 for s in self.std)
        if self.kind != "latents" or len(self.mean) != len(self.std) or not known:
            raise ValueError(
                "a latent encoder needs kind 'latents' and a mean and a positive std for each channel, not "
                f"kind={self.kind!r}, mean={self.mean}, std={self.std}"
            )

    @classmethod
    def official(cls, vae: str = official.VAE) -> "LatentEncoder":
        """The normalization of the official networks."""
        return cls(vae=vae, mean=official.VAE_MEAN, std=official.VAE_STD)

    def encode(
        self, moments: Float[Tensor, "n c2 h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Latents as the network sees them.

        Args:
            moments: means, then standard deviations, along the channels.
            generator: of the noise, on the device of `moments`; by default torch's global one.

        Raises:
            ValueError: if the channels are not two for each of the encoder's.
        """
        if moments.shape[1] != 2 * len(self.mean):
            raise ValueError(
                f"latents of {len(self.mean)} channels are stored as twice as many, not {moments.shape[1]}"
            )
        mean, std = moments.float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + std * noise - self._column(self.mean, mean)) * (DATA_STD / self._column(self.std, mean))

    def decode(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c2 h2 w2"]:
        """8-bit pixels through the VAE, which is loaded once, to the device of `images`.

        Raises:
            ImportError: if diffusers is missing.
            ValueError: if the VAE is not to be had.
        """
        latents = images.float() * (self._column(self.std, images) / DATA_STD) + self._column(self.mean, images)
        return vae_decode(load_vae(self.vae, images.device), latents, self.pixels)

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device).reshape(1, -1, 1, 1)


Encoder = PixelEncoder | LatentEncoder


def encoder_from_dict(data: Mapping[str, Any]) -> Encoder:
    """The encoder that a snapshot or a data set describes; the inverse of `unitgain.serial.to_dict`.

    Raises:
        ValueError: if its kind is unknown or a field is wrong.
    """
    kind = data.get("kind", "pixels")
    if kind == "latents":
        return from_dict(LatentEncoder, data)
    if kind == "pixels":
        return from_dict(PixelEncoder, data)
    raise ValueError(f"unknown kind of encoder {kind!r}; known: pixels, latents")
