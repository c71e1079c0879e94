"""1x1 convolutions in bfloat16, with what comes after them; and two of them at once."""

from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import Addend, Array, Binding, Sum, addend, array
from unitgain.native.memory import in_large_pages, scratch


class _Layer(Structure):
    _fields_ = [("inputs", c_int64), ("outputs", c_int64), ("weights", c_void_p), ("activate", c_int32)]


class _Convolution(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("out", Array),
        ("add", Addend),
        ("pixels", c_int64),
        ("layers", _Layer * 2),
        ("count", c_int32),
    ]


_conv1x1 = Binding(
    "conv1x1",
    functions={
        "conv1x1": (None, POINTER(_Convolution), c_void_p),
        "conv1x1_scratch": (c_int64, POINTER(_Convolution)),
    },
    structs={"convolution": _Convolution},
)


def can_convolve_pairs() -> bool:
    """Whether there is a `Conv1x1` on this machine, which takes AVX-512 BF16."""
    return bool(_conv1x1.constant("pairs"))


class Conv1x1:
    """A 1x1 convolution without gradients, of images of bfloat16; summed in float32, in one order whatever is given.

    Args:
        weight: `[C_out, C_in, 1, 1]`, rounded to bfloat16; an even number of input channels.
    """

    def __init__(self, weight: Float[Tensor, "o i 1 1"]) -> None:
        assert can_convolve_pairs()
        self.out_channels, self.in_channels = weight.shape[:2]
        assert self.in_channels > 0
        assert self.in_channels % 2 == 0
        self._block = _conv1x1.constant("block")
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
        after: Sum | None = None,
    ) -> Float[Tensor, "n c2 h w"]:
        """`act(conv(x))` or `clamp(act(conv(x)) + share * main)`.

        Args:
            x: bfloat16 on the CPU, made channels-last if it is not.
            dtype: of the result without a sum: float32, bfloat16 or float16.
            silu: whether `silu` follows.
            after: the sum after that, if any, with no pixels to be doubled.

        Raises:
            ValueError: if an image is not on the CPU.
            RuntimeError: if the weight was laid out for another machine.
        """
        return _convolve([self._layer(silu)], x, dtype, after)

    def then(
        self, last: "Conv1x1", x: Float[Tensor, "n c h w"], dtype: torch.dtype = torch.bfloat16, silu: bool = False
    ) -> Float[Tensor, "n c3 h w"]:
        """`last(act(conv(x)))`, with what is between the two rounded to bfloat16.

        It stays in the caches of a processor if there are 96 pixels or more for each thread.

        Arguments and errors as of a call; `silu` is between the two.
        """
        assert last.in_channels == self.out_channels
        return _convolve([self._layer(silu), last._layer(False)], x, dtype, None)

    def _layer(self, silu: bool) -> _Layer:
        """As C takes it: made anew, so that copies have addresses of their own."""
        _conv1x1.need(block=self._block, pairs=1)
        return _Layer(self.in_channels, self.out_channels, self._weights.data_ptr(), silu)


def _convolve(layers: Sequence[_Layer], x: Tensor, dtype: torch.dtype, after: Sum | None) -> Tensor:
    library = _conv1x1.need()
    x, after = _conv1x1.laid(x), _conv1x1.laid_sum(after)
    assert x.dtype == torch.bfloat16
    n, c, h, w = x.shape
    assert c == layers[0].inputs
    out = _conv1x1.empty((n, layers[-1].outputs, h, w), after.dtype if after else dtype)
    add = addend(after, out)
    assert not add.main.halved
    call = _Convolution(x.data_ptr(), array(out), add, n * h * w, (_Layer * 2)(*layers), len(layers))
    if out.numel():
        library.unitgain_conv1x1(byref(call), scratch(library.unitgain_conv1x1_scratch(byref(call))).data_ptr())
    return out
