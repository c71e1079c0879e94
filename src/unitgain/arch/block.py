"""The residual block of token configs (EDM2 F and G, all of EDM2+): a main path, and a branch made of tokens."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.conditioning import cross_attentions, join_all
from unitgain.arch.conditions import Tokens
from unitgain.arch.operations import Operation, operation
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.tokens import TOKENS, Place, last_learned, steps
from unitgain.arch.values import Conditions
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import Resampling, mp_cat, mp_cat_factors, mp_sum, mp_sum_factors, normalize, resample


class PlainAttention(CosineAttention):
    """Cosine attention whose branch is added to its input as it is (Figs. 18-21)."""

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Attend over all pixels of `x` and add to `x`."""
        return x + self.attend(x)

    @property
    def shares(self) -> tuple[float, float]:
        """Factors of its input and of what it attends to, in their sum."""
        return 1.0, 1.0


@dataclass(frozen=True)
class Functions:
    """The functions without weights that a token network is made of, and the parts that depend on them.

    Attributes:
        attention: module of self-attention, from channels, those per head, and its share.
        shares: factors of main path and branch in their sum, from the share of the branch.
        add: main path and branch to their sum; the share of the branch last.
        join_shares: factors of features and skip connection, from their channels and the share of the skip.
        join: features and skip connection to the decoder's input; the share of the skip last.
    """

    attention: Callable[..., nn.Module]
    shares: Callable[[float], tuple[float, float]]
    add: Callable[[Tensor, Tensor, float], Tensor]
    join_shares: Callable[[int, int, float], tuple[float, float]]
    join: Callable[[Tensor, Tensor, float], Tensor]


def _plain_sum(main: Tensor, branch: Tensor, t: float) -> Tensor:
    return main + branch


def plain_join(x: Tensor, skip: Tensor, t: float = 0.5) -> Tensor:
    """Concatenation along the channels, as it is; `t` is there for the place it takes and has no effect."""
    return torch.cat([x, skip], dim=1)


MAGNITUDE_PRESERVING = Functions(
    attention=CosineAttention,
    shares=mp_sum_factors,
    add=mp_sum,
    join_shares=mp_cat_factors,
    join=mp_cat,
)
PLAIN = Functions(
    attention=PlainAttention,
    shares=lambda t: (1.0, 1.0),
    add=_plain_sum,
    join_shares=lambda x, skip, t: (1.0, 1.0),
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
        self.conditioned: set[str] = set()  # names of the modules that look at the embedding
        last = last_learned(tokens)
        for position, step in enumerate(steps(tokens, in_channels, out_channels, spec.expansion)):
            if spec.dropout and position == last:
                self._append("dropout", nn.Dropout(spec.dropout))
            token = TOKENS[step.token]
            preserving = functions(spec) is MAGNITUDE_PRESERVING
            kernel = (spec.kernel,) * spec.dims
            place = Place(step.in_channels, step.out_channels, kernel, spec.emb_channels, preserving)
            self._append(token.name, token.make(place), token.conditioned)

    def _append(self, name: str, module: nn.Module, conditioned: bool = False) -> None:
        name += str(sum(other.rstrip("0123456789") == name for other in self._modules))
        self.add_module(name, module)
        if conditioned:
            self.conditioned.add(name)

    def forward(self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 *size"]:
        """Run the tokens in order; some, as modulation, look at `emb`."""
        for name, module in self.named_children():
            x = module(x, emb) if name in self.conditioned else module(x)
        return x

    def operations(self) -> list[Operation]:
        """What the tokens do, for backends."""
        return [operation(module, name in self.conditioned) for name, module in self.named_children()]


class Block(nn.Module, ABC):
    """Residual block: resample, branch, sum, optional attention, clamp (Figs. 21 and 22).

    Args:
        spec: the network it belongs to.
        in_channels: of the input; in the decoder this counts the concatenated skip connection.
        out_channels: of the output.
        mode: "keep", or "down" / "up" to change the resolution first.
        attention: whether self-attention follows the sum.
        sequences: conditions that are attended to after that.

    The 1x1 convolution `shortcut` is there when the channels change. Subclasses say where it goes.

    Attributes:
        normalizes: whether pixels of the main path are normalized, which the branch then leaves from.
    """

    normalizes = False

    def __init__(
        self,
        spec: NetworkSpec,
        in_channels: int,
        out_channels: int,
        mode: Resampling = "keep",
        attention: bool = False,
        sequences: tuple[Tokens, ...] = (),
    ) -> None:
        super().__init__()
        self.mode: Resampling = mode
        self.out_channels = out_channels
        self.res_balance = spec.res_balance
        self.clip_act = math.inf if spec.clip_act is None else spec.clip_act
        self.shares = functions(spec).shares(spec.res_balance)
        self.add = functions(spec).add
        same, dims = in_channels == out_channels, spec.dims
        self.shortcut = nn.Identity() if same else MPConv(in_channels, out_channels, (1,) * dims)
        # Of a main path that is normalized the branch leaves after that has got its output channels.
        branch = (spec.tokens, out_channels) if self.normalizes else (spec.decoder_tokens, in_channels)
        self.branch = Branch(spec, *branch, out_channels)
        self.attention = (
            functions(spec).attention(out_channels, spec.channels_per_head, spec.attn_balance, dims=dims)
            if attention
            else nn.Identity()
        )
        self.cross = cross_attentions(spec, sequences, out_channels)

    @abstractmethod
    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch, of equal shape."""

    def forward(
        self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"], conditions: Conditions | None = None
    ) -> Float[Tensor, "n c2 *size2"]:
        """Features `[N, C_out, H', W']` in the dtype of `x`; `emb` is `[N, C_emb]`, float32."""
        main, branch = self.paths(resample(x, self.mode), emb)
        x = self.attention(self.add(main, branch, self.res_balance))
        x = x if conditions is None else join_all(self.cross, x, conditions)
        return x if math.isinf(self.clip_act) else x.clamp(-self.clip_act, self.clip_act)


class EncoderBlock(Block):
    """Block whose main path goes through `shortcut` and pixel norm before the branch leaves it."""

    normalizes = True

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        main = normalize(self.shortcut(x), dim=1)
        return main, self.branch(main, emb)


class DecoderBlock(Block):
    """Block whose branch sees the whole input while the main path goes through `shortcut`."""

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        return self.shortcut(x), self.branch(x, emb)
