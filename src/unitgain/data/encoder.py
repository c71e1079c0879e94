"""From what is stored, 8-bit pixels, latents or other numbers, to what the network sees, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from unitgain import official
from unitgain.data.numbers import Numbers
from unitgain.data.settings import PixelRange
from unitgain.data.vae import load_vae, vae_decode
from unitgain.serial import from_dict

FLOATS = Numbers()
ROUNDING = 1e-9  # standard deviation of equal numbers, as a part of them
DATA_STD = 0.5  # of what the network sees; what the papers' noise levels presume
PerChannel = Sequence[float] | NDArray[np.float64]
EQUAL = "all pixels of the data are equal: there is nothing to learn"
FLAT = 1e-4  # standard deviation of equal pixels, of 0...255: what is left of 0 after rounding


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
    def measure(cls, images: UInt8[Tensor, "n c *size"]) -> "PixelEncoder":
        """The encoder that gives these images mean 0 and standard deviation 0.5.

        Raises:
            ValueError: if all pixels are equal.
        """
        pixels = images.double()
        std = pixels.std(correction=0).item()
        if std == 0:
            raise ValueError(EQUAL)
        return cls(mean=pixels.mean().item(), std=std)

    @classmethod
    def measured(cls, mean: PerChannel, std: PerChannel) -> "PixelEncoder":
        """The encoder that gives channels of these means and standard deviations mean 0 and 0.5, over all of them.

        Raises:
            ValueError: if all pixels are equal.
        """
        center, spread = overall(mean, std)
        if spread < FLAT:
            raise ValueError(EQUAL)
        return cls(mean=center, std=spread)

    def encode(
        self, pixels: UInt8[Tensor, "n c *size"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c *size"]:
        """Float32 images of the shape of `pixels`; nothing is random."""
        return (pixels.float() - self.mean) * (DATA_STD / self.std)

    def decode(self, images: Float[Tensor, "n c *size"]) -> UInt8[Tensor, "n c *size"]:
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
        return (mean + std * noise - _column(self.mean, mean)) * (DATA_STD / _column(self.std, mean))

    def decode(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c2 h2 w2"]:
        """8-bit pixels through the VAE, which is loaded once, to the device of `images`.

        Raises:
            ImportError: if diffusers is missing.
            ValueError: if the VAE is not to be had.
        """
        latents = images.float() * (_column(self.std, images) / DATA_STD) + _column(self.mean, images)
        return vae_decode(load_vae(self.vae, images.device), latents, self.pixels)


@dataclass(frozen=True, kw_only=True)
class ArrayEncoder:
    """Standardize numbers per channel to `(value - mean) / std * 0.5`: signals, fields, volumes; `decode` undoes it.

    Args:
        mean: of the numbers, one per channel.
        std: standard deviation of the numbers, one per channel, positive.
        numbers: what they are, and as which kind of file they are written.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    numbers: Numbers = FLOATS
    kind: str = "arrays"

    def __post_init__(self) -> None:
        known = all(map(math.isfinite, (*self.mean, *self.std))) and all(s > 0 for s in self.std)
        if self.kind != "arrays" or not self.mean or len(self.mean) != len(self.std) or not known:
            raise ValueError(
                "an array encoder needs kind 'arrays' and a mean and a positive std for each channel, not "
                f"kind={self.kind!r}, mean={self.mean}, std={self.std}"
            )

    @classmethod
    def measured(cls, mean: Sequence[float], std: Sequence[float], numbers: Numbers) -> "ArrayEncoder":
        """The encoder that gives each channel mean 0 and standard deviation 0.5; zeros to one of equal values."""
        spread = [s if s > ROUNDING * abs(m) else 1.0 for m, s in zip(mean, std, strict=True)]
        return cls(mean=tuple(mean), std=tuple(spread), numbers=numbers)

    @classmethod
    def identity(cls, channels: int) -> "ArrayEncoder":
        """The encoder of floating numbers that are as the network is to see them."""
        return cls(mean=(0.0,) * channels, std=(DATA_STD,) * channels)

    @classmethod
    def bytes(cls, channels: int) -> "ArrayEncoder":
        """The encoder that maps 0...255 to [-1, 1], as pixels are by default."""
        pixels = PixelEncoder()
        return cls(mean=(pixels.mean,) * channels, std=(pixels.std,) * channels, numbers=Numbers(dtype="uint8"))

    def encode(self, values: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n c *size"]:
        """Float32 arrays of the shape of `values`, `[N, C, *size]` of any numbers; nothing is random.

        Raises:
            ValueError: if there are not as many channels as the encoder has.
        """
        self._check(values)
        return (values.float() - _column(self.mean, values)) * (DATA_STD / _column(self.std, values))

    def decode(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Numbers of the type of `numbers.dtype`, `[N, C, *size]`: whole ones rounded to the nearest and clipped."""
        self._check(images)
        numbers = images.float() * (_column(self.std, images) / DATA_STD) + _column(self.mean, images)
        if self.numbers.dtype == "float32":
            return numbers
        kind = torch.uint8 if self.numbers.dtype == "uint8" else torch.int16
        about = torch.iinfo(kind)
        return (numbers + 0.5).floor().clamp(about.min, about.max).to(kind)

    def _check(self, values: Tensor) -> None:
        if values.ndim < 3 or values.shape[1] != len(self.mean):
            raise ValueError(f"arrays of shape {tuple(values.shape)}: expected [N, {len(self.mean)}, *size]")


def overall(mean: PerChannel, std: PerChannel) -> tuple[float, float]:
    """Mean and standard deviation over all channels, which are of one size, by those of each."""
    means, stds = np.asarray(mean), np.asarray(std)
    center = float(means.mean())
    return center, float(np.sqrt(max((stds**2 + means**2).mean() - center**2, 0)))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers per channel, float32, to go with `[N, C, *size]`."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).reshape(1, -1, *[1] * (like.ndim - 2))


Encoder = PixelEncoder | LatentEncoder | ArrayEncoder


def encoder_from_dict(data: Mapping[str, Any]) -> Encoder:
    """The encoder that a snapshot or a data set describes; the inverse of `unitgain.serial.to_dict`.

    Raises:
        ValueError: if its kind is unknown or a field is wrong.
    """
    kind = data.get("kind", "pixels")
    if kind == "latents":
        return from_dict(LatentEncoder, data)
    if kind == "arrays":
        return from_dict(ArrayEncoder, data)
    if kind == "pixels":
        return from_dict(PixelEncoder, data)
    raise ValueError(f"unknown kind of encoder {kind!r}; known: pixels, latents, arrays")
