"""Evaluations of a denoiser: plain, as in training, and prepared, in any precision."""

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from unitgain.analysis.cost import network_cost
from unitgain.arch import NetworkSpec
from unitgain.bench.cases import Case, Mode, inputs, lay_out, open_denoiser, parse_mode
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.denoiser import Denoiser
from unitgain.recipe import Recipe


def forward(
    cases: Sequence[Case], *, batch: int = 1, device: torch.device | str = "cpu", pace: Pace | None = None
) -> Comparison:
    """Measure evaluations of D, all cases in turns.

    Args:
        cases: networks in modes of `parse_mode`; ratios are to the first.
        batch: images of an evaluation.
        device: where.
        pace: how long.

    Returns:
        Rows with the facts `error`, the relative difference of D to the plain network in float32; for prepared ones
        `prepare_seconds`; where the first evaluation compiles, tunes or records, `compile_seconds` of that.

    Raises:
        ValueError: if a network or mode is unknown.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    modes = [parse_mode(case.mode, device) for case in cases]
    networks = dict.fromkeys(case.network for case in cases)
    evaluations = {network: Evaluations(network, batch, device) for network in networks}
    works = [evaluations[case.network].work(case.name, mode) for case, mode in zip(cases, modes, strict=True)]
    return measure(works, what="forward", device=device, pace=pace, settings={"batch": batch})


@functools.cache
def forward_macs(spec: NetworkSpec) -> int:
    """Multiply-accumulates of an evaluation on one image, counted once."""
    return network_cost(spec).macs


class Evaluations:
    """One network, the inputs it is evaluated on, and what it should give.

    Args:
        network: of a case.
        batch: images of an evaluation.
        device: where.
    """

    def __init__(self, network: str | Recipe, batch: int, device: torch.device | str) -> None:
        self.batch, self.device = batch, torch.device(device)
        with PeakMemory(device) as memory:
            self.denoiser = open_denoiser(network, device)
        self.held = memory.kept
        self.inputs = inputs(self.denoiser, batch, device)
        with torch.inference_mode(), full_precision():
            self.expected = as_trained(self.denoiser, torch.float32, plain=True)(*self.inputs)

    def work(self, name: str, mode: Mode) -> Work:
        """An evaluation in this mode."""
        facts: dict[str, float] = {}
        if mode.kind == "prepared":
            if mode.compile or mode.kernels:
                importlib.import_module("torch._dynamo")  # 50 MB of modules, which are no weights
            with PeakMemory(self.device) as memory:
                start = time.perf_counter()
                prepared = mode.prepare(self.denoiser)
                torch.get_device_module(self.device).synchronize()
                facts["prepare_seconds"] = time.perf_counter() - start
            evaluate, held = prepared, memory.kept
        else:
            evaluate, held = as_trained(self.denoiser, mode.dtype, mode.kind == "plain"), self.held
        run = no_gradients(lambda: evaluate(*self.inputs))
        start = time.perf_counter()
        facts["error"] = relative_error(run(), self.expected)
        if mode.first_is_slow:
            facts["compile_seconds"] = time.perf_counter() - start
        macs = self.batch * forward_macs(self.denoiser.spec)
        return Work(name=name, run=run, items=self.batch, dtype=mode.dtype, macs=macs, held=held, facts=facts)


def as_trained(denoiser: Denoiser, dtype: torch.dtype, plain: bool) -> Callable[..., Tensor]:
    """The denoiser in this precision, contiguous if `plain`, which are set at each call: others share it."""

    def evaluate(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        lay_out(denoiser, dtype, plain)
        return denoiser(x, sigma, label)

    return evaluate


def no_gradients(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same in inference mode, as samplers call it."""
    return torch.inference_mode()(run)


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions of float32 in float32 on GPUs too, where they are rounded to TF32 by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.float() - expected).norm() / expected.norm())
