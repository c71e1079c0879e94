"""What a residual branch does to each pixel by itself: SiLU, and modulation by the embedding."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.operations import Activate, Modulate
from unitgain.layers import MPConv
from unitgain.ops import SILU_MAGNITUDE, mp_silu, over_pixels


class MPSiLU(nn.Module):
    """Module form of `mp_silu` (Eq. 81)."""

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Apply to `x`, any shape."""
        return mp_silu(x)

    def operation(self) -> Activate:
        """What it does, for backends."""
        return Activate(1 / SILU_MAGNITUDE)


class Modulation(nn.Module):
    """Scale each channel by `1 + gain * linear(embedding)`; the gain starts at 0 (Fig. 22, Eq. 104).

    Args:
        channels: of the features.
        emb_channels: of the embedding.
        gained: whether there is a learned gain; it is 1 otherwise (Fig. 21).
    """

    def __init__(self, channels: int, emb_channels: int, gained: bool = True) -> None:
        super().__init__()
        self.linear = MPConv(emb_channels, channels)
        self.gain = nn.Parameter(torch.zeros(())) if gained else None

    def forward(self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c *size"]:
        """Modulate `x` by `emb`; the linear layer runs in float32, the product in the dtype of `x`."""
        return x * over_pixels(self.scale(emb), x).to(x.dtype)

    def scale(self, emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """Factor of each channel, float32."""
        return self.operation().scale(emb)

    def operation(self) -> Modulate:
        """What it does, for backends."""
        return Modulate(self.linear) if self.gain is None else Modulate(self.linear, self.gain)
