"""The residual block of token rungs (EDM2 F and G, all of EDM2+): a main path, and a branch made of tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.spec import NetworkSpec
from unitgain.arch.tokens import CONVOLUTIONS, Step, steps
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import Resampling, mp_cat, mp_silu, mp_sum, normalize, resample


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
        return x * self.scale(emb)[:, :, None, None].to(x.dtype)

    def scale(self, emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """Factor of each channel, float32."""
        return self.linear(emb, gain=self.gain) + 1


class UngainedModulation(nn.Module):
    """Scale each channel by `1 + linear(embedding)`, without a learned gain (Fig. 21)."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.linear = MPConv(emb_channels, channels)

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c h w"]:
        """Modulate `x` by `emb`; the linear layer runs in float32, the product in the dtype of `x`."""
        return x * self.scale(emb)[:, :, None, None].to(x.dtype)

    def scale(self, emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """Factor of each channel, float32."""
        return self.linear(emb) + 1


class PlainAttention(CosineAttention):
    """Cosine attention whose branch is added to its input as it is (Figs. 18-21)."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend over the H x W pixels of `x` and add to `x`."""
        return x + self.attend(x)


@dataclass(frozen=True)
class Functions:
    """The functions without weights that a token network is made of, and the parts that depend on them.

    Attributes:
        silu: module of the nonlinearity.
        modulation: module of the token m.
        attention: module of self-attention.
        add: main path and branch to their sum; the share of the branch last.
        join: features and skip connection to the decoder's input; the share of the skip last.
    """

    silu: Callable[[], nn.Module]
    modulation: Callable[[int, int], nn.Module]
    attention: Callable[[int, int, float], nn.Module]
    add: Callable[[Tensor, Tensor, float], Tensor]
    join: Callable[[Tensor, Tensor, float], Tensor]


def _mp_join(x: Tensor, skip: Tensor, t: float) -> Tensor:
    return mp_cat(x, skip, t=t)


def _plain_sum(main: Tensor, branch: Tensor, t: float) -> Tensor:
    return main + branch


def plain_join(x: Tensor, skip: Tensor, t: float = 0.5) -> Tensor:
    """Concatenation along the channels, as it is; `t` is there for the place it takes and has no effect."""
    return torch.cat([x, skip], dim=1)


MAGNITUDE_PRESERVING = Functions(
    silu=MPSiLU,
    modulation=Modulation,
    attention=CosineAttention,
    add=mp_sum,
    join=_mp_join,
)
PLAIN = Functions(
    silu=nn.SiLU,
    modulation=UngainedModulation,
    attention=PlainAttention,
    add=_plain_sum,
    join=plain_join,
)


def functions(spec: NetworkSpec) -> Functions:
    """The functions of the network's design."""
    return PLAIN if spec.design == "plain" else MAGNITUDE_PRESERVING


class Branch(nn.Sequential):
    """Residual branch: one module per token, named after what it does (`silu0`, `conv0`, `modulation0`, ...).

    Args:
        spec: the network it belongs to.
        tokens: its sequence.
        in_channels: channels that it starts with.
        out_channels: of the block.
    """

    def __init__(self, spec: NetworkSpec, tokens: tuple[str, ...], in_channels: int, out_channels: int) -> None:
        super().__init__()
        last = max(position for position, token in enumerate(tokens) if token in CONVOLUTIONS)
        for position, step in enumerate(steps(tokens, in_channels, out_channels, spec.expansion)):
            if spec.dropout and position == last:
                self._append("dropout", nn.Dropout(spec.dropout))
            self._append(*_layer(spec, step))

    def _append(self, name: str, module: nn.Module) -> None:
        index = sum(other.startswith(name) for other in self._modules)
        self.add_module(f"{name}{index}", module)

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h w"]:
        """Run the tokens in order; modulation is the one that looks at `emb`."""
        for module in self:
            x = module(x, emb) if isinstance(module, Modulation | UngainedModulation) else module(x)
        return x


def _layer(spec: NetworkSpec, step: Step) -> tuple[str, nn.Module]:
    width, next_width = step.in_channels, step.out_channels
    if step.token == "s":
        return "silu", functions(spec).silu()
    if step.token == "m":
        return "modulation", functions(spec).modulation(width, spec.emb_channels)
    if step.token == "d":
        return "depthwise", MPConv(width, width, (spec.kernel, spec.kernel), groups=width)
    if step.token == "E":
        return "expand", MPConv(width, next_width, (1, 1))
    if step.token == "P":
        return "project", MPConv(width, next_width, (1, 1))
    return "conv", MPConv(width, next_width, (3, 3))


class Block(nn.Module):
    """Residual block: resample, branch, sum, optional attention, clamp (Figs. 21 and 22).

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
        self.clip_act = math.inf if spec.clip_act is None else spec.clip_act
        self.add = functions(spec).add
        self.shortcut = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else nn.Identity()
        self.branch = self.make_branch(spec, in_channels, out_channels)
        self.attention = (
            functions(spec).attention(out_channels, spec.channels_per_head, spec.attn_balance)
            if attention
            else nn.Identity()
        )

    @staticmethod
    def make_branch(spec: NetworkSpec, in_channels: int, out_channels: int) -> Branch:
        """The residual branch of a block with these channels."""
        raise NotImplementedError

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch, of equal shape."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features `[N, C_out, H', W']` in the dtype of `x`; `emb` is `[N, C_emb]`, float32."""
        main, branch = self.paths(resample(x, self.mode), emb)
        x = self.attention(self.add(main, branch, self.res_balance))
        return x if math.isinf(self.clip_act) else x.clamp(-self.clip_act, self.clip_act)


class EncoderBlock(Block):
    """Block whose main path goes through `shortcut` and pixel norm before the branch leaves it."""

    @staticmethod
    def make_branch(spec: NetworkSpec, in_channels: int, out_channels: int) -> Branch:
        """The branch leaves after the main path has got its output channels."""
        return Branch(spec, spec.tokens, out_channels, out_channels)

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        main = normalize(self.shortcut(x), dim=1)
        return main, self.branch(main, emb)


class DecoderBlock(Block):
    """Block whose branch sees the whole input while the main path goes through `shortcut`."""

    @staticmethod
    def make_branch(spec: NetworkSpec, in_channels: int, out_channels: int) -> Branch:
        """The branch leaves before the main path loses its extra channels."""
        return Branch(spec, spec.decoder_tokens, in_channels, out_channels)

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        return self.shortcut(x), self.branch(x, emb)
