"""Depthwise convolution with modulation and nonlinearity before it and a sum after it, in one pass over memory."""

from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import Addend, Array, Binding, Sum, addend, address, array, check_place, padded


class _Depthwise(Structure):
    _fields_ = [
        ("x", Array),
        ("out", Array),
        ("add", Addend),
        ("scale", c_void_p),
        ("weight", c_void_p),
        ("activate", c_int32),
        ("after", c_int32),
        ("kernel", c_int32),
        ("batch", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
    ]


_depthwise = Binding(
    "depthwise",
    functions={
        "depthwise": (c_int32, POINTER(_Depthwise)),
        "depthwise_gradient": (c_int32, POINTER(_Depthwise), c_void_p),
    },
    structs={"depthwise": _Depthwise},
)


def can_convolve_depthwise(dtype: torch.dtype) -> bool:
    """Whether networks that compute in this precision have `Depthwise` on this machine."""
    return dtype != torch.float16 and _depthwise.takes(dtype)


class Depthwise:
    """`conv(act(scale * x))` or `conv(scale * act(x))`, or `clamp(that + share * main)`, without gradients.

    Inside in float32, but for `silu` to 1e-4 only where the result has 16 bits.

    Args:
        weight: `[C, 1, k, k]`, float32, k odd and at most 15.
        silu: whether `act` is `silu`; nothing otherwise.
        after: whether the scale comes after it.
    """

    MOST = 15  # height and width of a kernel

    def __init__(self, weight: Float[Tensor, "c 1 k k"], silu: bool, after: bool = False) -> None:
        self._block = _depthwise.need() and _depthwise.constant("block")
        self.channels, _, self.kernel, _ = weight.shape
        assert self.kernel % 2 == 1
        assert self.kernel <= self.MOST
        self.silu, self.after = silu, after
        taps = padded(weight.detach().cpu().reshape(self.channels, -1).t().float(), self._block)
        self._weight = taps.view(self.kernel**2, -1, self._block).transpose(0, 1).contiguous()

    def __call__(
        self,
        x: Float[Tensor, "n c h w"],
        scale: Float[Tensor, "n c"] | None = None,
        dtype: torch.dtype | None = None,
        after: Sum | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, on the CPU, made channels-last if it is not.

        Args:
            x: images of float32, bfloat16 or, on processors with F16C, float16.
            scale: factors of channels before or `after` the activation, float32; none by default.
            dtype: of the result without a sum, likewise; by default that of `x`.
            after: the sum after it, if any.

        Raises:
            ValueError: if an image is not on the CPU.
            RuntimeError: if this machine does not convolve such images, or the weight was laid out for another.
        """
        library = _depthwise.need(block=self._block)
        x, after = _depthwise.laid(x), _depthwise.laid_sum(after)
        n, c, h, w = x.shape
        assert c == self.channels
        out = _depthwise.empty((n, c, h, w), after.dtype if after else dtype or x.dtype)
        factors = None
        if scale is not None:
            check_place(scale)
            assert scale.shape == (n, c)
            factors = padded(scale.float(), self._block)
        where = array(x), array(out), addend(after, out), address(factors), address(self._weight)
        call = _Depthwise(*where, self.silu, self.after, self.kernel, n, h, w, c)
        if out.numel() and library.unitgain_depthwise(byref(call)):
            raise MemoryError(f"no memory for a depthwise convolution of {tuple(x.shape)}")
        return out


def depthwise_gradient(
    x: Float[Tensor, "n c h w"], gradient: Float[Tensor, "n c h w"], kernel: int
) -> Float[Tensor, "c 1 k k"]:
    """The gradient of the weight of a depthwise convolution with zero padding, float32, from that of its output.

    Args:
        x: what is convolved, on the CPU.
        gradient: of the output, in the same type.
        kernel: height and width of the weight, odd and at most `Depthwise.MOST`.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine does not convolve such images.
    """
    assert kernel % 2 == 1
    assert kernel <= Depthwise.MOST
    assert x.shape == gradient.shape
    assert x.dtype == gradient.dtype
    library, block = _depthwise.need(), _depthwise.constant("block")
    x, gradient = _depthwise.laid(x), _depthwise.laid(gradient)
    n, c, h, w = x.shape
    sums = torch.empty((n, -(-c // block), kernel**2, block), dtype=torch.float32, device="cpu")
    call = _Depthwise(array(x), array(gradient), addend(None, gradient), None, None, 0, 0, kernel, n, h, w, c)
    if library.unitgain_depthwise_gradient(byref(call), address(sums)):
        raise MemoryError(f"no memory for the gradient of a depthwise convolution of {tuple(x.shape)}")
    return sums.sum(0).transpose(1, 2).reshape(-1, 1, kernel, kernel)[:c].contiguous()
