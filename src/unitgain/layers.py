"""Magnitude-preserving layers, and the projection that keeps their weights on a sphere.

A layer normalizes its weight each time it is used (Eq. 47), which keeps activations at unit magnitude and makes the
gradient perpendicular to the weight. `project_weights` puts the stored weights back on their sphere (Eq. 66) and is
called by the training step, never by `forward`: a weight written in `forward` is lost when parameters are sharded, and
changes averaged copies that happen to be in training mode.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unitgain.ops import EPS, from_heads, magnitude, mp_sum, mp_sum_factors, normalize, over_pixels, to_heads
from unitgain.parallel import local, reshard

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
"""That convolutions are fastest in; both by the number of spatial dimensions."""


def effective_weight(weight: Float[Tensor, "..."], gain: float | Tensor = 1.0) -> Float[Tensor, "..."]:
    """The weight a layer computes with: every output unit of norm `gain` (Eqs. 46-47).

    Args:
        weight: `[C_out, ...]`, raw.
        gain: float or scalar tensor; part of the weight, so that it costs nothing per pixel.

    Returns:
        `normalize(w) * gain / sqrt(fan_in)` in float32 (float64 for float64), shape of `weight`.
    """
    # Two products rather than one with a combined factor: that is Algorithm 1, and what the papers' costs count.
    return _unit(weight) * _factor(weight, gain)


def _unit(weight: Tensor) -> Tensor:
    return normalize(weight if weight.dtype == torch.float64 else weight.float())


def _factor(weight: Tensor, gain: float | Tensor) -> float | Tensor:
    return gain / math.sqrt(weight[0].numel())


@contextmanager
def normalized_once(module: nn.Module) -> Iterator[None]:
    """Normalize every magnitude-preserving weight of `module` once for all forward and backward passes inside.

    The passes leave gradients with respect to the normalized weights, which add up; when the block ends well, one
    backward pass through the normalizations (Eq. 47) takes their sums to the weights. The same gradients as without,
    up to the order of floating-point sums, for as much more memory as weights and gradients take in float32. Only for
    parameters that are whole on this process and that nothing but the optimizer looks at.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, MPConv)]
    results = [_unit(layer.weight) for layer in layers]
    shared = [result.detach().requires_grad_(result.requires_grad) for result in results]
    for layer, normalized in zip(layers, shared, strict=True):
        layer.normalized = normalized
    try:
        yield
    finally:
        for layer in layers:
            layer.normalized = None
    used = [(result, leaf.grad) for result, leaf in zip(results, shared, strict=True) if leaf.grad is not None]
    torch.autograd.backward([result for result, _ in used], [grad for _, grad in used])


