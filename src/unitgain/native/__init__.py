"""Parts written in C, for what no library does fast: compiled when first used, and never needed."""

from unitgain.native.build import NATIVE, available
from unitgain.native.combine import Combination, can_combine

__all__ = ["NATIVE", "Combination", "available", "can_combine"]
