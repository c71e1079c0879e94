"""Kernels against the same in PyTorch: on a GPU where there is one, else on the CPU in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_error
from triton_tests import image, needs_triton, results, vector, weights_like

from unitgain.kernels import activate, depthwise, functions, launch, pixel_norm, reference, weighted_sum
from unitgain.kernels.functions import by_taps
from unitgain.ops import SILU_MAGNITUDE

SILU = 1 / SILU_MAGNITUDE
TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 8e-3}  # the interpreter truncates to bfloat16


def agree(function, plain, inputs, **options):
    """The kernel in its own dtype is as close to float64 as one rounding allows; dtypes and layout are kept."""
    dtype = inputs[0].dtype
    found = results(function, inputs, **options)
    exact = [value.double() if isinstance(value, torch.Tensor) else value for value in inputs]
    wanted = results(plain, exact, **options)
    for position, (value, reference_value) in enumerate(zip(found, wanted, strict=True)):
        assert relative_error(value.double(), reference_value) < TOLERANCE[dtype], f"{position=}"
    assert found[0].dtype == found[1].dtype == dtype
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def kernels_only(monkeypatch):
    """Fails where the reference runs in the place of a kernel."""
    monkeypatch.setattr(functions, "reference", None)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that little images have several, and a part of one at the end."""
    monkeypatch.setattr(launch, "STRIP", 2)
    monkeypatch.setattr(launch, "DEPTH", 2)
    monkeypatch.setattr(launch, "TILE", 16)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("modulated", "silu", "after"), [(True, SILU, False), (True, SILU, True), (True, None, True), (False, 1.0, False)]
)
def test_activation(dtype, modulated, silu, after, kernels_only, small_tiles):
    for size in ((1, 1, 1, 1), (2, 5, 3, 3)):
        scale = vector(*size[:2]) if modulated else None
        agree(activate, reference.activate, [image(*size, dtype=dtype), scale], silu=silu, after=after)


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "modulated", "silu", "after"),
    [
        (torch.float32, True, SILU, False),
        (torch.float32, True, SILU, True),
        (torch.float16, True, SILU, False),
        (torch.bfloat16, True, SILU, True),
        (torch.bfloat16, False, 1.0, False),
        (torch.float32, False, None, False),
        (torch.bfloat16, True, None, False),
    ],
    ids=str,
)
def test_3x3_convolution(dtype, modulated, silu, after, kernels_only, small_tiles):
    inputs = [image(2, 3, 2, 3, dtype=dtype), vector(3, 1, 3, 3), vector(2, 3) if modulated else None]
    agree(depthwise, reference.depthwise, inputs, silu=silu, after=after)


@needs_triton
def test_a_strip_that_has_neighbours_on_all_sides(kernels_only, small_tiles, monkeypatch):
    monkeypatch.setattr(launch, "DEPTH", 1)
    agree(depthwise, reference.depthwise, [image(1, 2, 3, 5), vector(2, 1, 3, 3), vector(1, 2)], silu=SILU)


@needs_triton
def test_images_of_one_pixel(kernels_only):
    agree(depthwise, reference.depthwise, [image(1, 1, 1, 1), vector(1, 1, 3, 3), vector(1, 1)], silu=SILU)


@needs_triton
@pytest.mark.parametrize(("k", "samples", "dtype"), [(5, 2, torch.float32), (7, 1, torch.float16)], ids=str)
def test_convolutions_of_other_sizes(k, samples, dtype, kernels_only):
    inputs = [image(samples, 3, 2, 3, dtype=dtype), vector(3, 1, k, k), vector(samples, 3)]
    agree(depthwise, reference.depthwise, inputs, silu=SILU, after=k == 7)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pixel_norm(dtype, kernels_only, small_tiles):
    for size, eps in (((1, 1, 1, 1), 0.5), ((2, 5, 3, 3), 0.1), ((1, 70, 2, 1), 1e-4)):
        x = image(*size, dtype=dtype)
        agree(pixel_norm, reference.pixel_norm, [x], eps=eps)
    with torch.no_grad():
        x[0, :, 1] = 0
    agree(pixel_norm, reference.pixel_norm, [x])


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("limit", [None, 0.5])
def test_weighted_sum(dtype, limit, kernels_only, small_tiles):
    agree(
        weighted_sum,
        reference.weighted_sum,
        [image(2, 5, 3, 3, dtype=dtype), image(2, 5, 3, 3, dtype=dtype), 0.7, 0.4],
        limit=limit,
    )


MIXED = [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)]


