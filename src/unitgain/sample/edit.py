"""Drawing that starts from an image, and keeps a part of it: samplers around samplers."""

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unitgain.sample.samplers import Denoise, Heun, Randn, Sampler

HEUN = Heun()


@dataclass(frozen=True, eq=False)
class FromImage(Sampler):
    """Draw from an image rather than from nothing: `x = image + sigmas[0] * noise`, and a sampler from there.

    Without a mask this is image-to-image (SDEdit, Meng et al. 2022, Section 3): the higher the first noise level, the
    less of the image is left; at the usual highest it is ordinary drawing.

    With a mask it is inpainting by replacement (Song et al. 2021, Appendix I.2): wherever the mask is not, the denoised
    image is replaced with the image, so that x is there image + sigma * noise all the way and the image itself at
    the end, exactly. The network sees what is kept through noise, and only what it has made of it so far can heed it:
    replacement leaves the new part less like the rest than the true posterior is, and too varied. `resample` mends
    that at a price (RePaint, Lugmayr et al. 2022, Algorithm 1, with jumps of one step): every step is made so often,
    noise being added back in between, and the error goes down about as one over it.

    Args:
        image: floating `[C, H, W]`, as the network sees images.
        by: the sampler that makes the steps. With `resample` it makes one at a time, and DPM-Solver++(2M), which looks
            at two, is then of first order.
        mask: bool `[H, W]`, true where the image is drawn anew; None for everywhere.
        resample: how often each step is made, at least 1; evaluations are so many times as many.

    Raises:
        ValueError: if the shapes do not fit, the mask frees nothing, or `resample` is out of range or without a mask.
    """

    name: ClassVar[str] = "from_image"

    image: Tensor
    by: Sampler = HEUN
    mask: Tensor | None = None
    resample: int = 1

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.image.shape[1:]:
            shapes = f"{tuple(self.mask.shape)}, the image {tuple(self.image.shape)}"
            raise ValueError(f"the mask has shape {shapes}: a mask is [H, W] of the image")
        if self.mask is not None and not self.mask.any():
            raise ValueError("the mask frees no pixel: there is nothing to draw")
        if self.resample < 1 or (self.resample > 1 and self.mask is None):
            raise ValueError(f"resample = {self.resample}: at least 1, and more only with a mask")

    def __call__(self, denoise: Denoise, noise: Tensor, sigmas: Tensor, randn: Randn | None = None) -> Tensor:
        """As `Sampler` says.

        Raises:
            ValueError: if the image is of another size than the noise, or there is no `randn` to resample with.
        """
        if noise.shape[1:] != self.image.shape:
            shapes = f"{tuple(self.image.shape)}, and images of {tuple(noise.shape[1:])} are drawn"
            raise ValueError(f"the image to draw from has shape {shapes}: it must be of that size")
        sigmas, image = sigmas.to(noise.device, noise.dtype), self.image.to(noise)
        noise = noise + image / sigmas[0]
        if self.mask is None:
            return self.by(denoise, noise, sigmas, randn)
        mask = self.mask.to(noise.device)

        def constrained(x: Tensor, sigma: Tensor) -> Tensor:
            return torch.where(mask, denoise(x, sigma).to(x), image)

        if self.resample == 1:
            x = self.by(constrained, noise, sigmas, randn)
        else:
            x = self._resampled(constrained, noise * sigmas[0], sigmas, randn)
        return x if sigmas[-1] > 0 else torch.where(mask, x, image)

    def evaluations(self, sigmas: Tensor) -> int:
        """As `Sampler` says."""
        if self.resample == 1:
            return self.by.evaluations(sigmas)
        return self.resample * sum(self.by.evaluations(sigmas[i : i + 2]) for i in range(len(sigmas) - 1))

    def to_json(self) -> dict[str, Any]:
        """As `Sampler` says, of the sampler that makes the steps; image and mask by their hash."""
        mask = None if self.mask is None else content_hash(self.mask)
        return {**self.by.to_json(), "image": content_hash(self.image), "mask": mask, "resample": self.resample}

    def _resampled(self, denoise: Denoise, x: Tensor, sigmas: Tensor, randn: Randn | None) -> Tensor:
        if randn is None:
            raise ValueError("resample > 1 adds fresh noise: pass randn, such as SampleGenerators(seeds).randn")
        step = self.by.one_of(len(sigmas) - 1)
        for sigma, sigma_next in itertools.pairwise(sigmas):
            levels = torch.stack([sigma, sigma_next])
            for turn in range(self.resample):
                if turn:
                    x = x + (sigma**2 - sigma_next**2).sqrt() * randn().to(x)
                x = step(denoise, x / sigma, levels, randn)
        return x


def content_hash(tensor: Tensor) -> str:
    """SHA-256 of what is in a tensor, in hexadecimal."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
