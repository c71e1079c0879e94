"""What happens to pixels between convolutions, in one pass over memory each."""

from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import Addend, Array, Binding, Sum, addend, array


class _Features(Structure):
    _fields_ = [("x", Array), ("channels", c_int64), ("share", c_float)]


class _Join(Structure):
    _fields_ = [
        ("first", _Features),
        ("second", _Features),
        ("main", Array),
        ("branch", Array),
        ("activate", c_int32),
        ("eps", c_float),
        ("pixels", c_int64),
    ]


class _Sum(Structure):
    _fields_ = [
        ("branch", Array),
        ("out", Array),
        ("add", Addend),
        ("factor", c_float),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
    ]


_pointwise = Binding(
    "pointwise",
    functions={"join": (None, POINTER(_Join)), "sum": (None, POINTER(_Sum))},
    structs={"join": _Join, "sum": _Sum},
)


def can_pass(dtype: torch.dtype) -> bool:
    """Whether images of this type are joined and summed by C on this machine; float16 takes a processor with F16C."""
    return _pointwise.takes(dtype)


def join(
    x: Float[Tensor, "n c h w"],
    skip: Float[Tensor, "n c2 h w"] | None = None,
    *,
    shares: tuple[float, float] = (1.0, 1.0),
    eps: float | None = None,
    main: torch.dtype | None = None,
    branch: torch.dtype | None = None,
    silu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """`x` beside `skip`, each times its share, over the magnitude of pixels: for the main path, and for the branch.

    Args:
        x: images on the CPU of a type that `can_pass`, as all here; made channels-last if they are not.
        skip: further channels; none by default.
        shares: of `x` and `skip`.
        eps: added to the magnitude; no pixel norm by default.
        main: type of the first result `[N, C + C2, H, W]`; by default there is none.
        branch: type of the second; by default there is none.
        silu: whether the second is activated.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    x, skip = _pointwise.laid(x), None if skip is None else _pointwise.laid(skip)
    assert skip is None or (skip.shape[0], *skip.shape[2:]) == (x.shape[0], *x.shape[2:])
    n, c, h, w = x.shape
    first = _Features(array(x), c, shares[0])
    second = _Features(array(skip), 0 if skip is None else skip.shape[1], shares[1])
    size = (n, c + second.channels, h, w)
    outs = [None if dtype is None else _pointwise.empty(size, dtype) for dtype in (main, branch)]
    if n * size[1] * h * w:
        norm = -1.0 if eps is None else eps
        call = _Join(first, second, array(outs[0]), array(outs[1]), silu, norm, n * h * w)
        _pointwise.need().unitgain_join(byref(call))
    return outs[0], outs[1]


def convert(x: Float[Tensor, "n c h w"], dtype: torch.dtype) -> Float[Tensor, "n c h w"]:
    """`x` in another precision, faster than by libraries where both have 16 bits; itself if it has that precision.

    Raises:
        ValueError: if `x` is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    if x.dtype == dtype:
        return x
    out, _ = join(x, main=dtype)
    assert out is not None
    return out


def add(branch: Float[Tensor, "n c h w"], after: Sum, factor: float = 1.0) -> Float[Tensor, "n c h w"]:
    """`factor` times `branch`, and the sum after it.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine does not pass over images of these types.
    """
    branch, laid = _pointwise.laid(branch), _pointwise.laid_sum(after)
    n, c, h, w = branch.shape
    out = _pointwise.empty((n, c, h, w), after.dtype)
    if out.numel():
        call = _Sum(array(branch), array(out), addend(laid, out), factor, n, h, w, c)
        _pointwise.need().unitgain_sum(byref(call))
    return out
