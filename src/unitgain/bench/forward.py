"""Evaluations of a denoiser: as trained, and prepared, in any precision."""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from unitgain.analysis.cost import network_cost
from unitgain.bench.cases import Case, Mode, inputs, open_denoiser, parse_mode
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.recipe import Recipe


def forward(
    cases: Sequence[Case],
    *,
    batch: int = 1,
    tf32: bool = False,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
) -> Comparison:
    """Measure evaluations of D, all cases in turns.

    Args:
        cases: networks in modes of `parse_mode`; ratios are to the first.
        batch: images of an evaluation.
        tf32: round products and convolutions of float32 to TF32, which GPUs do; else as torch does by itself.
        device: where.
        pace: how long.

    Returns:
        Rows with the facts `error`, the relative difference of D to the plain network in float32; for prepared ones
        `prepare_seconds`; where the first evaluation compiles, tunes or records, `compile_seconds` of that.

    Raises:
        ValueError: if a network or mode is unknown, or TF32 is asked for on a CPU.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    if tf32 and torch.device(device).type == "cpu":
        raise ValueError("tf32 on a CPU: only GPUs round to TF32; leave it out, or name a GPU with --device")
    modes = [parse_mode(case.mode, device) for case in cases]
    networks = dict.fromkeys(case.network for case in cases)
    evaluations = {network: Evaluations(network, batch, device) for network in networks}
    works = [evaluations[case.network].work(case.name, mode) for case, mode in zip(cases, modes, strict=True)]
    with tensor_float32() if tf32 else nullcontext():
        return measure(works, device, pace)


@contextmanager
def tensor_float32() -> Iterator[None]:
    """Let GPUs round the factors of float32 products and convolutions to TF32 while the block runs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


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
        # Convolutions of float32 in float32 on GPUs too, where they are rounded to TF32 by default.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            self.expected = self.run(Mode("plain", torch.float32))()

    def run(self, mode: Mode) -> Callable[[], Tensor]:
        """An evaluation as trained, without gradients; it sets the mode at each call, as others share the network."""
        return torch.inference_mode()(lambda: mode.apply(self.denoiser)(*self.inputs))

    def work(self, name: str, mode: Mode) -> Work:
        """An evaluation in this mode."""
        facts: dict[str, float] = {}
        run, held = self.run(mode), self.held
        if not mode.as_trained:
            if mode.first_is_slow:
                importlib.import_module("torch._dynamo")  # 50 MB of modules, which are no weights
            with PeakMemory(self.device) as memory:
                start = time.perf_counter()
                prepared = mode.apply(self.denoiser)
                torch.get_device_module(self.device).synchronize()
                facts["prepare_seconds"] = time.perf_counter() - start
            run, held = torch.inference_mode()(lambda: prepared(*self.inputs)), memory.kept
        start = time.perf_counter()
        facts["error"] = relative_error(run(), self.expected)
        if mode.first_is_slow:
            facts["compile_seconds"] = time.perf_counter() - start
        macs = self.batch * network_cost(self.denoiser.spec).macs
        return Work(name=name, run=run, items=self.batch, dtype=mode.dtype, macs=macs, held=held, facts=facts)


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((output.float() - expected).norm() / expected.norm())
