"""Linear layers of few rows, whose weights are read once for all of them, in the precision they are stored in."""

import ctypes
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.pointwise import can_pass


class _Linear(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("to", c_void_p),
        ("type", c_int32),
        ("rows", c_int64),
        ("inputs", c_int64),
        ("outputs", c_int64),
    ]


def can_multiply(dtype: torch.dtype) -> bool:
    """Whether weights of this type are multiplied by C on this machine: float32, and float16 with F16C."""
    return dtype in (torch.float32, torch.float16) and _library() is not None and can_pass(dtype)


def linear(x: Float[Tensor, "n c"], weight: Float[Tensor, "o c"], bias: Float[Tensor, " o"]) -> Float[Tensor, "n o"]:
    """`x weight' + bias` without gradients, in float32. A row depends neither on the others nor on threads.

    Args:
        x: float32, on the CPU.
        weight: contiguous, of a type that `can_multiply`.
        bias: float32.

    Raises:
        ValueError: if `x` is not on the CPU.
        RuntimeError: if this machine does not multiply such weights.
    """
    check_place(x)
    check_layout(True, can_multiply(weight.dtype))
    assert x.dtype == bias.dtype == torch.float32
    assert x.shape[1:] == weight.shape[1:]
    assert len(weight) == len(bias)
    assert weight.is_contiguous()
    assert bias.is_contiguous()
    x = x.contiguous()
    out = torch.empty((len(x), len(weight)), dtype=torch.float32, device="cpu")
    if out.numel():
        where = (tensor.data_ptr() for tensor in (x, weight, bias, out))
        found = _library()
        assert found is not None
        found.unitgain_linear(byref(_Linear(*where, TYPES[weight.dtype], len(x), x.shape[1], len(weight))))
    return out


@cache
def _library() -> ctypes.CDLL | None:
    found = library("linear")
    if found is None:
        return None
    found.unitgain_linear.argtypes = [POINTER(_Linear)]
    found.unitgain_linear.restype = None
    return found
