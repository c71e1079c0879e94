"""Parts written in C, for what no library does fast: compiled when first used, and never needed."""

from unitgain.native.build import NATIVE
from unitgain.native.combine import Combination, can_combine
from unitgain.native.depthwise import Depthwise, can_convolve

__all__ = ["NATIVE", "Combination", "Depthwise", "can_combine", "can_convolve"]
