"""Token networks (EDM2 F and G, all of EDM2+) folded."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block, functions
from unitgain.arch.conditioning import images_of, with_images
from unitgain.arch.embed import Embedding, PlainEmbedding
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.unet import MPUNet, PlainUNet
from unitgain.arch.values import Conditions, Told
from unitgain.infer.backend import Backend
from unitgain.infer.blocks import FoldedAttention, FoldedBlock
from unitgain.infer.embedding import FoldedEmbedding
from unitgain.infer.fused import FilteredConv, FusedPointwise
from unitgain.infer.layers import FoldedConv, Step, fold_weight
from unitgain.layers import MEMORY_FORMATS, MPConv
from unitgain.ops import crop, mirror


class FoldedUNet(nn.Module):
    """The whole network: `network(x, c_noise, label)`, with `label` as classes or as mixtures of them.

    Args:
        network: as trained; not changed.
        spec: of it.
        backend: runs its blocks; the embedding stays in float32.
        at_once: images that libraries get at a time where C makes convolutions, whatever is given: they sum in another
            order for more, and so an image does not depend on how many come with it, if they are a multiple of this.
            None for all.

    Attributes:
        at_once: the same, or None if C makes none but depthwise ones: then reading weights for several images gains
            little.
        skip_dtype: precision in which skip connections are kept.
    """

    def __init__(
        self, network: MPUNet | PlainUNet, spec: NetworkSpec, backend: Backend, at_once: int | None = None
    ) -> None:
        super().__init__()
        self.dtype, self.sums, self.backend = backend.dtype, backend.sums, backend
        self.multiple, self.memory_format = network.multiple, MEMORY_FORMATS[spec.dims]
        self.images = images_of(spec)
        self.embedding = FoldedEmbedding(cast(Embedding | PlainEmbedding, network.embedding), self.dtype)
        joins = _joins(network, spec)
        # Where a share is 0 nothing can be undone: features are scaled when they are joined.
        scaled = all(x > 0 and skip > 0 for x, skip in joins.values())
        self.factors = {name: (1.0, 1.0) if scaled else factors for name, factors in joins.items()}
        if not scaled:
            joins = dict.fromkeys(joins, (1.0, 1.0))
        self.enc, self.middle = self._encoder(network.enc, [skip for _, skip in reversed(joins.values())])
        self.dec = self._decoder(network.dec, {name: x for name, (x, _) in joins.items()})
        self.embedding.finish()
        gain = network.out_gain if isinstance(network, MPUNet) else 1.0
        self.out_conv = FoldedConv(fold_weight(network.out_conv, gain), 1, self.dtype)
        self.skip_dtype = self._skip_dtype()
        shared = any(isinstance(module, FilteredConv | FusedPointwise) for module in self.modules())
        self.at_once = at_once if shared else None
        for module in self.modules():
            if isinstance(module, Step | FoldedAttention | FoldedBlock | FoldedEmbedding):
                module.at_once = self.at_once

    def _encoder(self, modules: nn.ModuleDict, scales: list[float]) -> tuple[nn.ModuleDict, float]:
        """The encoder, its outputs times `scales`, in their order; and what undoes the last of these."""
        folded, scale = nn.ModuleDict(), 1.0
        for (name, module), scale_out in zip(modules.items(), scales, strict=True):
            if isinstance(module, MPConv):
                folded[name] = FoldedConv(fold_weight(module).mul_(scale_out), 1, self.dtype)
            else:
                folded[name] = self._block(name, module, scale, scale_out)
            scale = scale_out
        return folded, 1 / scale

    def _decoder(self, modules: nn.ModuleDict, scales: dict[str, float]) -> nn.ModuleDict:
        """The decoder; `scales`: what the input of a block that joins comes with, by its name."""
        names = list(modules)
        outs = [scales.get(following, 1.0) for following in [*names[1:], ""]]
        return nn.ModuleDict(
            {name: self._block(name, modules[name], 1.0, out) for name, out in zip(names, outs, strict=True)}
        )

    def _block(self, name: str, block: nn.Module, scale_in: float, scale_out: float) -> FoldedBlock:
        at = self.backend.at(math.isqrt(math.prod(_sides(name))))
        return FoldedBlock(cast(Block, block), at, self.embedding.slot, scale_in, scale_out)

    def _skip_dtype(self) -> torch.dtype:
        """A convolution rounds what it reads: where all that reads a skip connection is one, it is kept as it is read,
        if that takes less memory.
        """
        read = all(cast(FoldedBlock, self.dec[name]).shortcut is not None for name in self.factors)
        scaled = any(factors != (1.0, 1.0) for factors in self.factors.values())
        return self.dtype if read and not scaled and self.dtype.itemsize < self.sums.itemsize else self.sums

    def pack(self, spec: NetworkSpec) -> None:
        """Lay the weights of convolutions out for this processor."""
        for part in (self.enc, self.dec):
            for name, module in part.items():
                for layer in module.modules():
                    if isinstance(layer, FoldedConv):
                        layer.pack(_sides(name))
        self.out_conv.pack(spec.level_sizes[0])

    def forward(
        self,
        x: Float[Tensor, "n c *size"],
        c_noise: Float[Tensor, " n"],
        condition: Told,
    ) -> Float[Tensor, "n c *size"]:
        """Raw output F `[N, C, *size]` in the dtype of `x`; padded inside as `UNet` is."""
        size = x.shape[2:]
        scales = self.embedding(c_noise, condition)
        conditions = condition if isinstance(condition, Conditions) else None
        x = with_images(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), self.images, conditions)
        x = mirror(x, self.multiple).contiguous(memory_format=self.memory_format)
        told = {} if conditions is None else {"conditions": conditions}
        skips: list[Tensor] = []
        for name, module in self.enc.items():
            x = self.backend.convert(module(x), self.sums) if name.endswith("_conv") else module(x, scales, **told)
            skips.append(self.backend.convert(x, self.skip_dtype))
        x = x * self.middle if self.middle != 1 else x
        for name, block in self.dec.items():
            skip = (skips.pop(), self.factors[name]) if name in self.factors else ()
            x = block(x, scales, *skip, **told)
        return crop(self.out_conv(self.backend.convert(x, self.dtype)), size)


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


def _sides(name: str) -> tuple[int, ...]:
    """Of a block's output, which its name begins with."""
    return tuple(map(int, name.partition("_")[0].split("x")))
