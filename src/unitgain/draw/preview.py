"""Images while they are drawn: to look at in a notebook, or anywhere else."""

import math
from dataclasses import dataclass

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unitgain.data.images import grid, png
from unitgain.draw.decode import Paint
from unitgain.sample.generation import Step


@dataclass(frozen=True, eq=False)
class Preview:
    """A step on the way from noise to images, which notebooks show as a picture.

    Nothing is decoded before it is looked at.

    Attributes:
        step: seeds, number of the evaluation, noise level, x and D(x; sigma), as the network sees images.
        decode: makes pixels of them.
        sigma_data: of the network.
    """

    step: Step
    decode: Paint
    sigma_data: float

    def noisy(self) -> UInt8[Tensor, "n c h w"]:
        """The noisy images, scaled to the standard deviation of the data: at the end, images."""
        scale = self.sigma_data / math.hypot(self.step.sigma, self.sigma_data)
        return self.decode(self.step.x * scale)

    def denoised(self) -> UInt8[Tensor, "n c h w"]:
        """What the network sees in them: the mean of all images that they could become."""
        return self.decode(self.step.denoised)

    def image(self) -> Image.Image:
        """Both side by side, the noisy images on the left."""
        return beside(grid(self.noisy()), grid(self.denoised()))

    def _repr_png_(self) -> bytes:
        return png(self.image())

    def __str__(self) -> str:
        step = self.step
        return f"evaluation {step.number} of {step.evaluations}, sigma {step.sigma:.3g}"


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one size and mode, one beside the other."""
    canvas = Image.new(left.mode, (left.width + right.width, left.height))
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width, 0))
    return canvas
