"""Weights on their way into a network that is trained, all of it in one call, with gradients.

Results do not depend on the number of threads. Everything is computed in float32 and rounded once.
"""

from collections.abc import Iterable, Sequence
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from unitgain.native.bind import TYPES, Binding, address
from unitgain.ops import EPS


class _Unit(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("gain", c_void_p),
        ("out", c_void_p),
        ("out_gradient", c_void_p),
        ("weight_gradient", c_void_p),
        ("gain_gradient", c_void_p),
        ("factor", c_float),
        ("eps", c_float),
        ("rows", c_int64),
        ("inputs", c_int64),
        ("kernel", c_int64),
        ("type", c_int32),
    ]


_weights = Binding("weights", functions={"units": (None, POINTER(_Unit), c_int64)}, structs={"unit": _Unit})


def can_normalize(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether `unit_weights` takes this weight on this machine, for results of this type, and nobody compiles or
    transforms it.
    """
    whole = type(weight) in (Tensor, Parameter) or hasattr(weight, "fake_mode")  # not, say, a part on a process
    return (
        whole
        and weight.dtype == torch.float32
        and weight.ndim > 1
        and weight.device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _weights.takes(dtype)
    )


def unit_weights(
    weights: Sequence[Float[Tensor, "..."]],
    dtype: torch.dtype,
    factors: Sequence[float],
    gains: Sequence[Tensor | None] | None = None,
    spread: bool = False,
) -> tuple[Float[Tensor, "..."], ...]:
    """`gain * factor` times the rows of weights, each over its root mean square plus `EPS` (Eq. 47), as `dtype`.

    Args:
        weights: float32, made contiguous where they are not.
        dtype: float32 or bfloat16, rounded to once.
        factors: one for each.
        gains: a number for each, float32 `[]`; None for 1.
        spread: whether results of four dimensions are channels-last, as convolutions take them.
    """
    gains = [None] * len(weights) if gains is None else gains
    return _Units.apply(dtype, factors, spread, *weights, *gains)  # type: ignore[no-untyped-call]


def unit_weight(
    weight: Float[Tensor, "out ..."],
    dtype: torch.dtype,
    factor: float,
    gain: Tensor | None = None,
    spread: bool = False,
) -> Float[Tensor, "out ..."]:
    """One of `unit_weights`."""
    return unit_weights([weight], dtype, [factor], [gain], spread)[0]


@torch.no_grad()
def project(weights: Sequence[Float[Tensor, "..."]]) -> None:
    """Divide the rows of weights by their root mean square plus `EPS`, in place (Eq. 66).

    Args:
        weights: contiguous, of those that `can_normalize` has for float32.
    """
    _run(weights, (_call(weight, 1.0, weight=weight, out=weight) for weight in weights))


class _Units(Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, factors: Sequence[float], spread: bool, *tensors: Tensor | None) -> Any:
        count = len(factors)
        weights = [weight.contiguous() for weight in tensors[:count] if weight is not None]
        gains = [None if gain is None else gain.float() for gain in tensors[count:]]
        formats = [torch.channels_last if spread and w.ndim == 4 else torch.contiguous_format for w in weights]
        outs = [torch.empty_like(w, dtype=dtype, memory_format=f) for w, f in zip(weights, formats, strict=True)]
        parts = zip(weights, gains, outs, factors, strict=True)
        _run(outs, (_call(out, factor, weight=w, gain=gain, out=out) for w, gain, out, factor in parts))
        ctx.factors, ctx.formats = factors, formats
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*weights, *gains)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        count, saved = len(gradients), ctx.saved_tensors  # which is asked for once, as checkpointing wants it
        weights, gains = saved[:count], saved[count:]
        of_weights: list[Tensor | None] = [None] * count
        of_gains: list[Tensor | None] = [None] * count
        there: dict[int, Tensor] = {}
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                there[i] = gradient.contiguous(memory_format=ctx.formats[i])
                of_weights[i] = torch.empty_like(weights[i])
                if gains[i] is not None:
                    of_gains[i] = torch.empty(len(weights[i]), dtype=torch.float32, device="cpu")

        def call(i: int) -> _Unit:
            given = {"weight": weights[i], "gain": gains[i], "out_gradient": there[i]}
            return _call(there[i], ctx.factors[i], **given, weight_gradient=of_weights[i], gain_gradient=of_gains[i])

        _run(list(there.values()), map(call, there))
        sums = (None if of is None else of.sum() for of in of_gains)
        return None, None, None, *of_weights, *sums


def _call(like: Tensor, factor: float, **tensors: Tensor | None) -> _Unit:
    """As C takes it, for a result or its gradient that is and lies as `like`."""
    kernel = like.shape[2:].numel() if like.ndim == 4 and not like.is_contiguous() else 1
    inputs = like.shape[1:].numel() // kernel
    found = {name: address(tensor) for name, tensor in tensors.items()}
    shape = {"rows": len(like), "inputs": inputs, "kernel": kernel}
    return _Unit(**found, **shape, factor=factor, eps=EPS, type=TYPES[like.dtype])


def _run(like: Sequence[Tensor], calls: Iterable[_Unit]) -> None:
    """Carry out calls for these results or their gradients."""
    if not like or hasattr(like[0], "fake_mode"):  # shapes without numbers, of which memory is estimated
        return
    _weights.need().unitgain_units((_Unit * len(like))(*calls), len(like))
