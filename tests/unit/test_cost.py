"""Counting against closed forms, for any module."""

import pytest
import torch
from torch import nn

from unitgain.analysis.cost import activation_bytes, cost, network_cost, network_memory
from unitgain.layers import MPConv


def counted(module, *shape):
    with torch.device("meta"):
        return cost(module.to("meta"), torch.empty(shape))


def test_a_convolution_costs_a_multiply_add_per_weight_and_output_pixel():
    assert counted(nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), 1, 6, 5, 7).flops == 8 * 5 * 7 * 3 * 9
    assert counted(nn.Conv2d(4, 8, 3, stride=2, bias=False), 1, 4, 9, 9).flops == 8 * 4 * 4 * 4 * 9


@pytest.mark.parametrize(
    ("module", "shape", "flops"),
    [
        (nn.Linear(5, 7, bias=False), (3, 5), 3 * 7 * 5),
        (nn.SiLU(), (3, 5), 3 * 15),
        (nn.Softmax(dim=1), (3, 5), 3 * 15),
        (nn.GroupNorm(2, 4), (2, 4, 3), 4 * 24),
        (nn.Flatten(), (2, 3, 4), 0),
        (nn.Dropout(0.0), (3, 5), 0),
        (nn.AvgPool2d(2), (1, 2, 4, 4), 2 * 4 * 4),
        (nn.Upsample(scale_factor=2), (1, 2, 4, 4), 0),
    ],
)
def test_other_modules(module, shape, flops):
    assert counted(module.eval(), *shape).flops == flops


def test_normalizing_a_weight_is_counted_too():
    weight, rows = 8 * 4 * 9, 8
    made = counted(MPConv(4, 8, (3, 3)), 1, 4, 6, 6)
    assert made.by_op["convolution"] == 8 * 36 * 4 * 9
    assert made.by_op["linalg_vector_norm"] == weight
    assert made.by_op["mul"] == 2 * weight  # by the reciprocal of its norm, and by 1 / sqrt(fan_in)
    assert made.by_op["add"] == made.by_op["reciprocal"] == rows


def test_attention_costs_its_two_products_and_the_softmax():
    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    made = counted(Attention(), 2, 3, 16, 8)
    products = 2 * 3 * 16 * 16 * (8 + 8)
    assert made.flops == pytest.approx(products + 3 * 2 * 3 * 16 * 16, rel=0.06)  # scaling q and k comes on top
    assert made.flops >= products


def test_counting_computes_nothing_and_leaves_no_hooks():
    module = nn.Sequential(nn.Linear(4, 4), nn.SiLU()).to("meta")
    cost(module, torch.empty(1, 4, device="meta"))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


def test_a_module_that_fails_leaves_no_hooks_either():
    module = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        cost(module, torch.empty(1, 3))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


def test_the_count_is_the_same_on_the_cpu(tiny_spec):
    from unitgain.denoiser import Denoiser

    denoiser = Denoiser(tiny_spec).eval()
    real = cost(denoiser, torch.randn(1, 1, 8, 8), torch.ones(1), torch.zeros(1, 3))
    meta = network_cost(tiny_spec)
    for op in ("convolution", "linalg_vector_norm", "silu", "reciprocal", "clamp"):
        assert real.by_op[op] == meta.by_op[op]
    assert real.flops == pytest.approx(meta.flops, rel=0.01)  # attention is one operation there and four here


def test_parts_and_resolutions(tiny_spec):
    made = network_cost(tiny_spec)
    assert set(made.by_part) == {"embedding", "encoder", "decoder", "attention", "output", "other"}
    assert list(made.by_resolution) == ["8x8", "4x4"]
    blocks = made.by_part["encoder"] + made.by_part["decoder"] + made.by_part["attention"]
    assert sum(made.by_resolution.values()) == blocks
    without = network_cost(tiny_spec.replace(attn_resolutions=()))
    assert without.by_part["attention"] < made.by_part["attention"]  # that of the first decoder block stays
    assert without.by_part["embedding"] == made.by_part["embedding"]


def test_memory_is_what_autograd_keeps_for_one_sample():
    module = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Sigmoid(), nn.Linear(8, 2, bias=False), nn.Sigmoid())
    # Kept per sample: the input of the first layer's weight gradient (4), two sigmoids' outputs (8, 2); 4 bytes each.
    assert activation_bytes(module, lambda n: (torch.randn(n, 4),)) == 4 * (4 + 8 + 2)


def test_memory_of_a_network_is_that_of_its_activations(tiny_spec):
    one, twice = network_memory(tiny_spec), network_memory(tiny_spec.replace(num_blocks=2))
    assert 0 < one < twice
