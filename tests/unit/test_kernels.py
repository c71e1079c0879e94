"""Kernels against the same in PyTorch: on a GPU where there is one, else on the CPU in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_error
from triton_tests import image, needs_triton, results, vector, weights_like

from unitgain.kernels import depthwise, functions, launch, operators, reference
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


def test_taps_lie_as_kernels_read_them():
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64)
    laid = by_taps(weight)
    assert torch.equal(laid, weight.float())
    taps = laid.float().flatten(1).t().contiguous()  # as `depthwise` does
    assert taps.data_ptr() == laid.data_ptr()


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
    monkeypatch.setattr(launch, "empty_like", lambda x: made.append(empty_like(x)) or made[-1])
    monkeypatch.setattr(launch, "_forward3", lambda *_: (launch.tuned3(forward3), {}))
    monkeypatch.setattr(Autotuner, "do_bench", staticmethod(bench))
    y = launch.depthwise3(x, taps, scale, SILU, True)
    assert len(tried) == len(launch.TILES_3)
    assert all(torch.equal(other, y) for other in tried)
    assert relative_error(y, reference.depthwise(x, weight, scale, SILU)) < 2e-6


@needs_triton
def test_operators_are_what_torch_compile_takes_them_for():
    x, taps, scale = image(1, 2, 2, 1), vector(9, 2), vector(1, 2)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.depthwise3, (x, taps, scale, 1.0, True), test_utils=checks)
    grad = x.detach()
    for modulation in (scale.detach(), None):
        arguments = (grad, x.detach(), taps.detach(), modulation, 1.0, True)
        torch.library.opcheck(operators.depthwise3_backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("case", ["layout", "dtype", "switch", "empty", "size"])
def test_what_no_kernel_takes_goes_to_the_reference(case, monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel ran")

    monkeypatch.setattr(operators, "depthwise3", refuse)
    side = 5 if case == "size" else 3
    x, weight = image(2, 3, 4, 5).detach(), vector(3, 1, side, side).detach()
    x = {"layout": x.contiguous(), "dtype": x.double(), "empty": x[:0]}.get(case, x)
    found = depthwise(x, weight, None, SILU, fused=case != "switch")
    assert torch.equal(found, reference.depthwise(x, weight, None, SILU))


@needs_triton
def test_every_kernel_compiles_for_gpus(tmp_path):
    script = Path(__file__).parents[1] / "compile_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, str(script), "80:fp16", "90:bf16"], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("no spills") == 2 * 4
