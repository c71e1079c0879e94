"""3x3 convolutions by Winograd's minimal filtering: a quarter of the multiplications, in 16-bit integers or float32."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import TYPES, check_layout, check_place, library
from unitgain.native.memory import images, in_large_pages, scratch

MAX_CHANNELS = 16384


class _Layer(Structure):
    _fields_ = [
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("tile", c_int32),
        ("whole", c_int32),
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("loudness", c_void_p),
    ]


class _Images(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("out", c_void_p),
        ("type", c_int32),
        ("out_type", c_int32),
        ("doubled", c_int32),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
    ]


class _Ending(Structure):
    _fields_ = [
        ("scale", c_void_p),
        ("activate", c_int32),
        ("main", c_void_p),
        ("main_type", c_int32),
        ("main_doubled", c_int32),
        ("share", c_float),
        ("limit", c_float),
    ]


def can_filter(integers: bool) -> bool:
    """Whether there is a `Winograd` on this machine, with products of integers if `integers`.

    Those need AVX-512 VNNI or AVX-VNNI.
    """
    found = _library()
    return found is not None and (not integers or bool(found.unitgain_winograd_integers()))


class Winograd:
    """`act(scale * conv(x))` or `clamp(conv(x) + share * main)` without gradients, zero padding, the size kept.

    Tiles of m x m outputs take (m + 2)^2 multiplications rather than 9 m^2 (Winograd 1980; Lavin and Gray 2015), and
    weights `(m + 2)^2 / 9` times the memory. With m = 4 the points of evaluation are 0, +-sqrt(1/2), +-sqrt(2) and
    infinity, and errors are about five times those of a float32 convolution by its definition. As integers, what is
    multiplied has 15 bits, relative to the norm of a tile at a position: of inputs of one magnitude the error is
    below that of a convolution in bfloat16, which has 8. Channels are weighed by the norm of their weights before that,
    so that one that is loud and hardly read costs the others nothing. A pixel that is louder than its neighbours takes
    from the precision of theirs: of one that is 100 times as loud, up to 3e-2 (m = 4), or 1e-4 in float32.

    Args:
        weight: `[C_out, C_in, 3, 3]`, float32, 1 to 16384 input channels.
        tile: m, 2 or 4.
        integers: multiply 16-bit integers rather than float32 (see `can_filter`).
    """

    def __init__(self, weight: Float[Tensor, "o i 3 3"], tile: int, integers: bool) -> None:
        found = _library()
        assert found is not None
        assert tile in (2, 4)
        assert 1 <= weight.shape[1] <= MAX_CHANNELS
        self.out_channels, self.in_channels = weight.shape[:2]
        self.tile, self.integers = tile, integers
        layer = _Layer(self.in_channels, self.out_channels, tile, integers, None, None, None)
        self._wide = -(-self.out_channels // found.unitgain_winograd_block()) * found.unitgain_winograd_block()
        size, scales = found.unitgain_winograd_weights(byref(layer)), (tile + 2) ** 2 * self._wide if integers else 0
        self._weights = in_large_pages(size)
        self._scales = torch.empty(scales, dtype=torch.float32, device="cpu")
        self._loudness = torch.empty(self.in_channels if integers else 0, dtype=torch.float32, device="cpu")
        self._made_for = made_for(found)
        laid = weight.detach().cpu().float().contiguous()
        if found.unitgain_winograd_pack(byref(self._layer()), laid.data_ptr()):
            raise MemoryError(f"no memory to transform a weight of {tuple(weight.shape)}")

    def _layer(self) -> _Layer:
        """As C takes it: made anew, so that copies have addresses of their own."""
        where = self._weights.data_ptr(), self._scales.data_ptr(), self._loudness.data_ptr()
        return _Layer(self.in_channels, self.out_channels, self.tile, self.integers, *where)

    def __call__(
        self,
        x: Float[Tensor, "n c h w"],
        dtype: torch.dtype,
        scale: Float[Tensor, "n c2"] | None = None,
        silu: bool = False,
        main: Float[Tensor, "n c2 h3 w3"] | None = None,
        share: float = 1.0,
        limit: float = float("inf"),
        doubled: bool = False,
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Convolve `x`, on the CPU, made channels-last if it is not; float16 only with products of integers.

        Args:
            x: images of float32, bfloat16 or float16.
            dtype: of the result, likewise.
            scale: factors of the result, float32; none by default.
            silu: whether `silu` follows.
            main: added `share` times after all that, likewise; nothing by default. If it is half as high and wide as
                the result, its pixels are doubled.
            share: see there.
            limit: of the sum with `main`, in magnitude.
            doubled: double the pixels of `x` first (nearest neighbour).

        Raises:
            ValueError: if `x` is not on the CPU.
        """
        check_place(x)
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        h, w = (2 * h, 2 * w) if doubled else (h, w)
        assert c == self.in_channels
        assert self.integers or torch.float16 not in (x.dtype, dtype, None if main is None else main.dtype)
        out = images((n, self.out_channels, h, w), dtype)
        if scale is not None:
            check_place(scale)
            assert scale.shape == (n, self.out_channels)
            scale = torch.nn.functional.pad(scale.float(), (0, self._wide - self.out_channels)).contiguous()
        halved = False
        if main is not None:
            check_place(main)
            main = main.contiguous(memory_format=torch.channels_last)
            halved = main.shape[2:] != out.shape[2:]
            assert out.shape == (*main.shape[:2], *(side * (1 + halved) for side in main.shape[2:]))
        call = _Images(x.data_ptr(), out.data_ptr(), TYPES[x.dtype], TYPES[dtype], doubled, n, h, w)
        kind = 0 if main is None else TYPES[main.dtype]
        ending = _Ending(_address(scale), silu, _address(main), kind, halved, share, limit)
        found, layer = _library(), self._layer()
        check_layout(self._made_for, made_for(found) if found else None)
        assert found is not None
        if out.numel():
            size = found.unitgain_winograd_scratch(byref(layer), n, h, w)
            found.unitgain_winograd(byref(layer), byref(call), byref(ending), scratch(size).data_ptr())
        return out


def made_for(found: ctypes.CDLL) -> tuple[int, int]:
    """What the layout of weights depends on: outputs that are made at once, and whether there are integers."""
    return found.unitgain_winograd_block(), found.unitgain_winograd_integers()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@cache
def _library() -> ctypes.CDLL | None:
    found = library("winograd")
    if found is None:
        return None
    layer = POINTER(_Layer)
    found.unitgain_winograd_block.restype = c_int64
    found.unitgain_winograd_integers.restype = c_int32
    found.unitgain_winograd_weights.argtypes = [layer]
    found.unitgain_winograd_weights.restype = c_int64
    found.unitgain_winograd_scratch.argtypes = [layer, c_int64, c_int64, c_int64]
    found.unitgain_winograd_scratch.restype = c_int64
    found.unitgain_winograd_pack.argtypes = [layer, c_void_p]
    found.unitgain_winograd_pack.restype = ctypes.c_int
    found.unitgain_winograd.argtypes = [layer, POINTER(_Images), POINTER(_Ending), c_void_p]
    found.unitgain_winograd.restype = None
    return found
