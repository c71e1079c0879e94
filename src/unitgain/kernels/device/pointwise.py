"""Elementwise kernels: SiLU and modulation, weighted sums.

Images lie channels-last: pixel p and channel c at `p * channels + c`. Whatever is stored, arithmetic is in float32.
Accesses outside an image are masked and read zero.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def activated(x, scale, gain, MODULATE: tl.constexpr, SILU: tl.constexpr, AFTER: tl.constexpr):
    """`gain silu(scale x)` or, with AFTER, `scale gain silu(x)`, without what is switched off; zero for zero."""
    if MODULATE and not AFTER:
        x = x * scale
    if SILU:
        x = x * tl.sigmoid(x) * gain
    if MODULATE and AFTER:
        x = x * scale
    return x


@triton.jit
def pulled_back(grad, x, scale, gain, MODULATE: tl.constexpr, SILU: tl.constexpr, AFTER: tl.constexpr):
    """From the gradient of `activated` to those of `x` and, for its pixels apart, of `scale`."""
    bent = x
    if MODULATE and not AFTER:
        bent = x * scale
    if SILU:
        share = tl.sigmoid(bent)
        of_scale = grad * bent * share * gain
        grad = grad * gain * share * (1.0 + bent * (1.0 - share))
    if not (SILU and AFTER):
        of_scale = grad * x
    if MODULATE:
        grad = grad * scale
    return grad, of_scale


@triton.jit
def activate_forward(
    x_ptr,
    scale_ptr,
    scale_stride,
    y_ptr,
    gain,
    pixels,
    channels,
    MODULATE: tl.constexpr,
    SILU: tl.constexpr,
    AFTER: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of pixels of one sample; `scale` is `[N, C]`, rows `scale_stride` apart."""
    chunks = tl.cdiv(pixels, BLOCK_P)
    sample = tl.program_id(0) // chunks
    p = (tl.program_id(0) % chunks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    offsets = (sample.to(tl.int64) * pixels + p)[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0
    if MODULATE:
        scale = tl.load(scale_ptr + sample * scale_stride + c, mask=c < channels, other=0.0)[None, :]
    y = activated(x, scale, gain, MODULATE, SILU, AFTER)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def activate_backward(
    grad_ptr,
    x_ptr,
    scale_ptr,
    scale_stride,
    grad_x_ptr,
    part_ptr,
    gain,
    pixels,
    channels,
    MODULATE: tl.constexpr,
    SILU: tl.constexpr,
    AFTER: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of a tile; that of `scale` as a sum over the tile, `part` being `[programs, C]`."""
    chunks = tl.cdiv(pixels, BLOCK_P)
    sample = tl.program_id(0) // chunks
    p = (tl.program_id(0) % chunks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    offsets = (sample.to(tl.int64) * pixels + p)[:, None] * channels + c[None, :]
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0
    if MODULATE:
        scale = tl.load(scale_ptr + sample * scale_stride + c, mask=c < channels, other=0.0)[None, :]
    grad, of_scale = pulled_back(grad, x, scale, gain, MODULATE, SILU, AFTER)
    if MODULATE:
        part = tl.sum(of_scale, axis=0)
        tl.store(part_ptr + tl.program_id(0).to(tl.int64) * channels + c, part, mask=c < channels)
    tl.store(grad_x_ptr + offsets, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_forward(a_ptr, b_ptr, y_ptr, of_a, of_b, limit, count, CLAMP: tl.constexpr, BLOCK: tl.constexpr):
    """`clamp(of_a a + of_b b, -limit, limit)`."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    a = tl.load(a_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = a * of_a + b * of_b
    if CLAMP:  # by comparisons, which let NaN through: minimum and maximum would hide it
        y = tl.where(y > limit, limit, y)
        y = tl.where(y < -limit, -limit, y)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_backward(
    grad_ptr, y_ptr, grad_a_ptr, grad_b_ptr, of_a, of_b, limit, count, CLAMP: tl.constexpr, BLOCK: tl.constexpr
):
    """Both gradients; none where the output lies at the limit."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if CLAMP:
        y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        grad = tl.where(tl.abs(y) >= limit, 0.0, grad)
    tl.store(grad_a_ptr + offsets, (grad * of_a).to(grad_a_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_b_ptr + offsets, (grad * of_b).to(grad_b_ptr.dtype.element_ty), mask=mask)
