"""What happens to pixels between convolutions while a network is trained, in one pass over memory each, with gradients.

Images are channels-last on the CPU, float32 or bfloat16 (`can_train`), and made so if they are not; all is computed in
float32 and rounded once. Results depend neither on the number of threads nor, for an image, on the others.
"""

import math
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unitgain.native.bind import TYPES, Binding, address
from unitgain.ops import normalize


def _struct(name: str, pointers: str, floats: str, counts: str, flags: str) -> type[Structure]:
    """A struct of these fields in this order, each of one kind."""
    kinds = ((pointers, c_void_p), (floats, c_float), (counts, c_int64), (flags, c_int32))
    return type(name, (Structure,), {"_fields_": [(field, kind) for names, kind in kinds for field in names.split()]})


_ForkCall = _struct(
    "_ForkCall",
    "x main active main_gradient active_gradient gradient magnitudes",
    "factor eps",
    "pixels channels",
    "type backward",
)
_ModulateCall = _struct(
    "_ModulateCall",
    "x out out_gradient scale scale_gradient",
    "factor",
    "images pixels channels",
    "activate after type",
)
_BalanceCall = _struct(
    "_BalanceCall", "a b out out_gradient a_gradient b_gradient", "share_a share_b limit", "count", "type"
)
_JoinCall = _struct("_JoinCall", "a b out", "share_a share_b", "pixels channels_a channels_b", "type backward")
_training = Binding(
    "training",
    functions={
        "fork": (None, POINTER(_ForkCall)),
        "modulate": (None, POINTER(_ModulateCall)),
        "balance": (None, POINTER(_BalanceCall)),
        "join": (None, POINTER(_JoinCall)),
    },
    structs={
        "fork": _ForkCall,
        "modulate": _ModulateCall,
        "balance": _BalanceCall,
        "join": _JoinCall,
    },
)


def can_train(x: Tensor) -> bool:
    """Whether the functions here take these images on this machine, and nobody compiles or transforms them."""
    return (
        x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _training.takes(x.dtype)
    )


def normalize_pixels(x: Float[Tensor, "n c h w"], eps: float) -> Float[Tensor, "n c h w"]:
    """Pixel norm: each pixel over its root mean square plus `eps` (Eq. 30)."""
    if x.shape[1] > _training.constant("most"):
        return normalize(x, dim=1, eps=eps)
    return _Fork.apply(x, None, eps)[0]  # type: ignore[no-untyped-call]


def fork(
    x: Float[Tensor, "n c h w"], silu: float, eps: float | None = None
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """What a main path and a branch begin with: `x`, or its pixel norm, and `silu` times the SiLU of that.

    Args:
        x: images.
        silu: factor of the SiLU.
        eps: added to magnitudes of pixels, as in `normalize_pixels`; None for no pixel norm.
    """
    if eps is not None and x.shape[1] > _training.constant("most"):
        main = normalize_pixels(x, eps)
        return main, fork(main, silu)[1]
    return _Fork.apply(x, silu, eps)  # type: ignore[no-untyped-call]


def modulate(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, "#n c"], silu: float | None, after: bool = False
) -> Float[Tensor, "n c h w"]:
    """`silu * SiLU(scale x)`, or `scale * silu * SiLU(x)` with the scale `after`; `scale x` where `silu` is None.

    Args:
        x: images.
        scale: factors of channels, float32; one row for all images, or one for each.
        silu: factor of the SiLU.
        after: whether the scale comes after it.
    """
    return _Modulate.apply(x, scale.expand(x.shape[:2]), silu, after)  # type: ignore[no-untyped-call]


def balance(
    main: Float[Tensor, "n c h w"], branch: Float[Tensor, "n c h w"], shares: tuple[float, float], limit: float
) -> Float[Tensor, "n c h w"]:
    """The sum of both, each times its share, clamped to [-limit, limit]; in the wider of their types.

    Raises:
        ValueError: if they are not of one shape.
    """
    if main.shape != branch.shape:
        raise ValueError(f"a sum of images of shapes {list(main.shape)} and {list(branch.shape)}: expected equal ones")
    return _Balance.apply(*_of_one_type(main, branch), shares, limit)  # type: ignore[no-untyped-call]


def join_features(
    x: Float[Tensor, "n c h w"], skip: Float[Tensor, "n c2 h w"], shares: tuple[float, float]
) -> Float[Tensor, "n c3 h w"]:
    """Both beside each other along the channels, each times its share; in the wider of their types.

    Raises:
        ValueError: if they differ in more than their channels.
    """
    if (len(x), *x.shape[2:]) != (len(skip), *skip.shape[2:]):
        raise ValueError(f"images of shapes {list(x.shape)} and {list(skip.shape)} do not fit beside each other")
    return _Join.apply(*_of_one_type(x, skip), shares)  # type: ignore[no-untyped-call]


