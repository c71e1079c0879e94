"""A denoiser made ready to run fast: weights normalized once, constants folded, low precision, channels-last."""

from unitgain.infer.prepare import Prepared, fastest_dtype, fastest_precision, prepare

__all__ = ["Prepared", "fastest_dtype", "fastest_precision", "prepare"]
