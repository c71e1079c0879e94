"""Pixel norm: every pixel's channels scaled to unit magnitude (Eq. 30 of EDM2). Conventions as in `pointwise`."""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def norm_forward(x_ptr, y_ptr, eps, pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """`x / (eps + m)` with m the magnitude of a pixel; BLOCK_C takes all channels."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    offsets = p[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    magnitude = tl.sqrt(tl.sum(x * x, axis=1) / channels)
    y = x * (1.0 / (magnitude + eps))[:, None]
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_backward(grad_ptr, x_ptr, grad_x_ptr, eps, pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """`g / (eps + m) - x <g, x> / (C m (eps + m)^2)`; the second term is zero for a pixel of zeros."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    offsets = p[:, None] * channels + c[None, :]
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    magnitude = tl.sqrt(tl.sum(x * x, axis=1) / channels)
    factor = 1.0 / (magnitude + eps)
    along = tl.sum(grad * x, axis=1) * factor * factor / (channels * tl.where(magnitude == 0.0, 1.0, magnitude))
    grad = grad * factor[:, None] - x * along[:, None]
    tl.store(grad_x_ptr + offsets, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)
