"""Parts written in C, for what no library does fast: compiled when first used, and never needed."""

from unitgain.native.attention import attend, can_attend
from unitgain.native.bind import Sum
from unitgain.native.build import NATIVE
from unitgain.native.combine import Combination, can_combine
from unitgain.native.conv1x1 import Conv1x1, can_convolve_pairs
from unitgain.native.depthwise import Depthwise, can_convolve_depthwise
from unitgain.native.memory import forget, images, recycled
from unitgain.native.pointwise import add, can_pass, convert, join
from unitgain.native.winograd import Winograd, can_filter

__all__ = [
    "NATIVE",
    "Combination",
    "Conv1x1",
    "Depthwise",
    "Sum",
    "Winograd",
    "add",
    "attend",
    "can_attend",
    "can_combine",
    "can_convolve_depthwise",
    "can_convolve_pairs",
    "can_filter",
    "can_pass",
    "convert",
    "forget",
    "images",
    "join",
    "recycled",
]
