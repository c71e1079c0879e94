"""What happens to pixels between convolutions, in one pass over memory each."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.memory import images


class _Features(Structure):
    _fields_ = [("x", c_void_p), ("channels", c_int64), ("type", c_int32), ("share", c_float)]


class _Join(Structure):
    _fields_ = [
        ("first", _Features),
        ("second", _Features),
        ("whole", c_void_p),
        ("seen", c_void_p),
        ("whole_type", c_int32),
        ("seen_type", c_int32),
        ("activate", c_int32),
        ("eps", c_float),
        ("pixels", c_int64),
    ]


class _Sum(Structure):
    _fields_ = [
        ("branch", c_void_p),
        ("main", c_void_p),
        ("out", c_void_p),
        ("branch_type", c_int32),
        ("main_type", c_int32),
        ("out_type", c_int32),
        ("doubled", c_int32),
        ("left", c_float),
        ("share", c_float),
        ("limit", c_float),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
    ]


def can_pass(dtype: torch.dtype) -> bool:
    """Whether images of this type are joined and summed by C on this machine; float16 takes a processor with F16C."""
    found = _library()
    return found is not None and dtype in TYPES and (dtype != torch.float16 or bool(found.unitgain_halves()))


def joined(
    x: Float[Tensor, "n c h w"],
    skip: Float[Tensor, "n c2 h w"] | None = None,
    *,
    shares: tuple[float, float] = (1.0, 1.0),
    eps: float | None = None,
    whole: torch.dtype | None = None,
    seen: torch.dtype | None = None,
    silu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """`x` beside `skip`, each times its share, over the magnitude of pixels: as a whole, and as a branch sees it.

    Args:
        x: images on the CPU of a type that `can_pass`, as all here; made channels-last if they are not.
        skip: further channels; none by default.
        shares: of `x` and `skip`.
        eps: added to the magnitude; no pixel norm by default.
        whole: type of the first result `[N, C + C2, H, W]`; by default there is none.
        seen: type of the second; by default there is none.
        silu: whether the second is activated.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    x, skip = _laid(x), None if skip is None else _laid(skip)
    assert skip is None or (skip.shape[0], *skip.shape[2:]) == (x.shape[0], *x.shape[2:])
    n, c, h, w = x.shape
    first, second = _features(x, shares[0]), _features(skip, shares[1])
    size = (n, c + second.channels, h, w)
    outs = [None if dtype is None else _empty(size, dtype) for dtype in (whole, seen)]
    types = [TYPES[out.dtype] if out is not None else 0 for out in outs]
    addresses = [out.data_ptr() if out is not None else None for out in outs]
    norm = -1.0 if eps is None else eps
    if n * size[1] * h * w:
        _demand().unitgain_join(byref(_Join(first, second, *addresses, *types, silu, norm, n * h * w)))
    return outs[0], outs[1]


def converted(x: Float[Tensor, "n c h w"], dtype: torch.dtype) -> Float[Tensor, "n c h w"]:
    """`x` in another precision, faster than by libraries where both have 16 bits; itself if it has that precision.

    Raises:
        ValueError: if `x` is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    if x.dtype == dtype:
        return x
    found, _ = joined(x, whole=dtype)
    assert found is not None
    return found


def summed(
    branch: Float[Tensor, "n c h w"],
    main: Float[Tensor, "n c h2 w2"],
    dtype: torch.dtype,
    *,
    left: float = 1.0,
    share: float = 1.0,
    limit: float = float("inf"),
) -> Float[Tensor, "n c h w"]:
    """`left` times `branch` plus `share` times `main`, clamped to [-limit, limit], in `dtype`.

    `main` may be half as high and wide: its pixels are then doubled.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    n, c, h, w = branch.shape
    doubled = main.shape[2:] != branch.shape[2:]
    assert branch.shape == (*main.shape[:2], *(side * (1 + doubled) for side in main.shape[2:]))
    branch, main = _laid(branch), _laid(main)
    out = _empty((n, c, h, w), dtype)
    types = [TYPES[tensor.dtype] for tensor in (branch, main, out)]
    addresses = [tensor.data_ptr() for tensor in (branch, main, out)]
    if out.numel():
        _demand().unitgain_sum(byref(_Sum(*addresses, *types, doubled, left, share, limit, n, h, w, c)))
    return out


def _laid(x: Tensor) -> Tensor:
    check_place(x)
    _check_type(x.dtype)
    return x.contiguous(memory_format=torch.channels_last)


def _empty(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    _check_type(dtype)
    return images(size, dtype)


def _check_type(dtype: torch.dtype) -> None:
    """Raise `RuntimeError` unless images of this type can be passed over: networks may come from other machines."""
    check_layout(True, can_pass(dtype))


def _features(x: Tensor | None, share: float) -> _Features:
    return _Features() if x is None else _Features(x.data_ptr(), x.shape[1], TYPES[x.dtype], share)


def _demand() -> ctypes.CDLL:
    found = _library()
    assert found is not None
    return found


@cache
def _library() -> ctypes.CDLL | None:
    found = library("pointwise")
    if found is None:
        return None
    found.unitgain_halves.restype = c_int32
    found.unitgain_join.argtypes = [POINTER(_Join)]
    found.unitgain_join.restype = None
    found.unitgain_sum.argtypes = [POINTER(_Sum)]
    found.unitgain_sum.restype = None
    return found
