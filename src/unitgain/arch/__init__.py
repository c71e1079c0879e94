"""Networks: what one is (`spec`), its residual block (`block`) and the U-Net around the blocks (`unet`)."""

from unitgain.arch.spec import NetworkSpec
from unitgain.arch.unet import build

__all__ = ["NetworkSpec", "build"]
