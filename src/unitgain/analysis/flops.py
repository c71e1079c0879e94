"""Floating-point operations of tensor operations, counted as in the papers: one multiply-add is one (Appendix D.5)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# Per output element. Whatever is pointwise and not named here is 1: add, mul, div, sqrt, exp, cos, log, ...
POINTWISE = {"silu": 2 + 1, "lerp": 2, "clamp": 2, "addcmul": 2, "_softmax": 3, "_safe_softmax": 3}
# Move or cast values without computing any.
FREE = frozenset({"clone", "copy_", "_to_copy", "fill_", "cat", "where", "lift_fresh", "detach"})
FREE |= {f"upsample_nearest{dims}d" for dims in (1, 2, 3)} | {"index_select"}


def operation(func: torch._ops.OpOverload) -> str:
    """Name of an operation, without its namespace and overload: "convolution", "mul", "mm"."""
    return func.overloadpacket.__name__


def flops(func: torch._ops.OpOverload, args: tuple[Any, ...], out: Any) -> int:
    """Operations of one call.

    Args:
        func: the operation, as a dispatch mode sees it.
        args: its positional arguments.
        out: its result.
    """
    name = operation(func)
    if name in COUNTERS:
        return COUNTERS[name](args, out)
    results = [value for value in (out if isinstance(out, tuple | list) else [out]) if isinstance(value, Tensor)]
    if name in FREE or not results or not results[0].is_floating_point():
        return 0
    size = results[0].numel()
    if name.removesuffix("_") in POINTWISE or name in POINTWISE:
        return POINTWISE.get(name, POINTWISE.get(name.removesuffix("_"), 1)) * size
    return size if torch.Tag.pointwise in func.tags else 0


def _convolution(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * math.prod(args[1].shape[1:])  # [C_out, C_in / groups, kh, kw]


def _group_norm(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> int:
    return 4 * out[0].numel()


def _attention(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> int:
    query, key, value = args[:3]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    return scores * (query.shape[-1] + 3 + value.shape[-1])  # q.k, softmax, weighted values


def _input_elements(args: tuple[Any, ...], out: Any) -> int:
    return args[0].numel()


def _product(left: int) -> Callable[[tuple[Any, ...], Tensor], int]:
    return lambda args, out: out.numel() * args[left].shape[-1]


def _pool(args: tuple[Any, ...], out: Tensor) -> int:
    kernel = args[1] if len(args[1]) == out.ndim - 2 else args[1] * (out.ndim - 2)
    return out.numel() * math.prod(kernel)


COUNTERS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _convolution,
    "mm": _product(0),
    "bmm": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "native_group_norm": _group_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "avg_pool1d": _pool,
    "avg_pool2d": _pool,
    "avg_pool3d": _pool,
    "linalg_vector_norm": _input_elements,
    "sum": _input_elements,
    "mean": _input_elements,
}
