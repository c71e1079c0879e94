"""Depthwise convolution with the modulation and the nonlinearity before it, in one pass over memory."""

import ctypes
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.memory import images

IMAGES = (torch.float32, torch.bfloat16)


def can_convolve(dtype: torch.dtype) -> bool:
    """Whether images of this type are convolved by C on this machine."""
    return dtype in IMAGES and _function() is not None


class Depthwise:
    """`conv(act(scale * x))` without gradients; computes in float32 whatever the images are.

    Args:
        weight: `[C, 1, k, k]`, float32, k odd and at most 15.
        silu: whether `act` is `silu`; nothing otherwise.
    """

    def __init__(self, weight: Float[Tensor, "c 1 k k"], silu: bool) -> None:
        function = _function()
        assert function is not None
        self._block = function[1]
        self.channels, _, self.kernel, _ = weight.shape
        assert self.kernel % 2 == 1
        assert self.kernel <= 15
        self.silu = silu
        packed = self._padded(weight.detach().cpu().reshape(self.channels, -1).t().float())
        self._weight = packed.view(self.kernel**2, -1, self._block).transpose(0, 1).contiguous()

    def __call__(
        self, x: Float[Tensor, "n c h w"], scale: Float[Tensor, "n c"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, float32 or bfloat16 on the CPU, made channels-last if it is not; `scale` is float32.

        Raises:
            ValueError: if `x` is not on the CPU.
        """
        check_place(x)
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        assert x.dtype in IMAGES
        assert c == self.channels
        out = images((n, c, h, w), x.dtype)
        if scale is not None:
            check_place(scale)
            assert scale.shape == (n, c)
        factors = None if scale is None else self._padded(scale.float())
        function = _function()
        check_layout(self._block, function[1] if function else None)
        assert function is not None
        if not out.numel():
            return out
        failed = function[0](
            x.data_ptr(),
            out.data_ptr(),
            TYPES[x.dtype],
            n,
            h,
            w,
            c,
            None if factors is None else factors.data_ptr(),
            self.silu,
            self._weight.data_ptr(),
            self.kernel,
        )
        if failed:
            raise MemoryError(f"no memory for a depthwise convolution of {tuple(x.shape)}")
        return out

    def _padded(self, rows: Float[Tensor, "r c"]) -> Float[Tensor, "r c2"]:
        """Channels filled up with zeros to whole blocks."""
        missing = -self.channels % self._block
        return torch.nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()


@cache
def _function() -> tuple | None:
    """The function, and how many channels it takes at once."""
    found = library("depthwise")
    if found is None:
        return None
    address, integer, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    sizes = [integer] * 4
    found.unitgain_depthwise.argtypes = [address, address, small, *sizes, address, small, address, small]
    found.unitgain_depthwise.restype = ctypes.c_int
    found.unitgain_depthwise_channels.restype = integer
    return found.unitgain_depthwise, found.unitgain_depthwise_channels()
