"""Parts written in C, for what no library does fast: compiled when first used, and never needed."""

from unitgain.native.attention import attend as attend
from unitgain.native.attention import can_attend as can_attend
from unitgain.native.bind import Sum as Sum
from unitgain.native.build import NATIVE as NATIVE
from unitgain.native.combine import Combination as Combination
from unitgain.native.combine import can_combine as can_combine
from unitgain.native.conv1x1 import Conv1x1 as Conv1x1
from unitgain.native.conv1x1 import can_convolve_pairs as can_convolve_pairs
from unitgain.native.depthwise import Depthwise as Depthwise
from unitgain.native.depthwise import can_convolve_depthwise as can_convolve_depthwise
from unitgain.native.memory import forget as forget
from unitgain.native.memory import images as images
from unitgain.native.memory import recycled as recycled
from unitgain.native.pointwise import add as add
from unitgain.native.pointwise import can_pass as can_pass
from unitgain.native.pointwise import convert as convert
from unitgain.native.pointwise import join as join
from unitgain.native.winograd import Winograd as Winograd
from unitgain.native.winograd import can_filter as can_filter
