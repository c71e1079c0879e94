"""From 8-bit pixels to what the network sees, and back."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


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
        if not self.std > 0 or self.kind != "pixels":
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

    def encode(self, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Float32 images of the shape of `pixels`."""
        return (pixels.float() - self.mean) * (0.5 / self.std)

    def decode(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """8-bit pixels, rounded to the nearest and clipped."""
        return (images.float() * (self.std / 0.5) + (self.mean + 0.5)).floor().clamp(0, 255).to(torch.uint8)