def _of_one_type(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    wider = a.dtype if a.dtype == b.dtype == torch.bfloat16 else torch.float32
    return a.to(wider), b.to(wider)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _pixels(x: Tensor) -> int:
    n, _, h, w = x.shape
    return n * h * w


def _empty(like: Tensor, channels: int) -> Tensor:
    n, _, h, w = like.shape
    return torch.empty((n, channels, h, w), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _run(name: str, struct: type[Structure], like: Tensor, tensors: dict[str, Tensor | None], **values: float) -> None:
    """Call a function of C with these fields, for the type of these images."""
    if hasattr(like, "fake_mode"):  # shapes without numbers, of which memory is estimated
        return
    call = struct(**{field: address(tensor) for field, tensor in tensors.items()}, type=TYPES[like.dtype], **values)
    getattr(_training.need(), f"unitgain_{name}")(byref(call))


class _Fork(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, silu: float | None, eps: float | None) -> Any:
        x = _training.laid(x)
        main = x if eps is None else _like(x)
        active = None if silu is None else _like(x)
        magnitudes = None if eps is None else torch.empty(_pixels(x), dtype=torch.float32, device="cpu")
        ctx.values = {
            "factor": silu or 0.0,
            "eps": eps or 0.0,
            "pixels": _pixels(x),
            "channels": x.shape[1],
        }
        tensors = {"x": x, "main": main, "active": active, "magnitudes": magnitudes}
        _run("fork", _ForkCall, x, tensors, **ctx.values)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(main, magnitudes)
        return main, active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_main: Tensor | None, of_active: Tensor | None) -> Any:
        main, magnitudes = ctx.saved_tensors
        of_main, of_active = (None if of is None else _training.laid(of) for of in (of_main, of_active))
        if magnitudes is None and of_active is None:
            return of_main, None, None
        gradient = _like(main)
        tensors = {
            "main": main,
            "main_gradient": of_main,
            "active_gradient": of_active,
            "gradient": gradient,
            "magnitudes": magnitudes,
        }
        _run("fork", _ForkCall, main, tensors, backward=1, **ctx.values)
        return gradient, None, None


class _Modulate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, silu: float | None, after: bool) -> Tensor:
        x, scale = _training.laid(x), scale.float().contiguous()
        out = _like(x)
        ctx.values = {
            "factor": 1.0 if silu is None else silu,
            "activate": silu is not None,
            "after": after,
            "images": len(x),
            "pixels": x.shape[2] * x.shape[3],
            "channels": x.shape[1],
        }
        _run("modulate", _ModulateCall, x, {"x": x, "scale": scale, "out": out}, **ctx.values)
        ctx.save_for_backward(x, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        gradient = _training.laid(gradient)
        of_x, of_scale = _like(x), torch.empty_like(scale)
        tensors = {"x": x, "scale": scale, "out": of_x, "out_gradient": gradient, "scale_gradient": of_scale}
        _run("modulate", _ModulateCall, x, tensors, **ctx.values)
        return of_x, of_scale, None, None


class _Balance(Function):
    @staticmethod
    def forward(ctx: Any, main: Tensor, branch: Tensor, shares: tuple[float, float], limit: float) -> Tensor:
        main, branch = _training.laid(main), _training.laid(branch)
        out = _like(main)
        ctx.values = {"share_a": shares[0], "share_b": shares[1], "count": main.numel()}
        ctx.limit = limit
        _run("balance", _BalanceCall, main, {"a": main, "b": branch, "out": out}, limit=limit, **ctx.values)
        ctx.save_for_backward(None if math.isinf(limit) else out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (out,) = ctx.saved_tensors
        gradient = _training.laid(gradient)
        of_main, of_branch = _like(gradient), _like(gradient)
        tensors = {"out": out, "out_gradient": gradient, "a_gradient": of_main, "b_gradient": of_branch}
        _run("balance", _BalanceCall, gradient, tensors, limit=ctx.limit, **ctx.values)
        return of_main, of_branch, None, None


class _Join(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, shares: tuple[float, float]) -> Tensor:
        x, skip = _training.laid(x), _training.laid(skip)
        out = _empty(x, x.shape[1] + skip.shape[1])
        ctx.values = {
            "share_a": shares[0],
            "share_b": shares[1],
            "pixels": _pixels(x),
            "channels_a": x.shape[1],
            "channels_b": skip.shape[1],
        }
        _run("join", _JoinCall, x, {"a": x, "b": skip, "out": out}, **ctx.values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradient = _training.laid(gradient)
        of_x, of_skip = (_empty(gradient, ctx.values[name]) for name in ("channels_a", "channels_b"))
        _run("join", _JoinCall, gradient, {"a": of_x, "b": of_skip, "out": gradient}, backward=1, **ctx.values)
        return of_x, of_skip, None
