"""3x3 convolutions by Winograd's minimal filtering: a quarter of the multiplications, in 16-bit integers or float32."""

from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import Addend, Array, Binding, Sum, addend, address, array, check_place, padded
from unitgain.native.memory import in_large_pages, scratch

MAX_CHANNELS = 16384


class _Layer(Structure):
    _fields_ = [
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("tile", c_int32),
        ("integer", c_int32),
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("loudness", c_void_p),
    ]


class _Images(Structure):
    _fields_ = [
        ("x", Array),
        ("out", Array),
        ("add", Addend),
        ("scale", c_void_p),
        ("activate", c_int32),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
    ]


_winograd = Binding(
    "winograd",
    functions={
        "winograd": (None, POINTER(_Layer), POINTER(_Images), c_void_p),
        "winograd_pack": (c_int32, POINTER(_Layer), c_void_p),
        "winograd_scratch": (c_int64, POINTER(_Layer), c_int64, c_int64, c_int64),
        "winograd_weights": (c_int64, POINTER(_Layer)),
    },
    structs={"layer": _Layer, "images": _Images},
)


def can_filter(integers: bool) -> bool:
    """Whether there is a `Winograd` on this machine, with products of integers if `integers`.

    Those need AVX-512 VNNI or AVX-VNNI.
    """
    return _winograd.library is not None and (not integers or bool(_winograd.constant("integers")))


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
        library = _winograd.need()
        assert tile in (2, 4)
        assert 1 <= weight.shape[1] <= MAX_CHANNELS
        self.out_channels, self.in_channels = weight.shape[:2]
        self.tile, self.integers = tile, integers
        self._layout = {name: _winograd.constant(name) for name in ("block", "integers")}
        layer = _Layer(self.in_channels, self.out_channels, tile, integers, None, None, None)
        blocks = -(-self.out_channels // self._layout["block"])
        scales = (tile + 2) ** 2 * blocks * self._layout["block"] if integers else 0
        self._weights = in_large_pages(library.unitgain_winograd_weights(byref(layer)))
        self._scales = torch.empty(scales, dtype=torch.float32, device="cpu")
        self._loudness = torch.empty(self.in_channels if integers else 0, dtype=torch.float32, device="cpu")
        dense = weight.detach().cpu().float().contiguous()
        if library.unitgain_winograd_pack(byref(self._layer()), dense.data_ptr()):
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
        after: Sum | None = None,
        upsample: bool = False,
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Convolve `x`, on the CPU, made channels-last if it is not; float16 only with products of integers.

        Args:
            x: images of float32, bfloat16 or float16.
            dtype: of the result without a sum, likewise.
            scale: factors of the result, float32; none by default.
            silu: whether `silu` follows.
            after: the sum after all that, if any.
            upsample: double the pixels of `x` first (nearest neighbour).

        Raises:
            ValueError: if an image is not on the CPU.
            RuntimeError: if the weight was laid out for another machine.
        """
        library = _winograd.need(**self._layout)
        x, after = _winograd.laid(x), _winograd.laid_sum(after)
        n, c, h, w = x.shape
        h, w = (2 * h, 2 * w) if upsample else (h, w)
        assert c == self.in_channels
        out = _winograd.empty((n, self.out_channels, h, w), after.dtype if after else dtype)
        assert self.integers or torch.float16 not in (x.dtype, out.dtype, after.main.dtype if after else out.dtype)
        if scale is not None:
            check_place(scale)
            assert scale.shape == (n, self.out_channels)
            scale = padded(scale.float(), self._layout["block"])
        layer = self._layer()
        call = _Images(array(x, upsample), array(out), addend(after, out), address(scale), silu, n, h, w)
        if out.numel():
            size = library.unitgain_winograd_scratch(byref(layer), n, h, w)
            library.unitgain_winograd(byref(layer), byref(call), scratch(size).data_ptr())
        return out
