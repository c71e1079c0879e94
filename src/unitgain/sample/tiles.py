"""Evaluations that always hold the same number of images, so that an image does not depend on its neighbours."""

import functools

import torch
from torch import Tensor, nn

from unitgain.arch.values import Conditions
from unitgain.denoiser import DenoiserLike, Label, tile_size
from unitgain.guide import Guided


class Tiled(nn.Module):
    """A denoiser that evaluates exactly `tile` images at a time, the last ones filled up with repetitions.

    One with an attribute `at_once`, which may be None, gets as many tiles at a time as make so many images: it says
    that an image does not depend on how many tiles come with it.

    Args:
        denoiser: evaluated.
        tile: images per evaluation, at least 1.
    """

    def __init__(self, denoiser: DenoiserLike, tile: int) -> None:
        super().__init__()
        self.spec, self.sigma_data, self.encoder = denoiser.spec, denoiser.sigma_data, denoiser.encoder
        self.denoiser = denoiser
        self.tile = tile
        self.at_once = max((getattr(denoiser, "at_once", None) or tile) // tile, 1) * tile

    def forward(self, x: Tensor, sigma: Tensor | float, label: Label = None) -> Tensor:
        """As the denoiser's."""
        sigma = torch.as_tensor(sigma, device=x.device)
        filled = fill_tiles(len(x), self.tile, x.device)
        parts: list[Tensor] = []
        for start in range(0, len(filled), self.at_once):
            rows = filled[start : start + self.at_once]
            level = sigma.reshape(-1)[rows] if sigma.numel() > 1 else sigma
            if isinstance(label, Conditions):  # of the same rows the same ones at each noise level
                key = ("rows", self.tile, self.at_once, len(x), start)
                told = label.once(key, functools.partial(label.__getitem__, rows))
            else:
                told = None if label is None else label[rows]
            parts.append(self.denoiser(x[rows], level, told))
        return torch.cat(parts)[: len(x)]


def fill_tiles(count: int, tile: int, device: torch.device | str = "cpu") -> Tensor:
    """Numbers of `count` rows, from the first again until they fill tiles: a row does not depend on how many there are.

    Libraries sum in another order at another batch size.
    """
    return torch.arange(count + -count % tile, device=device) % count


def tiled(denoiser: DenoiserLike, device: torch.device | str) -> DenoiserLike:
    """The denoiser with each of its networks evaluated in tiles of its own size.

    Of a guided one both networks are: with weight 1, the images are then those of its main network alone, to the bit,
    however large the guide.
    """
    if isinstance(denoiser, Guided):
        guide = denoiser.guide
        return denoiser.with_networks(tiled(denoiser.main, device), None if guide is None else tiled(guide, device))
    return Tiled(denoiser, tile_size(denoiser, device))
