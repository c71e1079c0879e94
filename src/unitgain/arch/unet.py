"""The U-Net around the residual blocks: one macro-structure for every config (EDM2, Figs. 2 and 16-22)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.adm import PARTS, ADMBlock
from unitgain.arch.block import DecoderBlock, EncoderBlock, functions, plain_join
from unitgain.arch.conditioning import images_of, with_images
from unitgain.arch.embed import DeepEmbedding, Embedding, PlainEmbedding
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.values import Conditions, Told
from unitgain.layers import MEMORY_FORMATS, MPConv
from unitgain.ops import crop, mirror, without_autocast


def build(spec: NetworkSpec) -> nn.Module:
    """The raw network F of Eq. 4, freshly initialized: `network(x, c_noise, label) -> F`."""
    if spec.design == "magnitude-preserving":
        return MPUNet(spec)
    if spec.design == "plain":
        return PlainUNet(spec)
    return ADMUNet(spec)


class UNet(nn.Module, ABC):
    """Encoder and decoder with skip connections, and the embedding that modulates both.

    Blocks are named `<sides>_<role>`, such as `48x64_block0`, in `enc` and `dec`; the order of their entries is the
    order in which they run. Subclasses say what the parts are.
    """

    embedding: nn.Module
    encoder_block: Callable[..., nn.Module] = EncoderBlock
    decoder_block: Callable[..., nn.Module] = DecoderBlock

    def _build(self, spec: NetworkSpec, in_conv: nn.Module) -> None:
        self.multiple = spec.multiple
        self.memory_format = MEMORY_FORMATS[spec.dims]
        self.sequences = bool(spec.sequences)
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        skips = self._build_encoder(spec, in_conv)
        self._build_decoder(spec, skips)

    def _build_encoder(self, spec: NetworkSpec, in_conv: nn.Module) -> list[int]:
        width = spec.widths[0]
        skips = []
        for level, (name, next_width) in enumerate(zip(spec.level_names, spec.widths, strict=True)):
            if level == 0:
                self.enc[f"{name}_conv"] = in_conv
            else:
                self.enc[f"{name}_down"] = self.encoder_block(spec, width, width, mode="down")
            skips.append(width)
            for index in range(spec.num_blocks):
                at = self._attention(spec, level)
                self.enc[f"{name}_block{index}"] = self.encoder_block(spec, width, next_width, **at)
                width = next_width
                skips.append(width)
        return skips

    def _build_decoder(self, spec: NetworkSpec, skips: list[int]) -> None:
        width = spec.widths[-1]
        for level in reversed(range(len(spec.widths))):
            name, next_width = spec.level_names[level], spec.widths[level]
            at = self._attention(spec, level)
            if level == len(spec.widths) - 1:
                self.dec[f"{name}_in0"] = self.decoder_block(spec, width, width, **self._attention(spec, level, True))
                self.dec[f"{name}_in1"] = self.decoder_block(spec, width, width)
            else:
                self.dec[f"{name}_up"] = self.decoder_block(spec, width, width, mode="up")
            for index in range(spec.num_blocks + 1):
                block = self.decoder_block(spec, width + skips.pop(), next_width, **at)
                self.dec[f"{name}_block{index}"] = block
                width = next_width

    @staticmethod
    def _attention(spec: NetworkSpec, level: int, always: bool = False) -> dict[str, Any]:
        """What blocks of a level attend to, as settings of a block."""
        attention = always or spec.resolutions[level] in spec.attn_resolutions
        sequences = spec.attended(level, attention)
        return {"attention": attention} | ({"sequences": sequences} if sequences else {})

    def widen(self, x: Tensor, condition: Told) -> Tensor:
        """The input image as the first convolution takes it."""
        # A channel of ones lets the network sense the scale of its input, as there are no biases (Appendix B.3).
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Features and skip connection to the input of a decoder block."""
        return plain_join(x, skip)

    @abstractmethod
    def read(self, x: Tensor) -> Tensor:
        """The last features to the raw output."""

    def forward(
        self, x: Float[Tensor, "n c *size"], c_noise: Float[Tensor, " n"], condition: Told
    ) -> Float[Tensor, "n c *size"]:
        """Raw output F `[N, C, *size]` in the dtype of `x`, which sets the precision of all but the embedding.

        The condition is as `Denoiser.condition` makes it: the label, or `Conditions` where the network has others.
        Sides that do not halve at each level are padded here, and nobody else sees that.
        """
        size = x.shape[2:]
        with without_autocast(x.device):
            emb = self.embedding(c_noise, condition)
        x = mirror(self.widen(x, condition), self.multiple).contiguous(memory_format=self.memory_format)
        told = (emb, condition) if self.sequences else (emb,)
        skips = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, *told)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = self.join(x, skips.pop())
            x = block(x, *told)
        return crop(self.read(x), size)


class MPUNet(UNet):
    """Config G and EDM2+: every function preserves magnitudes, and a learned gain ends the network (Fig. 22)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.concat_balance = spec.concat_balance
        self.mp_join = functions(spec).join
        self.embedding = Embedding(spec)
        kernel = (3,) * spec.dims
        self.images = images_of(spec)
        widened = spec.channels + 1 + sum(image.channels + 1 for image in self.images)
        self._build(spec, MPConv(widened, spec.widths[0], kernel))
        self.out_conv = MPConv(spec.widths[0], spec.channels, kernel)
        self.out_gain = nn.Parameter(torch.zeros(()))

    def widen(self, x: Tensor, condition: Told) -> Tensor:
        """With a channel of ones, and the images that it is conditioned on."""
        conditions = condition if isinstance(condition, Conditions) else None
        return with_images(super().widen(x, condition), self.images, conditions)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Magnitude-preserving concatenation (Eq. 103)."""
        return self.mp_join(x, skip, self.concat_balance)

    def read(self, x: Tensor) -> Tensor:
        """Convolution with the learned gain."""
        return self.out_conv(x, gain=self.out_gain)


class PlainUNet(UNet):
    """Config F: token blocks with plain functions; a convolution alone ends the network (Fig. 21)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.embedding = PlainEmbedding(spec)
        kernel = (3,) * spec.dims
        self._build(spec, MPConv(spec.channels + 1, spec.widths[0], kernel))
        self.out_conv = MPConv(spec.widths[0], spec.channels, kernel)

    def read(self, x: Tensor) -> Tensor:
        """Convolution."""
        return self.out_conv(x)


class ADMUNet(UNet):
    """Configs A-E: ADM blocks; group norm, SiLU and a convolution end the network (Figs. 16-20).

    In A and B biases make a channel of ones unnecessary, and the last weights start at zero: D = c_skip x (B.1).
    """

    encoder_block = ADMBlock
    decoder_block = ADMBlock

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        kit, kernel = PARTS[spec.design], (3,) * spec.dims
        self.biased = spec.design == "adm"
        self.embedding = DeepEmbedding(spec)
        self._build(spec, kit.layer(spec.channels + (not self.biased), spec.widths[0], kernel))
        self.out_norm = kit.norm(spec.widths[0])
        self.out_conv = kit.last(spec.widths[0], spec.channels, kernel)

    def widen(self, x: Tensor, condition: Told) -> Tensor:
        """With a channel of ones, but in A and B."""
        return x if self.biased else super().widen(x, condition)

    def read(self, x: Tensor) -> Tensor:
        """Norm, SiLU, convolution."""
        return self.out_conv(F.silu(self.out_norm(x)))