@needs_triton
@pytest.mark.parametrize(("dtype", "wanted"), MIXED, ids=str)
@pytest.mark.parametrize("name", ["activate", "3x3", "5x5", "5x5 activated", "norm"])
def test_output_of_another_type(dtype, wanted, name, kernels_only, small_tiles):
    """One rounding at the end, to the type that was asked for; gradients in the type of the input."""
    x, scale = image(2, 5, 3, 3, dtype=dtype), vector(2, 9).detach()[:, 2:7]  # rows that are parts of longer ones
    k = int(name[0]) if name[0].isdigit() else 0
    function, inputs, options = {
        "activate": (activate, [x, scale], {"silu": SILU}),
        "3x3": (depthwise, [x, vector(5, 1, 3, 3), scale], {"silu": SILU}),
        "5x5": (depthwise, [x, vector(5, 1, k, k)], {}),
        "5x5 activated": (depthwise, [x, vector(5, 1, k, k), scale], {"silu": SILU}),
        "norm": (pixel_norm, [x], {"eps": 0.1}),
    }[name]
    y, *gradients = typed(function, inputs, dtype=wanted, **options)
    exact = typed(getattr(reference, function.__name__), doubles(inputs), **options)
    assert y.dtype == wanted
    assert gradients[0].dtype == dtype
    for value, true in zip([y, *gradients], exact, strict=True):
        assert relative_error(value.double(), true) < max(TOLERANCE[wanted], TOLERANCE[dtype])
    if wanted == torch.float32:
        assert relative_error(y.double(), exact[0]) < TOLERANCE[wanted]
    plain = getattr(reference, function.__name__)(*(value.detach() for value in inputs), dtype=wanted, **options)
    assert plain.dtype == wanted
    assert relative_error(plain.double(), exact[0]) < max(TOLERANCE[wanted], 2e-3 if "5x5" in name else 0)


@needs_triton
@pytest.mark.parametrize("types", [*MIXED, (torch.bfloat16, torch.float16)], ids=str)
@pytest.mark.parametrize("wanted", [None, torch.bfloat16], ids=str)
def test_sum_of_two_types(types, wanted, kernels_only, small_tiles):
    inputs = [*(image(2, 5, 3, 3, dtype=dtype) for dtype in types), 0.7, 0.4]
    y, *gradients = typed(weighted_sum, inputs, limit=0.8, dtype=wanted)
    exact = typed(reference.weighted_sum, doubles(inputs), limit=0.8)
    assert y.dtype == (wanted or torch.float32)
    assert [gradient.dtype for gradient in gradients] == list(types)
    assert relative_error(y.double(), exact[0]) < TOLERANCE[y.dtype]
    if wanted is None:  # else other values are rounded to the limit, where no gradient passes
        for value, true in zip(gradients, exact[1:], strict=True):
            assert relative_error(value.double(), true) < TOLERANCE[value.dtype]
    plain = reference.weighted_sum(*(v.detach() if torch.is_tensor(v) else v for v in inputs), 0.8, wanted)
    assert plain.dtype == y.dtype
    assert relative_error(plain.double(), exact[0]) < TOLERANCE[y.dtype]


def typed(function, inputs, **options):
    """Output and gradients, channels-last."""
    found = results(function, inputs, **options)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    return found


def doubles(inputs):
    return [value.double() if isinstance(value, torch.Tensor) else value for value in inputs]


def test_taps_lie_as_kernels_read_them():
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    laid = by_taps(weight)
    assert torch.equal(laid, weight.float())
    taps = laid.float().flatten(1).t().contiguous()  # as `depthwise` does
    assert taps.data_ptr() == laid.data_ptr()


@needs_triton
def test_a_sum_that_is_not_a_number_is_not_hidden_by_the_clamp():
    a = image(1, 3, 1, 1)
    with torch.no_grad():
        a[0, :, 0, 0] = torch.tensor([torch.nan, 3.0, 0.0])
    y, grad_a, _ = results(weighted_sum, [a, torch.zeros_like(a), 1.0, 1.0], limit=1.0)
    torch.testing.assert_close(y.flatten().cpu(), torch.tensor([torch.nan, 1.0, 0.0]), equal_nan=True)
    assert [value == 0 for value in grad_a.flatten().tolist()] == [False, True, False]


@needs_triton
def test_gradients_are_finite_differences_of_the_kernel_itself():
    inputs = [image(1, 2, 3, 2), vector(2, 1, 3, 3), vector(1, 2)]
    gradients = results(depthwise, inputs, silu=SILU)[1:]
    step = 1e-2
    for position, gradient in enumerate(gradients):
        direction = torch.randn_like(gradient)
        sides = []
        for sign in (1, -1):
            moved = [value.detach() for value in inputs]
            moved[position] = moved[position] + sign * step * direction
            y = depthwise(*moved, silu=SILU)
            sides.append((y.double() * weights_like(y)).sum())
        slope = ((sides[0] - sides[1]) / (2 * step)).item()
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-3, abs=2e-3)


