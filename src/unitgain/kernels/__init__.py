"""Kernels for GPUs, in Triton: what is memory-bound in EDM2+, forward and backward in one pass each; off by default."""

from unitgain.kernels.functions import activate, depthwise, pixel_norm, weighted_sum
from unitgain.kernels.fuse import fuse, unfuse

__all__ = ["activate", "depthwise", "fuse", "pixel_norm", "unfuse", "weighted_sum"]
