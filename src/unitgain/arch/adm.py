"""The ADM residual block of configs A-E (EDM2, Figs. 16-20): one arrangement, three sets of parts.

The arrangement is `GrpNorm SiLU Conv GrpNorm modulation SiLU Dropout Conv`, resampling before the first convolution, a
main path that is resampled and gets a 1x1 convolution where the channels change, and self-attention after the sum.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import PlainAttention
from unitgain.arch.linear import PlainConv
from unitgain.arch.spec import NetworkSpec
from unitgain.layers import MPConv
from unitgain.ops import Resampling, from_heads, normalize, over_pixels, resample, to_heads


def groups_of(channels: int) -> int:
    """Groups of the group norms: 32, or the most that divide the channels and leave 4 or more to each."""
    most = max(min(32, channels // 4), 1)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """Group norm with learned scale and offset per channel (Fig. 16), eps 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = groups_of(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Normalize `x` in its own dtype."""
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class GroupMagnitudeNorm(nn.Module):
    """Group norm without mean, scale and offset: each group gets unit magnitude (Eq. 29)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = groups_of(channels)

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Normalize `x` in its own dtype."""
        return normalize(x.unflatten(1, (self.groups, -1)), dim=tuple(range(2, x.ndim + 1))).flatten(1, 2)


class ScaleAndShift(nn.Module):
    """Modulation of configs A and B: `norm(x) (1 + scale) + shift`, scale and shift linear in the embedding (B.1)."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.affine = PlainConv(emb_channels, 2 * channels)
        self.norm = GroupNorm(channels)

    def forward(self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c *size"]:
        """Normalize and modulate `x`."""
        scale, shift = over_pixels(self.affine(emb), x).to(x.dtype).chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x), scale + 1)


class ScaleOnly(nn.Module):
    """Modulation of configs C-E: `norm(x) (1 + scale)`, scale linear in the embedding (B.3).

    Args:
        channels: of the features.
        emb_channels: of the embedding.
        layer: makes the linear layer.
    """

    def __init__(self, channels: int, emb_channels: int, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.affine = layer(emb_channels, channels)
        self.norm = GroupMagnitudeNorm(channels)

    def forward(self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c *size"]:
        """Normalize and modulate `x`."""
        scale = self.affine(emb) + 1
        return self.norm(x) * over_pixels(scale, x).to(x.dtype)


class DotProductAttention(nn.Module):
    """Self-attention of configs A and B: group norm, dot products in float32, added to its input (B.1).

    Args:
        channels: of input and output.
        channels_per_head: must divide `channels`.
        dims: spatial dimensions of the input.

    The rows of `qkv` are ordered (q, k, v), then head, then channel of the head.
    """

    def __init__(self, channels: int, channels_per_head: int, dims: int = 2) -> None:
        super().__init__()
        self.heads = channels // channels_per_head
        self.norm = GroupNorm(channels)
        self.qkv = PlainConv(channels, 3 * channels, (1,) * dims)
        self.proj = PlainConv(channels, channels, (1,) * dims, zero=True)

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Attend over all pixels of `x` and add to `x`."""
        tokens = to_heads(self.qkv(self.norm(x)), 3, self.heads)
        q, k, v = tokens.permute(2, 0, 3, 1, 4).float().unbind(0)  # float32: dot products overflow float16
        y = F.scaled_dot_product_attention(q, k, v).to(x.dtype)  # scale 1 / sqrt(channels per head)
        return x + self.proj(from_heads(y, x.shape[2:]))


@dataclass(frozen=True)
class Parts:
    """What an ADM block is made of.

    Attributes:
        layer: makes a learned layer from input channels, output channels and kernel.
        last: makes the last convolution of a branch.
        norm: makes the norm that begins the branch.
        modulation: makes the norm and modulation between the convolutions.
        attention: makes self-attention from channels, channels per head, and spatial dimensions (`dims`).
        clamp: whether activations are clamped at the end of a block (Appendix D.2).
    """

    layer: Callable[[int, int, tuple[int, ...]], nn.Module]
    last: Callable[[int, int, tuple[int, ...]], nn.Module]
    norm: Callable[[int], nn.Module]
    modulation: Callable[[int, int], nn.Module]
    attention: Callable[..., nn.Module]
    clamp: bool = True


_unbiased = partial(PlainConv, bias=False)
PARTS = {
    "adm": Parts(
        layer=PlainConv,
        last=partial(PlainConv, zero=True),
        norm=GroupNorm,
        modulation=ScaleAndShift,
        attention=DotProductAttention,
        clamp=False,
    ),
    "streamlined": Parts(
        layer=_unbiased,
        last=_unbiased,
        norm=GroupMagnitudeNorm,
        modulation=partial(ScaleOnly, layer=_unbiased),
        attention=partial(PlainAttention, layer=_unbiased),
    ),
    "normalized": Parts(
        layer=MPConv,
        last=MPConv,
        norm=GroupMagnitudeNorm,
        modulation=partial(ScaleOnly, layer=MPConv),
        attention=PlainAttention,
    ),
}


class ADMBlock(nn.Module):
    """Residual block of configs A-E, the same in the encoder and the decoder.

    Args:
        spec: the network it belongs to.
        in_channels: of the input; in the decoder this counts the concatenated skip connection.
        out_channels: of the output.
        mode: "keep", or "down" / "up" to change the resolution.
        attention: whether self-attention follows the sum.
    """

    def __init__(
        self, spec: NetworkSpec, in_channels: int, out_channels: int, mode: Resampling = "keep", attention: bool = False
    ) -> None:
        super().__init__()
        kit, dims = PARTS[spec.design], spec.dims
        self.mode: Resampling = mode
        self.norm0 = kit.norm(in_channels)
        self.conv0 = kit.layer(in_channels, out_channels, (3,) * dims)
        self.modulation = kit.modulation(out_channels, spec.emb_channels)
        self.dropout = nn.Dropout(spec.dropout)
        self.conv1 = kit.last(out_channels, out_channels, (3,) * dims)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else kit.layer(in_channels, out_channels, (1,) * dims)
        self.attention = kit.attention(out_channels, spec.channels_per_head, dims=dims) if attention else nn.Identity()
        self.clip_act = spec.clip_act if kit.clamp and spec.clip_act is not None else math.inf

    def forward(self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 *size2"]:
        """Features `[N, C_out, H', W']` in the dtype of `x`; `emb` is `[N, C_emb]`, float32."""
        branch = self.conv0(resample(F.silu(self.norm0(x)), self.mode))
        branch = F.silu(self.modulation(branch, emb))
        branch = self.conv1(self.dropout(branch))
        x = self.attention(self.skip(resample(x, self.mode)) + branch)
        return x if math.isinf(self.clip_act) else x.clamp(-self.clip_act, self.clip_act)
