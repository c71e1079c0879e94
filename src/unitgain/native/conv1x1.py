"""1x1 convolutions in bfloat16, with what comes after them; and two of them at once."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.memory import images, in_large_pages, scratch


class _Layer(Structure):
    _fields_ = [("inputs", c_int64), ("outputs", c_int64), ("weights", c_void_p), ("activate", c_int32)]


class _Convolution(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("out", c_void_p),
        ("pixels", c_int64),
        ("layers", _Layer * 2),
        ("count", c_int32),
        ("out_type", c_int32),
        ("main_type", c_int32),
        ("main", c_void_p),
        ("share", c_float),
        ("limit", c_float),
    ]


def can_multiply_pairs() -> bool:
    """Whether there is a `Conv1x1` on this machine, which takes AVX-512 BF16."""
    found = _library()
    return found is not None and bool(found.unitgain_conv1x1_pairs())


class Conv1x1:
    """A 1x1 convolution without gradients, of images of bfloat16; summed in float32, in one order whatever is given.

    Args:
        weight: `[C_out, C_in, 1, 1]`, rounded to bfloat16; an even number of input channels.
    """

    def __init__(self, weight: Float[Tensor, "o i 1 1"]) -> None:
        found = _library()
        assert found is not None
        assert can_multiply_pairs()
        self.out_channels, self.in_channels = weight.shape[:2]
        assert self.in_channels > 0
        assert self.in_channels % 2 == 0
        self._block = found.unitgain_conv1x1_block()
        blocks, pairs = -(-self.out_channels // self._block), self.in_channels // 2
        self._weights = in_large_pages(blocks * pairs * self._block * 4).view(torch.int32).view(blocks, pairs, -1)
        rows = weight.detach().cpu().flatten(1).to(torch.bfloat16).contiguous().view(torch.int32)
        full = self.out_channels // self._block * self._block
        self._weights[: full // self._block] = rows[:full].view(-1, self._block, pairs).transpose(1, 2)
        if full < self.out_channels:
            self._weights[-1] = 0
            self._weights[-1, :, : self.out_channels - full] = rows[full:].t()

    def __call__(
        self,
        x: Float[Tensor, "n c h w"],
        dtype: torch.dtype = torch.bfloat16,
        silu: bool = False,
        main: Float[Tensor, "n c2 h w"] | None = None,
        share: float = 1.0,
        limit: float = float("inf"),
    ) -> Float[Tensor, "n c2 h w"]:
        """`act(conv(x))` or `clamp(act(conv(x)) + share * main)`.

        Args:
            x: bfloat16 on the CPU, made channels-last if it is not.
            dtype: of the result: float32, bfloat16 or float16.
            silu: whether `silu` follows.
            main: added `share` times after that, of one of these types; nothing by default.
            share: see there.
            limit: of the sum with `main`, in magnitude.

        Raises:
            ValueError: if an image is not on the CPU.
            RuntimeError: if the weight was laid out for another machine.
        """
        return _convolve([self._layer(silu)], x, dtype, main, share, limit)

    def then(
        self, last: "Conv1x1", x: Float[Tensor, "n c h w"], dtype: torch.dtype = torch.bfloat16, silu: bool = False
    ) -> Float[Tensor, "n c3 h w"]:
        """`last(act(conv(x)))`, with what is between the two rounded to bfloat16.

        It stays in the caches of a processor if there are 96 pixels or more for each thread.

        Arguments and errors as of a call; `silu` is between the two.
        """
        assert last.in_channels == self.out_channels
        return _convolve([self._layer(silu), last._layer(False)], x, dtype)

    def _layer(self, silu: bool) -> _Layer:
        """As C takes it: made anew, so that copies have addresses of their own."""
        found = _library()
        check_layout(self._block, found.unitgain_conv1x1_block() if found and can_multiply_pairs() else None)
        return _Layer(self.in_channels, self.out_channels, self._weights.data_ptr(), silu)


def _convolve(
    layers: Sequence[_Layer],
    x: Tensor,
    dtype: torch.dtype,
    main: Tensor | None = None,
    share: float = 1.0,
    limit: float = float("inf"),
) -> Tensor:
    check_place(x)
    assert x.dtype == torch.bfloat16
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    assert c == layers[0].inputs
    out = images((n, layers[-1].outputs, h, w), dtype)
    call = _Convolution(x.data_ptr(), out.data_ptr(), n * h * w, (_Layer * 2)(*layers), len(layers), TYPES[dtype])
    if main is not None:
        check_place(main)
        main = main.contiguous(memory_format=torch.channels_last)
        assert main.shape == out.shape
        call.main, call.main_type, call.share, call.limit = main.data_ptr(), TYPES[main.dtype], share, limit
    if out.numel():
        found = _library()
        assert found is not None
        found.unitgain_conv1x1(byref(call), scratch(found.unitgain_conv1x1_scratch(byref(call))).data_ptr())
    return out


@cache
def _library() -> ctypes.CDLL | None:
    found = library("conv1x1")
    if found is None:
        return None
    call = POINTER(_Convolution)
    found.unitgain_conv1x1_block.restype = c_int64
    found.unitgain_conv1x1_pairs.restype = c_int32
    found.unitgain_conv1x1_scratch.argtypes = [call]
    found.unitgain_conv1x1_scratch.restype = c_int64
    found.unitgain_conv1x1.argtypes = [call, c_void_p]
    found.unitgain_conv1x1.restype = None
    return found