class MPConv(nn.Module):
    """Linear layer or convolution without bias whose weight is normalized on use (Eq. 47).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: kernel size per spatial dimension, odd: `()` for a linear layer over the last dimension, `(3,)`,
            `(3, 3)` or `(3, 3, 3)` for a convolution that keeps the size (zero padding).
        groups: of the convolution; divides both channel counts.

    Raises:
        ValueError: if a size is not positive, a kernel is even, has more than 3 dimensions, or groups do not divide.

    The weight, `[out_channels, in_channels / groups, *kernel]`, starts as N(0, 1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...] = (), groups: int = 1) -> None:
        super().__init__()
        if min(in_channels, out_channels, groups) < 1:
            raise ValueError(f"channels and groups must be positive, not {in_channels=}, {out_channels=}, {groups=}")
        if len(kernel) > 3 or any(k < 1 or k % 2 == 0 for k in kernel):
            raise ValueError(f"kernel must be up to three odd sizes, so that the output keeps its size, not {kernel}")
        if in_channels % groups or out_channels % groups or (groups > 1 and not kernel):
            raise ValueError(f"{groups=} must divide {in_channels=} and {out_channels=}, and be 1 for a linear layer")
        self.in_channels = in_channels
        self.groups = groups
        self.kernel = kernel
        self.weight = nn.Parameter(_normal(out_channels, in_channels // groups, *kernel))
        self.normalized: Tensor | None = None  # `normalize(weight)` while `normalized_once` holds it

    def forward(self, x: Float[Tensor, "..."], gain: float | Tensor = 1.0) -> Float[Tensor, "..."]:
        """Apply the layer to `x`, `[N, C_in, ...]` (linear: `[..., C_in]`), in the dtype of `x`."""
        weight = self.effective(gain, x.dtype)
        if not self.kernel:
            return x @ weight.t()
        padding = tuple(k // 2 for k in self.kernel)
        return CONVOLUTIONS[len(self.kernel)](x, weight, padding=padding, groups=self.groups)

    def effective(self, gain: float | Tensor = 1.0, dtype: torch.dtype | None = None) -> Float[Tensor, "..."]:
        """The weight that the layer computes with (`effective_weight`), as `dtype`, by default as it is computed;
        normalized no more inside `normalized_once`.
        """
        if self.normalized is None:
            weight = effective_weight(self.weight, gain)
        else:
            weight = self.normalized * _factor(self.weight, gain)
        return weight if dtype is None else weight.to(dtype)

    def extra_repr(self) -> str:
        """Shape of the layer, for `print`."""
        return f"{self.in_channels}, {len(self.weight)}, kernel={self.kernel}, groups={self.groups}"


class MPFourier(nn.Module):
    """Fourier features of unit magnitude, `sqrt(2) cos(2 pi (f a + phi))` (Eq. 75).

    Args:
        num_channels: number of features.

    Frequencies are 2 pi N(0, 1) and phases 2 pi U(0, 1), drawn once: constants, not parameters.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", _normal(num_channels, scale=2 * math.pi))
        self.register_buffer("phases", torch.rand(num_channels).mul_(2 * math.pi))

    def forward(self, a: Float[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Features `[N, C]` in float32 of the scalars `a`, `[N]`."""
        return torch.cos(a.float().outer(self.freqs.float()) + self.phases.float()) * math.sqrt(2)


def _normal(*shape: int, scale: float = 1.0) -> Tensor:
    empty = torch.empty(*shape)
    # On the meta device there is nothing to draw, and the first draw would import a thousand modules of torch.
    return empty if empty.is_meta else empty.normal_().mul_(scale)


def _units(vectors: Tensor) -> Tensor:
    return normalize(vectors, dim=-1)


class CosineAttention(nn.Module):
    """Self-attention over pixels with queries, keys and values normalized per head (Eqs. 10-11 and 30-34).

    Args:
        channels: of input and output.
        channels_per_head: must divide `channels`.
        balance: weight of the attention branch in the magnitude-preserving sum with its input.
        layer: makes the two 1x1 convolutions from input channels, output channels and kernel.
        dims: spatial dimensions of the input.

    Raises:
        ValueError: if `channels_per_head` does not divide `channels`.

    Works on tokens `[N, pixels, C]`, which is a view of a channels-last image, so the memory format survives. The rows
    of `qkv` are ordered (q, k, v), then head, then channel of the head.
    """

    def __init__(
        self,
        channels: int,
        channels_per_head: int,
        balance: float = 0.3,
        layer: Callable[[int, int, tuple[int, ...]], nn.Module] = MPConv,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if channels % channels_per_head:
            raise ValueError(f"channels_per_head={channels_per_head} must divide the {channels} channels it splits")
        self.heads = channels // channels_per_head
        self.balance = balance
        self.qkv = layer(channels, 3 * channels, (1,) * dims)
        self.proj = layer(channels, channels, (1,) * dims)

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Attend over all pixels of `x` and sum with `x`."""
        return mp_sum(x, self.attend(x), t=self.balance)

    @property
    def shares(self) -> tuple[float, float]:
        """Factors of its input and of what it attends to, in their sum (Eq. 88)."""
        return mp_sum_factors(self.balance)

    def attend(
        self,
        x: Float[Tensor, "n c *size"],
        units: Callable[[Tensor], Tensor] = _units,
        attention: Callable[[Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention,
    ) -> Float[Tensor, "n c *size"]:
        """The attention branch alone, of these functions for its unit vectors and its products."""
        q, k, v = units(to_heads(self.qkv(x), 3, self.heads)).permute(2, 0, 3, 1, 4).unbind(0)
        y = attention(q, k, v)  # scale 1 / sqrt(channels per head), as in Eq. 11
        return self.proj(from_heads(y, x.shape[2:]))


class CrossAttention(nn.Module):
    """Attention of pixels to a sequence of vectors, queries, keys and values normalized per head (Eqs. 10-11, 30-34).

    Args:
        channels: of input and output.
        channels_per_head: must divide `channels`.
        token_channels: of each vector.
        balance: weight of what is attended to in the magnitude-preserving sum with the input.
        dims: spatial dimensions of the input.

    Raises:
        ValueError: if `channels_per_head` does not divide `channels`.

    The order of the vectors means nothing. A sample that has none is left as it is, so that it keeps its magnitude.
    """

    def __init__(
        self, channels: int, channels_per_head: int, token_channels: int, balance: float = 0.3, dims: int = 2
    ) -> None:
        super().__init__()
        if channels % channels_per_head:
            raise ValueError(f"channels_per_head={channels_per_head} must divide the {channels} channels it splits")
        self.heads = channels // channels_per_head
        self.balance = balance
        self.query = MPConv(channels, channels, (1,) * dims)
        self.key_value = MPConv(token_channels, 2 * channels)
        self.proj = MPConv(channels, channels, (1,) * dims)

    def forward(
        self, x: Float[Tensor, "n c *size"], tokens: Float[Tensor, "n t d"], mask: Bool[Tensor, "n t"]
    ) -> Float[Tensor, "n c *size"]:
        """Attend from all pixels of `x` to the tokens that `mask` says are there, and sum with `x`."""
        return self.join(x, self.read(tokens, x.dtype), mask)

    def read(self, tokens: Float[Tensor, "n t d"], dtype: torch.dtype) -> Float[Tensor, "n t two heads c"]:
        """Keys and values of tokens, which all pixels attend to: what does not depend on these."""
        n, t, _ = tokens.shape
        pairs = self.key_value(normalize(tokens, dim=-1).to(dtype))
        return normalize(pairs.reshape(n, t, 2, self.heads, pairs.shape[-1] // (2 * self.heads)), dim=-1)

    def join(
        self, x: Float[Tensor, "n c *size"], known: Float[Tensor, "n t two heads d"], mask: Bool[Tensor, "n t"]
    ) -> Float[Tensor, "n c *size"]:
        """As `forward`, with what `read` gives."""
        if not known.shape[1]:
            return x
        some = mask.any(1)
        mask = mask | ~some[:, None]  # a softmax over nothing is NaN; its result is not looked at
        (q,) = normalize(to_heads(self.query(x), 1, self.heads), dim=-1).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (q, *known.unbind(2)))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        y = self.proj(from_heads(y, x.shape[2:]))
        return torch.where(over_pixels(some, x), mp_sum(x, y, t=self.balance), x)


@torch.no_grad()
def project_weights(module: nn.Module) -> None:
    """Put every magnitude-preserving weight of `module` back on its sphere, in place (Eq. 66).

    Each output unit of each `MPConv` gets norm sqrt(fan_in), up to the eps of Eq. 47. Other parameters (gains) are
    untouched. Acts on whole rows of local tensors, so it needs no communication when rows are sharded.
    """
    reshard(module)
    weights = [local(layer.weight) for layer in module.modules() if isinstance(layer, MPConv)]
    if weights:
        torch._foreach_div_(weights, [magnitude(weight, eps=EPS).to(weight.dtype) for weight in weights])
