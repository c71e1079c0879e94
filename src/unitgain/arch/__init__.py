"""Networks: what one is (`spec`), its residual block (`block`) and the U-Net around the blocks (`unet`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.arch.spec import NetworkSpec as NetworkSpec
    from unitgain.arch.unet import build as build

__getattr__, __dir__ = offer(__name__)
