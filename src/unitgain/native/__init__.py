"""Parts written in C, for what no library does fast: compiled when first used, and never needed."""

from unitgain.native.attention import attend, can_attend
from unitgain.native.build import NATIVE
from unitgain.native.combine import Combination, can_combine
from unitgain.native.conv1x1 import Conv1x1, can_multiply_pairs
from unitgain.native.depthwise import Depthwise, can_convolve
from unitgain.native.memory import forget, images, recycled
from unitgain.native.pointwise import can_pass, converted, joined, summed
from unitgain.native.winograd import Winograd, can_filter

__all__ = [
    "NATIVE",
    "Combination",
    "Conv1x1",
    "Depthwise",
    "Winograd",
    "attend",
    "can_attend",
    "can_combine",
    "can_convolve",
    "can_filter",
    "can_multiply_pairs",
    "can_pass",
    "converted",
    "forget",
    "images",
    "joined",
    "recycled",
    "summed",
]
