"""Cosine attention from the output of the convolution that makes queries, keys and values, in one pass over it."""

from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import TYPES, Binding
from unitgain.native.memory import images, scratch


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


_attention = Binding(
    "attention",
    functions={
        "attention": (None, POINTER(_Attention), c_void_p),
        "attention_scratch": (c_int64, POINTER(_Attention)),
    },
    structs={"attention": _Attention},
)


def can_attend(dtype: torch.dtype, size: int) -> bool:
    """Whether heads of `size` channels, float32 or bfloat16, attend by C on this machine.

    Nothing keeps the exponentials of larger heads within what float32 holds: logits may reach the root of `size`.
    """
    return dtype != torch.float16 and _attention.takes(dtype) and size <= _attention.constant("size")


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
        RuntimeError: if this machine has no C for it.
    """
    x = _attention.laid(x)
    n, c, h, w = x.shape
    size = c // (3 * heads)
    assert c == 3 * heads * size
    assert eps >= 0
    assert can_attend(x.dtype, size)
    out = images((n, heads * size, h, w), x.dtype)
    if out.numel():
        library = _attention.need()
        call = _Attention(x.data_ptr(), out.data_ptr(), TYPES[x.dtype], eps, n, h * w, heads, size)
        library.unitgain_attention(byref(call), scratch(library.unitgain_attention_scratch(byref(call))).data_ptr())
    return out
