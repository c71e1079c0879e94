"""The U-Net around the residual blocks (EDM2, Fig. 22)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block, DecoderBlock, EncoderBlock
from unitgain.arch.spec import NetworkSpec
from unitgain.layers import MPConv, MPFourier
from unitgain.ops import mp_cat, mp_silu, mp_sum


def build(spec: NetworkSpec) -> nn.Module:
    """The raw network F of Eq. 4, freshly initialized: `network(x, c_noise, label) -> F`."""
    return UNet(spec)


class Embedding(nn.Module):
    """Noise level and label to one vector: Fourier features, linear, sum with the label's linear, SiLU (Fig. 22).

    Runs in float32 throughout (Appendix D.2).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.label_balance = spec.label_balance
        self.fourier = MPFourier(spec.widths[0])
        self.noise = MPConv(spec.widths[0], spec.emb_channels)
        self.label = MPConv(spec.label_dim, spec.emb_channels) if spec.label_dim else None

    def forward(self, c_noise: Float[Tensor, " n"], label: Float[Tensor, "n label_dim"] | None) -> Float[Tensor, "n e"]:
        """Embedding `[N, C_emb]`; `label` is one-hot, or zeros where it is left out."""
        emb = self.noise(self.fourier(c_noise))
        if self.label is not None:
            classes = self.label.in_channels
            one_hot = emb.new_zeros(len(emb), classes) if label is None else label.float()
            scaled = one_hot * math.sqrt(classes)  # unit magnitude (Appendix B.3)
            emb = mp_sum(emb, self.label(scaled), t=self.label_balance)
        return mp_silu(emb)


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and the embedding that modulates both.

    Blocks are named `<resolution>x<resolution>_<role>` in `enc` and `dec`; the order of their entries is the order in
    which they run.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.concat_balance = spec.concat_balance
        self.embedding = Embedding(spec)
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        skips = self._build_encoder(spec)
        self._build_decoder(spec, skips)
        self.out_conv = MPConv(spec.widths[0], spec.channels, (3, 3))
        self.out_gain = nn.Parameter(torch.zeros(()))

    def _build_encoder(self, spec: NetworkSpec) -> list[int]:
        width = spec.channels + 1  # a channel of ones lets the network sense the scale of its input (Appendix B.3)
        skips = []
        for level, (resolution, next_width) in enumerate(zip(spec.resolutions, spec.widths, strict=True)):
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(width, next_width, (3, 3))
                width = next_width
            else:
                self.enc[f"{name}_down"] = EncoderBlock(spec, width, width, mode="down")
            skips.append(width)
            for index in range(spec.num_blocks):
                attention = resolution in spec.attn_resolutions
                self.enc[f"{name}_block{index}"] = EncoderBlock(spec, width, next_width, attention=attention)
                width = next_width
                skips.append(width)
        return skips

    def _build_decoder(self, spec: NetworkSpec, skips: list[int]) -> None:
        width = spec.widths[-1]
        for level in reversed(range(len(spec.widths))):
            resolution, next_width = spec.resolutions[level], spec.widths[level]
            name = f"{resolution}x{resolution}"
            attention = resolution in spec.attn_resolutions
            if level == len(spec.widths) - 1:
                self.dec[f"{name}_in0"] = DecoderBlock(spec, width, width, attention=True)
                self.dec[f"{name}_in1"] = DecoderBlock(spec, width, width)
            else:
                self.dec[f"{name}_up"] = DecoderBlock(spec, width, width, mode="up")
            for index in range(spec.num_blocks + 1):
                block = DecoderBlock(spec, width, next_width, attention=attention, skip_channels=skips.pop())
                self.dec[f"{name}_block{index}"] = block
                width = next_width

    def forward(
        self, x: Float[Tensor, "n c h w"], c_noise: Float[Tensor, " n"], label: Float[Tensor, "n label_dim"] | None
    ) -> Float[Tensor, "n c h w"]:
        """Raw output F `[N, C, H, W]` in the dtype of `x`, which sets the precision of everything but the embedding."""
        emb = self.embedding(c_noise, label)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).contiguous(memory_format=torch.channels_last)
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        for block in self.dec.values():
            if block.skip_channels:
                x = mp_cat(x, skips.pop(), t=self.concat_balance)
            x = block(x, emb)
        return self.out_conv(x, gain=self.out_gain)