@needs_triton
def test_every_tile_that_tuning_may_choose_gives_the_same_bits(monkeypatch):
    from triton.runtime.autotuner import Autotuner

    from unitgain.kernels.device.depthwise import forward3

    x, weight, scale = image(1, 3, 3, 5).detach(), vector(3, 1, 3, 3).detach(), vector(1, 3).detach()
    taps = weight.flatten(1).t().contiguous()
    tried = []

    def bench(run, quantiles):
        run()
        tried.append(made[-1].clone())
        return [float(len(tried))] * 3  # the first is the fastest

    made = []
    empty_like = launch.empty_like
    monkeypatch.setattr(launch, "empty_like", lambda *given: made.append(empty_like(*given)) or made[-1])
    monkeypatch.setattr(launch, "_forward3", lambda *_: (launch.tuned3(forward3), {}))
    monkeypatch.setattr(Autotuner, "do_bench", staticmethod(bench))
    y = launch.depthwise3(x, taps, scale, SILU, True)
    assert len(tried) == len(launch.TILES_3)
    assert all(torch.equal(other, y) for other in tried)
    assert relative_error(y, reference.depthwise(x, weight, scale, SILU)) < 2e-6


@needs_triton
def test_operators_are_what_torch_compile_takes_them_for():
    from unitgain.kernels import operators

    x, taps, scale = image(1, 2, 2, 1), vector(9, 2), vector(1, 2)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.activate, (x, scale, 1.0, True), test_utils=checks)
    torch.library.opcheck(operators.depthwise3, (x, taps, scale, 1.0, True), test_utils=checks)
    torch.library.opcheck(operators.depthwise, (x, vector(1, 2), 1), test_utils=checks)
    torch.library.opcheck(operators.pixel_norm, (x, 1e-4), test_utils=checks)
    torch.library.opcheck(operators.weighted_sum, (x, x.detach(), 1.0, 2.0, 1.0), test_utils=checks)
    half = x.detach().bfloat16()
    for operator, arguments in (
        (operators.activate, (x, scale, 1.0, True, half.dtype)),
        (operators.depthwise3, (x, taps, scale, 1.0, True, half.dtype)),
        (operators.depthwise, (x, vector(1, 2), 1, half.dtype)),
        (operators.pixel_norm, (x, 1e-4, half.dtype)),
        (operators.weighted_sum, (x, half, 1.0, 2.0, 1.0)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    grad = x.detach()
    for operator, arguments in (
        (operators.activate_backward, (grad, x.detach(), scale.detach(), 1.0, True)),
        (operators.activate_backward, (grad, x.detach(), None, 1.0, True)),
        (operators.depthwise3_backward, (grad, x.detach(), taps.detach(), scale.detach(), 1.0, True)),
        (operators.depthwise_backward, (grad, x.detach(), scale.detach(), 1)),
        (operators.pixel_norm_backward, (grad, x.detach(), 1e-4)),
        (operators.weighted_sum_backward, (grad, x.detach(), 1.0, 2.0, 1.0)),
        (operators.weighted_sum_backward, (grad, x.detach(), 1.0, 2.0, 1.0, half.dtype, grad.dtype)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("case", ["layout", "dtype", "switch", "empty", "shapes"])
def test_what_no_kernel_takes_goes_to_the_reference(case, monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel ran")

    for name in ("activate", "depthwise3", "pixel_norm", "weighted_sum"):
        monkeypatch.setattr(launch, name, refuse)
    x, weight, fused = image(2, 3, 4, 5).detach(), vector(3, 1, 3, 3).detach(), True
    other = x
    if case == "layout":
        x = other = x.contiguous()
    elif case == "dtype":
        x = other = x.double()
    elif case == "switch":
        fused = False
    elif case == "empty":
        x = other = x[:0]
    if case != "shapes":
        assert torch.equal(activate(x, None, SILU, fused), reference.activate(x, None, SILU))
        assert torch.equal(depthwise(x, weight, None, SILU, fused), reference.depthwise(x, weight, None, SILU))
        assert torch.equal(pixel_norm(x, fused=fused), reference.pixel_norm(x))
    else:
        other = x.contiguous()  # one of two in another layout
    expected = reference.weighted_sum(x, other, 0.5, 0.5, 1.0)
    assert torch.equal(weighted_sum(x, other, 0.5, 0.5, 1.0, fused), expected)


@needs_triton
def test_every_kernel_compiles_for_gpus(tmp_path):
    script = Path(__file__).parents[1] / "compile_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, str(script), "80:fp16", "90:bf16"], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("no spills") == 2 * 16
