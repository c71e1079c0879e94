"""What a network is: a frozen description, complete and checked, that travels as JSON."""

import dataclasses
from dataclasses import dataclass

# Tokens of a residual branch; `unitgain.arch.block` says what each builds.
TOKENS = {
    "s": "magnitude-preserving SiLU",
    "c": "3x3 convolution to the block's output channels",
    "m": "modulation by the embedding",
}


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A U-Net of EDM2's rung G (Fig. 22), at any size.

    Args:
        resolution: height and width of the images, in pixels; divisible by 2 at each level but the last.
        channels: channels of the images.
        label_dim: number of classes; 0 for an unconditional network.
        model_channels: base width; 192 for EDM2-S.
        channel_mult: width of each level, from the finest, as a multiple of the base.
        num_blocks: residual blocks per level in the encoder; the decoder has one more.
        attn_resolutions: resolutions whose blocks end with self-attention; the first block of the decoder always does.
        channels_per_head: of self-attention.
        branch: residual branch as tokens, separated by spaces: s (SiLU), c (3x3 convolution), m (modulation).
        dropout: probability, before the last convolution of the branch, in [0, 1).
        label_balance: share of the label in the embedding (t of Eq. 88).
        concat_balance: share of the skip connection in the decoder's input (t of Eq. 103).
        res_balance: share of the residual branch (t of Eq. 88).
        attn_balance: share of self-attention (t of Eq. 88).
        clip_act: activations are clamped to +-clip_act at the end of each block (Appendix D.2).

    Raises:
        ValueError: if a field is out of its range, naming the field, the value and the remedy.
    """

    resolution: int
    channels: int
    label_dim: int = 0
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    branch: str = "s c m s c"
    dropout: float = 0.0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float = 256.0

    def __post_init__(self) -> None:
        for name in ("resolution", "channels", "model_channels", "num_blocks", "channels_per_head"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._require("label_dim", self.label_dim >= 0, "must be 0 (unconditional) or the number of classes")
        self._require(
            "channel_mult", self.channel_mult and min(self.channel_mult) >= 1, "needs a multiple >= 1 per level"
        )
        halvings = 2 ** (len(self.channel_mult) - 1)
        self._require(
            "resolution",
            self.resolution % halvings == 0,
            f"must be divisible by {halvings}, as channel_mult={self.channel_mult} has {len(self.channel_mult)} levels",
        )
        for resolution, width in zip(self.resolutions, self.widths, strict=True):
            attention = resolution in self.attn_resolutions or resolution == self.resolutions[-1]
            self._require(
                "channels_per_head",
                not attention or width % self.channels_per_head == 0,
                f"must divide the {width} channels of the attention at {resolution}x{resolution}",
            )
        self._require("dropout", 0 <= self.dropout < 1, "is a probability in [0, 1)")
        for name in ("label_balance", "concat_balance", "res_balance", "attn_balance"):
            self._require(name, 0 <= getattr(self, name) <= 1, "is a share in [0, 1]")
        self._require("clip_act", self.clip_act > 0, "must be positive")
        self._check_branch()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolution of each level, from the finest."""
        return tuple(self.resolution >> level for level in range(len(self.channel_mult)))

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
        """Tokens of the residual branch."""
        return tuple(self.branch.split())

    def replace(self, **changes: object) -> "NetworkSpec":
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def _check_branch(self) -> None:
        for position, token in enumerate(self.tokens):
            known = ", ".join(f"{name} ({what})" for name, what in TOKENS.items())
            self._require(
                "branch", token in TOKENS, f"has an unknown token {token!r} at position {position}; known: {known}"
            )
        self._require("branch", "c" in self.tokens, "never reaches the block's output channels: it needs a c")
        self._require(
            "branch", "m" in self.tokens, "has no modulation: without m the network ignores noise level and label"
        )

    def _require(self, name: str, holds: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"NetworkSpec.{name} = {getattr(self, name)!r}: {remedy}")
