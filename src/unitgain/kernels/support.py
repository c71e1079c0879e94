"""Which images kernels take, and where."""

import os

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def usable(*images: Tensor) -> bool:
    """Whether kernels take these images: channels-last, of one known dtype, on a GPU (or interpreted on the CPU)."""
    x = images[0]
    if x.ndim != 4 or x.dtype not in DTYPES or not x.numel() or x[0].numel() >= 2**31:
        return False
    if any(image.dtype != x.dtype or image.shape != x.shape or image.device != x.device for image in images):
        return False
    if not all(image.is_contiguous(memory_format=torch.channels_last) for image in images):
        return False
    if not x.is_cuda and (x.device.type != "cpu" or not os.environ.get("TRITON_INTERPRET")):
        return False
    from unitgain.kernels.ready import runs_on  # imports the compiler of torch, which takes seconds

    return runs_on(x.device, x.dtype)
