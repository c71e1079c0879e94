"""Token networks (EDM2 F and G, all of EDM2+) folded."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unitgain.arch.block import Block, functions
from unitgain.arch.embed import Embedding, PlainEmbedding
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.unet import MPUNet, PlainUNet
from unitgain.infer.backend import Backend
from unitgain.infer.blocks import FoldedAttention, FoldedBlock
from unitgain.infer.embedding import FoldedEmbedding
from unitgain.infer.fused import FilteredConv, FusedPointwise
from unitgain.infer.kernels import Kernels
from unitgain.infer.layers import Applied, FoldedConv, SiLU, folded
from unitgain.infer.passes import passes
from unitgain.layers import MPConv


class FoldedUNet(nn.Module):
    """The whole network: `network(x, c_noise, label)`, with `label` as classes or as mixtures of them.

    Args:
        network: as trained; not changed.
        spec: of it.
        dtype: to compute in; the embedding stays in float32.
        fused: whether what happens between convolutions is made in C, and depthwise and 1x1 convolutions with what is
            before and after, where that is faster.
        filtered: whether 3x3 convolutions are made by Winograd's filtering, with what comes after them.
        kernels: whether depthwise convolutions run on the Triton kernels; not with the other two.
        at_once: images that libraries get at a time where C makes convolutions, whatever is given: they sum in another
            order for more, and so an image does not depend on how many come with it, if they are a multiple of this.
            None for all.

    Attributes:
        at_once: the same, or None if C makes none but depthwise ones: then reading weights for several images gains
            little.
    """

    def __init__(
        self,
        network: MPUNet | PlainUNet,
        spec: NetworkSpec,
        dtype: torch.dtype,
        fused: bool = False,
        filtered: bool = False,
        kernels: bool = False,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(network.embedding, Embedding | PlainEmbedding)
        backend = _backend(isinstance(network, MPUNet), dtype, fused, filtered, kernels)
        self.dtype, self.sums, self.backend = dtype, backend.sums, backend
        self.embedding = FoldedEmbedding(network.embedding, dtype)
        joins = _joins(network, spec)
        self.factors = {name: (1.0, 1.0) for name in joins}
        wanted = [skip for _, skip in reversed(joins.values())]  # the encoder's outputs, in their order
        if not all(x > 0 and skip > 0 for x, skip in joins.values()):  # a share of 0: nothing can be undone
            self.factors, wanted = joins, [1.0] * len(joins)
            joins = {name: (1.0, 1.0) for name in joins}
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        scale = 1.0
        for (name, module), scale_out in zip(network.enc.items(), wanted, strict=True):
            if isinstance(module, MPConv):
                self.enc[name] = FoldedConv(folded(module).mul_(scale_out), 1, dtype)
            else:
                at = backend.at(_resolution(name))
                self.enc[name] = FoldedBlock(cast(Block, module), at, self.embedding.slot, scale, scale_out)
            scale = scale_out
        self.middle = 1 / scale
        names = list(network.dec)
        for name, following in zip(names, [*names[1:], ""], strict=True):
            scale_out = joins[following][0] if following in joins else 1.0
            block = cast(Block, network.dec[name])
            at = backend.at(_resolution(name))
            self.dec[name] = FoldedBlock(block, at, self.embedding.slot, 1.0, scale_out)
        # A convolution rounds what it reads: where all that reads a skip connection is one, it is kept as it is read,
        # if that takes less memory.
        read = all(cast(FoldedBlock, self.dec[name]).shortcut is not None for name in joins)
        scaled = any(factors != (1.0, 1.0) for factors in self.factors.values())
        self.kept = dtype if read and not scaled and dtype.itemsize < backend.sums.itemsize else backend.sums
        self.embedding.finish()
        gain = network.out_gain if isinstance(network, MPUNet) else 1.0
        self.out_conv = FoldedConv(folded(network.out_conv, gain), 1, dtype)
        shared = any(isinstance(module, FilteredConv | FusedPointwise) for module in self.modules())
        self.at_once = at_once if shared else None
        for module in self.modules():
            if isinstance(module, FoldedConv | SiLU | Applied | FoldedAttention | FoldedEmbedding):
                module.at_once = self.at_once

    def pack(self, spec: NetworkSpec) -> None:
        """Lay the weights of convolutions out for this processor."""
        for part in (self.enc, self.dec):
            for name, module in part.items():
                for layer in module.modules():
                    if isinstance(layer, FoldedConv):
                        layer.pack(_resolution(name))
        self.out_conv.pack(spec.resolution)

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        c_noise: Float[Tensor, " n"],
        label: Int[Tensor, " n"] | Float[Tensor, "n label_dim"] | None,
    ) -> Float[Tensor, "n c h w"]:
        """Raw output F `[N, C, H, W]` in the dtype of `x`."""
        scales = self.embedding(c_noise, label)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for name, module in self.enc.items():
            x = self.backend.converted(module(x), self.sums) if name.endswith("_conv") else module(x, scales)
            skips.append(self.backend.converted(x, self.kept))
        x = x * self.middle if self.middle != 1 else x
        for name, block in self.dec.items():
            joined = (skips.pop(), self.factors[name]) if name in self.factors else ()
            x = block(x, scales, *joined)
        return self.out_conv(self.backend.converted(x, self.dtype))


def _backend(preserving: bool, dtype: torch.dtype, fused: bool, filtered: bool, kernels: bool) -> Backend:
    """What runs the blocks."""
    if fused:
        return passes(dtype, preserving, filtered)
    sums = torch.float32 if dtype == torch.bfloat16 else dtype
    return Kernels(dtype, sums) if kernels else Backend(dtype, sums)


def _joins(network: MPUNet | PlainUNet, spec: NetworkSpec) -> dict[str, tuple[float, float]]:
    """Factors of features and skip connection for each decoder block that joins them, in their order."""
    skips = []
    for module in network.enc.values():
        skips.append(len(module.weight) if isinstance(module, MPConv) else cast(Block, module).out_channels)
    joins: dict[str, tuple[float, float]] = {}
    width = skips[-1]
    for name, module in network.dec.items():
        if "_block" in name:
            joins[name] = functions(spec).join_shares(width, skips.pop(), spec.concat_balance)
        width = cast(Block, module).out_channels
    return joins


def _resolution(name: str) -> int:
    """Of a block's output, which its name begins with."""
    return int(name.partition("x")[0])
