"""Depthwise 3x3 convolutions (zero padding), with modulation and SiLU of the input on the way in.

Images lie channels-last: pixel p of a sample and channel c at `p * channels + c`. Whatever is stored, arithmetic is in
float32. Accesses outside an image are masked and read zero. Weights are `[9, C]`, float32. The activation of zero
is zero, so it may be applied to the padding too.
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
def _pixels(image, p, inside, real, pixels, channels):
    """Pixels p, `[P, C]` in float32, and zero for those outside the row or the image; `image` points at channels."""
    mask = (inside & (p >= 0) & (p < pixels))[:, None] & real
    return tl.load(image + p[:, None] * channels, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _strip(height, width, ROWS: tl.constexpr, BLOCK_W: tl.constexpr):
    """The strip of a program: its sample, its first row, and its columns."""
    strips = tl.cdiv(width, BLOCK_W)
    chunks = tl.cdiv(height, ROWS)
    sample = tl.program_id(0) // (strips * chunks)
    top = (tl.program_id(0) // strips) % chunks * ROWS
    column = tl.program_id(0) % strips * BLOCK_W + tl.arange(0, BLOCK_W)
    return sample, top, column


@triton.jit
def _taps(weight, channels, real):
    """The nine weights of each channel, row by row; `weight` points at channels."""
    w00 = tl.load(weight, mask=real, other=0.0)
    w01 = tl.load(weight + channels, mask=real, other=0.0)
    w02 = tl.load(weight + 2 * channels, mask=real, other=0.0)
    w10 = tl.load(weight + 3 * channels, mask=real, other=0.0)
    w11 = tl.load(weight + 4 * channels, mask=real, other=0.0)
    w12 = tl.load(weight + 5 * channels, mask=real, other=0.0)
    w20 = tl.load(weight + 6 * channels, mask=real, other=0.0)
    w21 = tl.load(weight + 7 * channels, mask=real, other=0.0)
    w22 = tl.load(weight + 8 * channels, mask=real, other=0.0)
    return w00, w01, w02, w10, w11, w12, w20, w21, w22


@triton.jit
def forward3(
    x_ptr,
    weight_ptr,
    scale_ptr,
    scale_stride,
    y_ptr,
    gain,
    height,
    width,
    channels,
    MODULATE: tl.constexpr,
    SILU: tl.constexpr,
    AFTER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program walks down a strip, so that each row is activated three times, once per column of the kernel.

    `last` and `here` gather the output rows that still lack contributions from the rows below.
    """
    sample, top, column = _strip(height, width, ROWS, BLOCK_W)  # pyright: ignore[reportGeneralTypeIssues]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    real = c < channels
    pixels = height * width
    start = sample.to(tl.int64) * pixels * channels
    x_ptr += start + c
    y_ptr += start + c
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = _taps(weight_ptr + c, channels, real)
    scale = 1.0
    if MODULATE:
        scale = tl.load(scale_ptr + sample * scale_stride + c, mask=real, other=0.0)
    inside = column < width
    has_left = inside & (column >= 1)
    has_right = column + 1 < width
    last = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32)
    here = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32)
    for step in range(ROWS + 2):
        p = (top + step - 1) * width + column
        left = _pixels(x_ptr, p - 1, has_left, real, pixels, channels)
        mid = _pixels(x_ptr, p, inside, real, pixels, channels)
        right = _pixels(x_ptr, p + 1, has_right, real, pixels, channels)
        left = activated(left, scale, gain, MODULATE, SILU, AFTER)
        mid = activated(mid, scale, gain, MODULATE, SILU, AFTER)
        right = activated(right, scale, gain, MODULATE, SILU, AFTER)
        y = last + w20 * left + w21 * mid + w22 * right
        last = here + w10 * left + w11 * mid + w12 * right
        here = w00 * left + w01 * mid + w02 * right
        above = p - width
        mask = (inside & (above >= top * width) & (above < pixels))[:, None] & real
        tl.store(y_ptr + above[:, None] * channels, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _reached(grad_ptr, p, has_left, inside, has_right, real, pixels, channels, w0, w1, w2, a, grad, sum0, sum1, sum2):
    """What a row of three gradients around p adds to the pixel's own and to those of a row of weights.

    The pixel reached the output to its right through the first weight of a row, and that to its left through the last.
    """
    g = _pixels(grad_ptr, p + 1, has_right, real, pixels, channels)
    grad += w0 * g
    sum0 += a * g
    g = _pixels(grad_ptr, p, inside, real, pixels, channels)
    grad += w1 * g
    sum1 += a * g
    g = _pixels(grad_ptr, p - 1, has_left, real, pixels, channels)
    grad += w2 * g
    sum2 += a * g
    return grad, sum0, sum1, sum2


@triton.jit
def _store_row(part, channels, real, sum0, sum1, sum2):
    """Sums over a program's pixels, for a row of weights."""
    tl.store(part, tl.sum(sum0, axis=0), mask=real)
    tl.store(part + channels, tl.sum(sum1, axis=0), mask=real)
    tl.store(part + 2 * channels, tl.sum(sum2, axis=0), mask=real)


@triton.jit
def backward3(
    grad_ptr,
    x_ptr,
    weight_ptr,
    scale_ptr,
    scale_stride,
    grad_x_ptr,
    weight_part_ptr,
    scale_part_ptr,
    gain,
    height,
    width,
    channels,
    MODULATE: tl.constexpr,
    SILU: tl.constexpr,
    AFTER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The nine gradients around a pixel serve both its own gradient and those of the weights.

    Sums over a program's pixels go to `weight_part`, `[programs, 9, C]`, and `scale_part`, `[programs, C]`.
    """
    sample, top, column = _strip(height, width, ROWS, BLOCK_W)  # pyright: ignore[reportGeneralTypeIssues]
    lane = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c = lane[None, :]
    real = c < channels
    pixels = height * width
    start = sample.to(tl.int64) * pixels * channels
    grad_ptr += start + c
    x_ptr += start + c
    grad_x_ptr += start + c
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = _taps(weight_ptr + c, channels, real)
    scale = 1.0
    if MODULATE:
        scale = tl.load(scale_ptr + sample * scale_stride + c, mask=real, other=0.0)
    inside = column < width
    sides = (column >= 1) & inside, inside, column + 1 < width, real, pixels, channels
    zero = tl.zeros((BLOCK_W, BLOCK_C), dtype=tl.float32)
    s00, s01, s02, s10, s11, s12, s20, s21, s22, sums = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    for step in range(ROWS):
        p = (top + step) * width + column
        x = _pixels(x_ptr, p, inside, real, pixels, channels)
        a = activated(x, scale, gain, MODULATE, SILU, AFTER)
        grad, s00, s01, s02 = _reached(grad_ptr, p + width, *sides, w00, w01, w02, a, zero, s00, s01, s02)
        grad, s10, s11, s12 = _reached(grad_ptr, p, *sides, w10, w11, w12, a, grad, s10, s11, s12)
        grad, s20, s21, s22 = _reached(grad_ptr, p - width, *sides, w20, w21, w22, a, grad, s20, s21, s22)
        grad, of_scale = pulled_back(grad, x, scale, gain, MODULATE, SILU, AFTER)
        if MODULATE:
            sums += of_scale
        mask = (inside & (p < pixels))[:, None] & real
        tl.store(grad_x_ptr + p[:, None] * channels, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)
    part = weight_part_ptr + tl.program_id(0).to(tl.int64) * 9 * channels + lane
    _store_row(part, channels, lane < channels, s00, s01, s02)
    _store_row(part + 3 * channels, channels, lane < channels, s10, s11, s12)
    _store_row(part + 6 * channels, channels, lane < channels, s20, s21, s22)
    if MODULATE:
        scale_part = scale_part_ptr + tl.program_id(0).to(tl.int64) * channels + lane
        tl.store(scale_part, tl.sum(sums, axis=0), mask=lane < channels)
