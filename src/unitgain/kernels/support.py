"""Which images kernels take, and where."""

import os

import torch
from torch import Tensor

from unitgain.extras import require

DTYPES = {torch.float32, torch.float16, torch.bfloat16}


def usable(x: Tensor) -> bool:
    """Whether kernels take this image: channels-last, of a known type, on a GPU (or interpreted on the CPU)."""
    if x.ndim != 4 or x.dtype not in DTYPES or not x.numel() or x[0].numel() >= 2**31:
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if not x.is_cuda and (x.device.type != "cpu" or not os.environ.get("TRITON_INTERPRET")):
        return False
    from unitgain.kernels.ready import runs_on  # imports the compiler of torch, which takes seconds

    return runs_on(x.device, x.dtype)


def demand(device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless kernels run on this device in this type, which somebody has asked for.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if the device is none for them.
    """
    require("triton", "kernels")
    from unitgain.kernels.ready import interpreted, runs_on

    if device.type == "cpu" and not (os.environ.get("TRITON_INTERPRET") and interpreted()):
        raise ValueError(
            "the kernels run on GPUs, and this network is on the CPU: move it to a GPU first, or leave them off. For "
            "tests, TRITON_INTERPRET=1 has them interpreted on the CPU, which is slow"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the kernels run on GPUs that Triton compiles for, and this network is on {device}")
    if not runs_on(device, dtype):
        raise ValueError(f"the kernels cannot compute in {dtype} on {device}, which is too old for it: take float16")


def no_depthwise(what: str) -> ValueError:
    """The error for a network that the kernels are not for."""
    return ValueError(f"{what} has no depthwise convolutions, which is what the kernels are for: they take EDM2+ alone")
