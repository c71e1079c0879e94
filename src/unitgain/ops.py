"""Magnitude-preserving functions: if the inputs have unit magnitude, so does the output.

The magnitude of a tensor is the root of its mean square (EDM2, Eqs. 3 and 68). The functions look at no statistics of
the data (other than `normalize`, which is defined by them): they assume uncorrelated inputs of equal magnitude.

Source of all equations: EDM2, *Analyzing and Improving the Training Dynamics of Diffusion Models*, Appendix B.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

# sqrt(E[silu(x)^2]) for x ~ N(0, 1), rounded as in Eq. 80: the released networks were trained with this figure.
SILU_MAGNITUDE = 0.596
# Guards the divisions of Eqs. 30 and 47.
EPS = 1e-4

Resampling = Literal["keep", "down", "up"]
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block in which tensors keep their precision, whatever `torch.autocast` says around it."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def to_heads(x: Shaped[Tensor, "n c *size"], parts: int, heads: int) -> Shaped[Tensor, "n p parts heads d"]:
    """The vectors of each pixel that attention works on; of images that are channels-last a view.

    In memory each vector is in one piece: products of strided ones depend on where in a batch an image lies (MKL with
    AVX2), and an image must not.

    Args:
        x: `[N, parts heads d, *size]`: channels ordered by part (q, k, v), then head.
        parts: how many.
        heads: in each.
    """
    n, c = x.shape[:2]
    return x.flatten(2).mT.contiguous().reshape(n, -1, parts, heads, c // (parts * heads))


def from_heads(y: Shaped[Tensor, "n heads p d"], size: Sequence[int]) -> Shaped[Tensor, "n c *size"]:
    """What the heads have gathered for each pixel, as an image of this size, channels-last."""
    n, heads, _, d = y.shape
    return y.transpose(1, 2).reshape(n, *size, heads * d).movedim(-1, 1)


def normalize(
    x: Float[Tensor, "..."], dim: int | Sequence[int] | None = None, eps: float = EPS
) -> Float[Tensor, "..."]:
    """Scale `x` to unit magnitude over `dim` (Eqs. 30 and 47).

    Args:
        x: any shape, any floating dtype; the norm is taken in float32 (float64 for float64).
        dim: dimensions to reduce; all but the first by default, which is one vector per output channel of a weight.
        eps: added to the magnitude; an all-zero vector stays zero.

    Returns:
        `x / (eps + ||x|| / sqrt(n))` with n the number of elements reduced; shape and dtype of `x`.
    """
    # A product with the reciprocal: the gradient of a quotient takes twice as many passes over x.
    return x * magnitude(x, dim, eps).reciprocal().to(x.dtype)


def magnitude(
    x: Float[Tensor, "..."], dim: int | Sequence[int] | None = None, eps: float = 0.0
) -> Float[Tensor, "..."]:
    """Root mean square of `x` over `dim`, plus `eps`, dimensions kept (Eq. 3).

    Args:
        x: any shape, any floating dtype.
        dim: dimensions to reduce; all but the first by default.
        eps: added to the result.

    Returns:
        Magnitudes in float32 (float64 for float64 `x`), with size 1 along `dim`.
    """
    if dim is None:
        dim = list(range(1, x.ndim))
    if isinstance(dim, Sequence) and not dim:  # torch would reduce over everything; a vector of scalars reduces nothing
        norm, count = x.abs().to(_norm_dtype(x)), 1
    else:
        norm = cast(Tensor, torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=_norm_dtype(x)))  # pyright: ignore
        count = x.numel() // max(norm.numel(), 1)
    return torch.add(eps, norm, alpha=1 / math.sqrt(max(count, 1)))


def _norm_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def mp_silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Magnitude-preserving SiLU: `silu(x) / 0.596` (Eq. 81); any shape, dtype kept."""
    return F.silu(x) * (1 / SILU_MAGNITUDE)


def mp_sum(a: Float[Tensor, "..."], b: Float[Tensor, "..."], t: float = 0.5) -> Float[Tensor, "..."]:
    """Magnitude-preserving sum `((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)` (Eq. 88).

    Args:
        a: main path, any shape.
        b: branch, same shape and dtype.
        t: weight of `b`, in [0, 1].
    """
    of_a, of_b = mp_sum_factors(t)
    return torch.add(a * of_a, b, alpha=of_b)


def mp_sum_factors(t: float) -> tuple[float, float]:
    """What `mp_sum` multiplies `a` and `b` by."""
    scale = 1 / math.sqrt((1 - t) ** 2 + t**2)
    return (1 - t) * scale, t * scale


def mp_cat(a: Float[Tensor, "n a ..."], b: Float[Tensor, "n b ..."], t: float = 0.5) -> Float[Tensor, "n c ..."]:
    """Magnitude-preserving concatenation of channels, in which `a` and `b` contribute (1 - t) : t (Eq. 103).

    Args:
        a: any number of channels.
        b: another; else of the same shape, and dtype.
        t: share of `b`, in [0, 1].
    """
    of_a, of_b = mp_cat_factors(a.shape[1], b.shape[1], t)
    return torch.cat([a * of_a, b * of_b], dim=1)


def mp_cat_factors(size_a: int, size_b: int, t: float) -> tuple[float, float]:
    """What `mp_cat` multiplies parts of these sizes by."""
    scale = math.sqrt((size_a + size_b) / ((1 - t) ** 2 + t**2))
    return scale * (1 - t) / math.sqrt(size_a), scale * t / math.sqrt(size_b)


def resample(x: Float[Tensor, "n c *size"], mode: Resampling) -> Float[Tensor, "n c *size2"]:
    """Halve each side with a box filter of 2, double it to the nearest pixel, or keep it (Figs. 2 and 16-22).

    Doubling keeps the magnitude exactly. Halving keeps that of content which is constant over the box and, in two
    dimensions, halves that of white noise, which is why the encoder normalizes pixels right after it.

    Args:
        x: `[N, C, *size]`, one to three sides; even for "down".
        mode: "keep", "down" or "up".
    """
    if mode == "keep":
        return x
    if mode == "down":
        return _POOLS[x.ndim - 2](x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def mirror(x: Float[Tensor, "n c *size"], multiple: int) -> Float[Tensor, "n c *size2"]:
    """Continue `x` at the end of each side by its mirror image, up to the next multiple; itself if it is one.

    A mirror image has the magnitude of what it shows, and mirrored white noise is white wherever a box filter looks:
    neighbours are never the same pixel. Zeros would lower magnitudes, and pixels of the edge, repeated, would keep the
    noise that the filter takes out elsewhere.

    Args:
        x: `[N, C, *size]`, any sides; mirrored again where there is less of it than is missing.
        multiple: positive.
    """
    for dim, side in enumerate(x.shape[2:], 2):
        if side % multiple:
            there = torch.arange(side + -side % multiple, device=x.device) % max(2 * side - 2, 1)
            x = x.index_select(dim, torch.minimum(there, (2 * side - 2 - there).abs()))
    return x


def crop(x: Float[Tensor, "n c *size"], size: Sequence[int]) -> Float[Tensor, "n c *size2"]:
    """The first `size` pixels of each side: undoes `mirror`."""
    return x if x.shape[2:] == tuple(size) else x[(..., *map(slice, size))]


def over_pixels(values: Shaped[Tensor, "..."], x: Float[Tensor, "n c *size"]) -> Shaped[Tensor, "..."]:
    """A view of what belongs to samples, `[N]`, or to their channels, `[N, C]`, that broadcasts over pixels of `x`."""
    return values[(..., *[None] * (x.ndim - values.ndim))]
