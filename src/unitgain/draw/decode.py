"""From what a network draws to 8-bit pixels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.encoder import PixelEncoder
from unitgain.serial import from_dict

Decode = Callable[[Tensor], UInt8[Tensor, "n c h w"]]


def decoder(encoder: Mapping[str, Any], channels: int, device: torch.device | str = "cpu") -> Decode:
    """The function that makes 8-bit pictures on the CPU of a network's images, `[n, C, H, W]` of both.

    Args:
        encoder: how images become what the network sees, as a snapshot's header has it.
        channels: of the network.
        device: where latents are decoded.

    Raises:
        ValueError: if it cannot make pictures of them.
    """
    if channels not in (1, 3):
        raise ValueError(f"the network draws {channels} channels, which are no picture of 1 or 3")
    pixels = from_dict(PixelEncoder, encoder)
    return lambda images: pixels.decode(images).cpu()
