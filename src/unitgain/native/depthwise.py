"""Depthwise convolution with modulation and nonlinearity before it and a sum after it, in one pass over memory."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.memory import images


class _Depthwise(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("out", c_void_p),
        ("main", c_void_p),
        ("scale", c_void_p),
        ("weight", c_void_p),
        ("type", c_int32),
        ("out_type", c_int32),
        ("main_type", c_int32),
        ("main_doubled", c_int32),
        ("activate", c_int32),
        ("after", c_int32),
        ("kernel", c_int32),
        ("share", c_float),
        ("limit", c_float),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
    ]


def can_convolve(dtype: torch.dtype) -> bool:
    """Whether networks that compute in this precision have `Depthwise` on this machine."""
    return dtype in (torch.float32, torch.bfloat16) and _library() is not None


class Depthwise:
    """`conv(act(scale * x))` or `conv(scale * act(x))`, or `clamp(that + share * main)`, without gradients.

    Inside in float32, but for `silu` to 1e-4 only where the result has 16 bits.

    Args:
        weight: `[C, 1, k, k]`, float32, k odd and at most 15.
        silu: whether `act` is `silu`; nothing otherwise.
        after: whether the scale comes after it.
    """

    def __init__(self, weight: Float[Tensor, "c 1 k k"], silu: bool, after: bool = False) -> None:
        found = _library()
        assert found is not None
        self._block = found.unitgain_depthwise_channels()
        self.channels, _, self.kernel, _ = weight.shape
        assert self.kernel % 2 == 1
        assert self.kernel <= 15
        self.silu, self.after = silu, after
        packed = self._padded(weight.detach().cpu().reshape(self.channels, -1).t().float())
        self._weight = packed.view(self.kernel**2, -1, self._block).transpose(0, 1).contiguous()

    def __call__(
        self,
        x: Float[Tensor, "n c h w"],
        scale: Float[Tensor, "n c"] | None = None,
        dtype: torch.dtype | None = None,
        main: Float[Tensor, "n c h2 w2"] | None = None,
        share: float = 1.0,
        limit: float = float("inf"),
    ) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, on the CPU, made channels-last if it is not.

        Args:
            x: images of float32, bfloat16 or, on processors with F16C, float16.
            scale: factors of channels before or `after` the activation, float32; none by default.
            dtype: of the result, likewise; by default that of `x`.
            main: added `share` times to the result, likewise; nothing by default. If it is half as high and wide, its
                pixels are doubled.
            share: see there.
            limit: of the sum with `main`, in magnitude.

        Raises:
            ValueError: if an image is not on the CPU.
            RuntimeError: if this machine does not convolve such images, or the weight was laid out for another.
        """
        found, dtype = _library(), x.dtype if dtype is None else dtype
        check_layout(self._block, found.unitgain_depthwise_channels() if found else None)
        assert found is not None
        for given in (x, scale, main):
            if given is not None:
                check_place(given)
        kinds = [x.dtype, dtype, dtype if main is None else main.dtype]
        check_layout(True, torch.float16 not in kinds or bool(found.unitgain_depthwise_halves()))
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        assert c == self.channels
        assert scale is None or scale.shape == (n, c)
        out = images((n, c, h, w), dtype)
        halved, factors = False, None if scale is None else self._padded(scale.float())
        if main is not None:
            main = main.contiguous(memory_format=torch.channels_last)
            halved = main.shape[2:] != out.shape[2:]
            assert out.shape == (*main.shape[:2], *(side * (1 + halved) for side in main.shape[2:]))
        where = [None if given is None else given.data_ptr() for given in (x, out, main, factors, self._weight)]
        options = [*(TYPES[kind] for kind in kinds), halved, self.silu, self.after, self.kernel]
        if out.numel() and found.unitgain_depthwise(byref(_Depthwise(*where, *options, share, limit, n, h, w, c))):
            raise MemoryError(f"no memory for a depthwise convolution of {tuple(x.shape)}")
        return out

    def _padded(self, rows: Float[Tensor, "r c"]) -> Float[Tensor, "r c2"]:
        """Channels filled up with zeros to whole blocks."""
        missing = -self.channels % self._block
        return torch.nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()


@cache
def _library() -> ctypes.CDLL | None:
    found = library("depthwise")
    if found is None:
        return None
    found.unitgain_depthwise_channels.restype = c_int64
    found.unitgain_depthwise_halves.restype = c_int32
    found.unitgain_depthwise.argtypes = [POINTER(_Depthwise)]
    found.unitgain_depthwise.restype = ctypes.c_int
    return found
