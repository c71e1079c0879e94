"""What the tests of kernels share: images on a GPU where there is one, else on the CPU for Triton's interpreter."""

import importlib.util

import pytest
import torch

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def image(*size, dtype=torch.float32):
    """Channels-last, and a leaf."""
    x = torch.randn(*size, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def vector(*size):
    return torch.randn(*size, device=DEVICE).requires_grad_()


def weights_like(y):
    """A gradient that has nothing regular about it, the same for each dtype."""
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return weights.bfloat16().to(y.device, y.dtype)


def results(function, inputs, **options):
    """Output and gradients of all tensors among the inputs."""
    inputs = [value.detach().requires_grad_() if isinstance(value, torch.Tensor) else value for value in inputs]
    y = function(*inputs, **options)
    y.backward(weights_like(y))
    return [y.detach()] + [value.grad for value in inputs if isinstance(value, torch.Tensor)]
