"""Whether Triton is there and what it can do; for `torch.compile`, constants."""

import importlib.util
from functools import cache

import torch


def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def interpreted() -> bool:
    """Whether kernels are interpreted, which `TRITON_INTERPRET=1` sets before Triton is imported."""
    import triton  # pyright: ignore[reportMissingImports]

    from unitgain.kernels.device.depthwise import forward3

    return not isinstance(forward3, triton.JITFunction)


@torch.compiler.assume_constant_result
def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel in `dtype` runs on this device: a GPU that knows the dtype, or the CPU if interpreted."""
    if not available():
        return False
    if device.type == "cpu":
        return interpreted()
    if dtype != torch.bfloat16 or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)
