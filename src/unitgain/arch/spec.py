"""What a network is: a frozen description, complete and checked, that travels as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tyro.conf import Suppress, arg  # how a network is read from a command line

from unitgain.arch.conditions import Condition, Tokens, check_conditions
from unitgain.arch.tokens import check_tokens
from unitgain.serial import UNSAID
from unitgain.size import MOST_SIDES, SIZE_TEXT, Size, show_size, sides_of, size_of

# What the blocks are made of, and with it what each config of EDM2 changes in the structure (Appendix B).
Design = Literal[
    "adm",  # A, B: biases, group norm with learned scale and offset, positional features
    "streamlined",  # C: no biases, uniform init, cosine attention, Fourier features
    "normalized",  # D, E: weights normalized on use
    "plain",  # F: token blocks, pixel norm, plain SiLU, sum and concatenation
    "magnitude-preserving",  # G and EDM2+: token blocks whose every function preserves magnitudes, learned gains
]
# Far past any network, so that a description from elsewhere is refused before memory is taken for what it describes.
MOST = {
    "channels": 2**16,
    "model_channels": 2**16,
    "num_blocks": 256,
    "channels_per_head": 2**16,
    "expansion": 64,
}
MOST_SIDE = 2**16
MOST_CLASSES = 2**24
MOST_LEVELS = 16
TOKEN_DESIGNS = ("plain", "magnitude-preserving")


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A U-Net of any config of EDM2 (Figs. 16-22) or EDM2+ (Fig. 3), at any size.

    Args:
        resolution: of the data: a number for square images, else their one to three sides, height before width. Where a
            side does not halve at each level but the last, the network pads its input and crops its output.
        channels: channels of the images.
        label_dim: number of classes; 0 for an unconditional network.
        model_channels: base width; 192 for EDM2-S.
        channel_mult: width of each level, from the finest, as a multiple of the base.
        num_blocks: residual blocks per level in the encoder; the decoder has one more.
        attn_resolutions: resolutions whose blocks end with self-attention; the first block of the decoder always does.
            That of a level is its longest side.
        channels_per_head: of self-attention.
        design: what the blocks are made of: "adm" (configs A and B), "streamlined" (C), "normalized" (D and E), "plain"
            (F) or "magnitude-preserving" (G and EDM2+). The last two read `branch`; the others are the ADM block.
        branch: residual branch as tokens, separated by spaces: s (SiLU), c (3x3 convolution), d (depthwise
            convolution), E (1x1 convolution that expands), P (1x1 convolution that projects), m (modulation).
        decoder_branch: the same for the decoder's blocks, where they differ; empty for `branch`.
        expansion: channels after E, as a multiple of the block's output channels.
        kernel: size of depthwise convolutions in each dimension, odd.
        dropout: probability, before the last convolution of the branch, in [0, 1).
        label_balance: share of the label in the embedding (t of Eq. 88).
        concat_balance: share of the skip connection in the decoder's input (t of Eq. 103).
        res_balance: share of the residual branch (t of Eq. 88).
        attn_balance: share of self-attention (t of Eq. 88).
        clip_act: activations are clamped to +-clip_act at the end of each block, but in "adm" (Appendix D.2); None for
            no clamp.
        conditions: what the network is told beside the noise level and the class (`unitgain.arch.conditions`), for
            "magnitude-preserving" networks.

    Raises:
        ValueError: if a field is out of its range, naming the field, the value and the remedy.
    """

    resolution: Annotated[Size, SIZE_TEXT]
    channels: int
    label_dim: int = 0
    model_channels: Annotated[int, arg(aliases=["--width"])] = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    design: Design = "magnitude-preserving"
    branch: str = "s c m s c"
    decoder_branch: str = ""
    expansion: int = 4
    kernel: int = 3
    dropout: float = 0.0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256.0
    conditions: Suppress[tuple[Condition, ...]] = dataclasses.field(default=(), metadata=UNSAID)

    def __post_init__(self) -> None:
        self._check_size()
        for name, most in MOST.items():
            self._require(name, 1 <= getattr(self, name) <= most, f"must be 1 to {most}")
        self._require(
            "label_dim",
            0 <= self.label_dim <= MOST_CLASSES,
            f"must be 0 (unconditional) or up to {MOST_CLASSES} classes",
        )
        self._require("channel_mult", len(self.channel_mult) <= MOST_LEVELS, f"has more than {MOST_LEVELS} levels")
        self._require(
            "channel_mult", self.channel_mult and min(self.channel_mult) >= 1, "needs a multiple >= 1 per level"
        )
        self._require(
            "resolution",
            2 * min(self.size) >= self.multiple,
            f"would be padded to more than twice its size for the {len(self.channel_mult)} levels of channel_mult: "
            "take fewer",
        )
        for name, resolution, width in zip(self.level_names, self.resolutions, self.widths, strict=True):
            attention = name == self.level_names[-1] or resolution in self.attn_resolutions
            attention |= any(resolution in condition.resolutions for condition in self.sequences)
            self._require(
                "channels_per_head",
                not attention or width % self.channels_per_head == 0,
                f"must divide the {width} channels of the attention at {name}",
            )
        self._require("dropout", 0 <= self.dropout < 1, "is a probability in [0, 1)")
        for name in ("label_balance", "concat_balance", "res_balance", "attn_balance"):
            self._require(name, 0 <= getattr(self, name) <= 1, "is a share in [0, 1]")
        self._require("clip_act", self.clip_act is None or self.clip_act > 0, "must be positive, or None for no clamp")
        self._require("kernel", self.kernel >= 1 and self.kernel % 2 == 1, "must be odd, such as 3, 5 or 7")
        self._require("design", self.design in get_args(Design), f"must be one of {', '.join(get_args(Design))}")
        self._check_branches()
        self._check_conditions()

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of the data, one to three: height and width of images."""
        return sides_of(self.resolution)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions."""
        return len(self.size)

    @property
    def multiple(self) -> int:
        """What each side is padded to a multiple of, so that it halves at each level but the last."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def level_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Sides of each level, from the finest, which is as large as the padded data."""
        padded = tuple(side + -side % self.multiple for side in self.size)
        return tuple(tuple(side >> level for side in padded) for level in range(len(self.channel_mult)))

    @property
    def level_names(self) -> tuple[str, ...]:
        """Each level in names of blocks, from the finest: "64x64"."""
        return tuple(map(show_size, self.level_sizes))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolution of each level, from the finest: its longest side."""
        return tuple(map(max, self.level_sizes))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the finest."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def emb_channels(self) -> int:
        """Channels of the embedding: those of the widest level."""
        return max(self.widths)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens of the encoder's residual branch."""
        return tuple(self.branch.split())

    @property
    def decoder_tokens(self) -> tuple[str, ...]:
        """Tokens of the decoder's residual branch."""
        return tuple(self.decoder_branch.split()) or self.tokens

    @property
    def sequences(self) -> tuple[Tokens, ...]:
        """The conditions that are sequences, which blocks attend to."""
        return tuple(condition for condition in self.conditions if isinstance(condition, Tokens))

    def attended(self, level: int, attention: bool) -> tuple[Tokens, ...]:
        """The sequences that blocks of a level attend to, if they have self-attention or not."""
        here = self.resolutions[level]
        return tuple(one for one in self.sequences if (here in one.resolutions if one.resolutions else attention))

    def replace(self, **changes: object) -> "NetworkSpec":
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def _check_size(self) -> None:
        object.__setattr__(self, "resolution", size_of(self.resolution))
        self._require(
            "resolution",
            0 < len(self.size) <= MOST_SIDES and all(1 <= side <= MOST_SIDE for side in self.size),
            f"must be 1 to {MOST_SIDE}, or one to {MOST_SIDES} such sides",
        )

    def _check_branches(self) -> None:
        in_use = "decoder_branch" if self.decoder_branch.split() else "branch"
        for name, tokens, starts_at_output in (
            ("branch", self.tokens, True),
            (in_use, self.decoder_tokens, False),
        ):
            try:
                check_tokens(tokens, starts_at_output)
            except ValueError as error:
                raise ValueError(f"NetworkSpec.{name} = {getattr(self, name)!r} {error}") from None
        if self.design not in TOKEN_DESIGNS:
            standard = self.branch == NetworkSpec.branch and not self.decoder_branch
            self._require("branch", standard, f"design={self.design!r} has the ADM block; leave it as it is")

    def _check_conditions(self) -> None:
        self._require(
            "conditions",
            not self.conditions or self.design == "magnitude-preserving",
            'go with design="magnitude-preserving" alone',
        )
        check_conditions(self.conditions)
        for condition in self.sequences:
            unknown = sorted(set(condition.resolutions) - set(self.resolutions))
            self._require(
                "conditions",
                not unknown,
                f"{condition.name!r} is attended to at {unknown}, but the levels are {list(self.resolutions)}",
            )

    def _require(self, name: str, holds: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"NetworkSpec.{name} = {repr(getattr(self, name))[:200]}: {remedy}")


def check_guide(main: NetworkSpec, guide: NetworkSpec) -> None:
    """Raise `ValueError` unless `guide` denoises what `main` does, and is told the same or less."""
    for name in ("resolution", "channels"):
        ours, theirs = getattr(main, name), getattr(guide, name)
        if ours != theirs:
            raise ValueError(
                f"the guide has {name} {theirs}, the main network {ours}: they must denoise the same images"
            )
    known = [dataclasses.replace(condition, dropout=0.0) for condition in main.conditions]
    for condition in guide.conditions:
        if dataclasses.replace(condition, dropout=0.0) not in known:
            raise ValueError(
                f"the guide has the condition {condition.to_json()}, which the main network has not: a guide has the "
                "same conditions or fewer"
            )
    if guide.label_dim not in (0, main.label_dim):
        raise ValueError(
            f"the guide knows {guide.label_dim} classes, the main network {main.label_dim}: "
            "a guide has the same classes or none"
        )
