"""The residual block of EDM2's rung G (Fig. 22): a main path, and a branch given as a sequence of tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.spec import NetworkSpec
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import Resampling, mp_silu, mp_sum, normalize, resample


class MPSiLU(nn.Module):
    """Module form of `mp_silu` (Eq. 81)."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, any shape."""
        return mp_silu(x)


class Modulation(nn.Module):
    """Scale each channel by `1 + gain * linear(embedding)`; the gain starts at 0 (Fig. 22, Eq. 104)."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.linear = MPConv(emb_channels, channels)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c h w"]:
        """Modulate `x` by `emb`; the linear layer runs in float32, the product in the dtype of `x`."""
        scale = self.linear(emb, gain=self.gain) + 1
        return x * scale[:, :, None, None].to(x.dtype)


class Branch(nn.Sequential):
    """Residual branch: one module per token, named after what it does (`silu0`, `conv0`, `modulation0`, ...)."""

    def __init__(self, spec: NetworkSpec, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels
        last_conv = max(i for i, token in enumerate(spec.tokens) if token == "c")
        for position, token in enumerate(spec.tokens):
            if token == "s":
                self._append("silu", MPSiLU())
            elif token == "m":
                self._append("modulation", Modulation(width, spec.emb_channels))
            else:
                if spec.dropout and position == last_conv:
                    self._append("dropout", nn.Dropout(spec.dropout))
                self._append("conv", MPConv(width, out_channels, (3, 3)))
                width = out_channels

    def _append(self, name: str, module: nn.Module) -> None:
        index = sum(other.startswith(name) for other in self._modules)
        self.add_module(f"{name}{index}", module)

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h w"]:
        """Run the tokens in order; modulation is the one that looks at `emb`."""
        for module in self:
            x = module(x, emb) if isinstance(module, Modulation) else module(x)
        return x


class Block(nn.Module):
    """Residual block: resample, branch, magnitude-preserving sum, optional attention, clamp (Fig. 22).

    Args:
        spec: the network it belongs to.
        in_channels: of the input; in the decoder this counts the concatenated skip connection.
        out_channels: of the output.
        mode: "keep", or "down" / "up" to change the resolution first.
        attention: whether self-attention follows the sum.

    The 1x1 convolution `shortcut` is there when the channels change. Subclasses say where it goes.
    """

    def __init__(
        self, spec: NetworkSpec, in_channels: int, out_channels: int, mode: Resampling = "keep", attention: bool = False
    ) -> None:
        super().__init__()
        self.mode: Resampling = mode
        self.res_balance = spec.res_balance
        self.clip_act = spec.clip_act
        self.shortcut = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else nn.Identity()
        self.branch = Branch(spec, self.branch_channels(in_channels, out_channels), out_channels)
        self.attention = (
            CosineAttention(out_channels, spec.channels_per_head, spec.attn_balance) if attention else nn.Identity()
        )

    @staticmethod
    def branch_channels(in_channels: int, out_channels: int) -> int:
        """Channels that the branch starts with."""
        raise NotImplementedError

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch, of equal shape."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features `[N, C_out, H', W']` in the dtype of `x`; `emb` is `[N, C_emb]`, float32."""
        main, branch = self.paths(resample(x, self.mode), emb)
        x = self.attention(mp_sum(main, branch, t=self.res_balance))
        return x.clamp(-self.clip_act, self.clip_act)


class EncoderBlock(Block):
    """Block whose main path goes through `shortcut` and pixel norm before the branch leaves it."""

    @staticmethod
    def branch_channels(in_channels: int, out_channels: int) -> int:
        """The branch leaves after the main path has got its output channels."""
        return out_channels

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        main = normalize(self.shortcut(x), dim=1)
        return main, self.branch(main, emb)


class DecoderBlock(Block):
    """Block whose branch sees the whole input while the main path goes through `shortcut`.

    Args:
        skip_channels: channels of the skip connection that the U-Net joins to the `in_channels`; 0 for none.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        in_channels: int,
        out_channels: int,
        mode: Resampling = "keep",
        attention: bool = False,
        skip_channels: int = 0,
    ) -> None:
        super().__init__(spec, in_channels + skip_channels, out_channels, mode, attention)
        self.skip_channels = skip_channels

    @staticmethod
    def branch_channels(in_channels: int, out_channels: int) -> int:
        """The branch leaves before the main path loses its extra channels."""
        return in_channels

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        return self.shortcut(x), self.branch(x, emb)
