"""Gradients of the weights of 3x3 convolutions by Winograd's minimal filtering: a quarter of the multiplications."""

from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.bind import Array, Binding, address, array
from unitgain.native.winograd import MAX_CHANNELS

TILE, POSITIONS = 4, 36
ROOM = 2**20  # bytes that tiles take at a time, to stay in the caches, or as many as products, if those take more


class _Tiles(Structure):
    _fields_ = [
        ("images", Array),
        ("to", c_void_p),
        ("first", c_int64),
        ("last", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
        ("outputs", c_int32),
    ]


_filter = Binding(
    "filter_gradient",
    functions={
        "filter_tiles": (None, POINTER(_Tiles)),
        "filter_weights": (None, c_void_p, c_void_p, c_int64, c_int64),
    },
    structs={"tiles": _Tiles},
)


def can_filter_gradients() -> bool:
    """Whether there is a `filtered_gradient` on this machine."""
    return _filter.library is not None


def filtered_gradient(x: Float[Tensor, "n c h w"], gradient: Float[Tensor, "n c2 h w"]) -> Float[Tensor, "c2 c 3 3"]:
    """The gradient of the weight of a 3x3 convolution with zero padding, float32, from that of its output.

    Transforms are those of `Winograd` with m = 4, transposed, in float32; so are products, which PyTorch makes.

    Args:
        x: what is convolved, float32 or bfloat16; of up to 16384 channels, as its output.
        gradient: of the output, in the same type.

    Raises:
        ValueError: if an image is not on the CPU.
        RuntimeError: if this machine has no C.
    """
    library = _filter.need()
    x, gradient = _filter.laid(x), _filter.laid(gradient)
    assert x.dtype == gradient.dtype
    n, inputs, h, w = x.shape
    outputs = gradient.shape[1]
    assert max(inputs, outputs) <= MAX_CHANNELS
    result = torch.zeros if x.numel() == 0 else torch.empty
    weight = result((outputs, inputs, 3, 3), dtype=torch.float32, device="cpu")
    wide, high = _padded(inputs), _padded(outputs)
    tiles, sums = n * -(-h // TILE) * -(-w // TILE), None
    room = max(ROOM, 4 * POSITIONS * wide * high)
    parts = -(-tiles * 4 * POSITIONS * (wide + high) // room)
    for part in range(parts):
        first, last = tiles * part // parts, tiles * (part + 1) // parts
        left = _tiles(gradient, first, last, outputs=True).transpose(1, 2)
        right = _tiles(x, first, last, outputs=False)
        sums = torch.bmm(left, right) if sums is None else sums.baddbmm_(left, right)
    if sums is not None:
        library.unitgain_filter_weights(address(sums), address(weight), outputs, inputs)
    return weight


def _padded(channels: int) -> int:
    lanes = _filter.constant("lanes")
    return -(-channels // lanes) * lanes


def _tiles(x: Tensor, first: int, last: int, outputs: bool) -> Tensor:
    _, c, h, w = x.shape
    to = torch.empty((POSITIONS, last - first, _padded(c)), dtype=torch.float32, device="cpu")
    call = _Tiles(array(x), address(to), first, last, h, w, c, outputs)
    _filter.need().unitgain_filter_tiles(byref(call))
    return to
