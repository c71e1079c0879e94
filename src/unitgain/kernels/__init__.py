"""Kernels for GPUs, in Triton: depthwise convolutions with what comes before them, forward and backward.

Off by default. Whatever else is bound by memory (pixel norm, sums, SiLU, modulation), `torch.compile` fuses.
"""

from unitgain.kernels.functions import depthwise
from unitgain.kernels.fuse import fuse, unfuse

__all__ = ["depthwise", "fuse", "unfuse"]
