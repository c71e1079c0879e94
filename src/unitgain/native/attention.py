"""Cosine attention from the output of the convolution that makes queries, keys and values, in one pass over it."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_place, library
from unitgain.native.memory import images, scratch

IMAGES = (torch.float32, torch.bfloat16)


class _Attention(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("out", c_void_p),
        ("type", c_int32),
        ("eps", c_float),
        ("batch", c_int64),
        ("tokens", c_int64),
        ("heads", c_int64),
        ("size", c_int64),
    ]


def can_attend(dtype: torch.dtype, size: int) -> bool:
    """Whether heads of `size` channels of this type attend by C on this machine.

    Nothing keeps the exponentials of larger heads within what float32 holds: logits may reach the root of `size`.
    """
    found = _library()
    return dtype in IMAGES and found is not None and size <= found.unitgain_attention_size()


def attend(x: Float[Tensor, "n c3 h w"], heads: int, eps: float) -> Float[Tensor, "n c h w"]:
    """`softmax(q k^T / sqrt(d)) v` over the pixels of each head, of `q`, `k`, `v` of unit magnitude; without gradients.

    Computes in float32 whatever the images are. An image depends neither on the others nor on the number of threads.

    Args:
        x: `[N, 3 heads d, H, W]` ordered (q, k, v), then head, then channel of the head; float32 or bfloat16 on the
            CPU, made channels-last if it is not (see `can_attend`).
        heads: how many.
        eps: added to magnitudes, as `unitgain.ops.magnitude` does; not negative, or logits would have no bound.

    Returns:
        `[N, heads d, H, W]`, channels-last, of the dtype of `x`.

    Raises:
        ValueError: if `x` is not on the CPU.
    """
    check_place(x)
    n, c, h, w = x.shape
    size = c // (3 * heads)
    assert c == 3 * heads * size
    assert eps >= 0
    assert can_attend(x.dtype, size)
    x = x.contiguous(memory_format=torch.channels_last)
    out = images((n, heads * size, h, w), x.dtype)
    if out.numel():
        found = _library()
        assert found is not None
        call = _Attention(x.data_ptr(), out.data_ptr(), TYPES[x.dtype], eps, n, h * w, heads, size)
        found.unitgain_attention(byref(call), scratch(found.unitgain_attention_scratch(byref(call))).data_ptr())
    return out


@cache
def _library() -> ctypes.CDLL | None:
    found = library("attention")
    if found is None:
        return None
    call = POINTER(_Attention)
    found.unitgain_attention_size.restype = c_int64
    found.unitgain_attention_scratch.argtypes = [call]
    found.unitgain_attention_scratch.restype = c_int64
    found.unitgain_attention.argtypes = [call, c_void_p]
    found.unitgain_attention.restype = None
    return found
