"""Evaluations of a denoiser: plain, as in training, and prepared, in any precision."""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from unitgain.bench.cases import Case, Mode, inputs, lay_out, open_denoiser, parse_mode
from unitgain.bench.measure import Report, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.bench.reference import Reference, load_reference
from unitgain.bench.roofline import forward_counts
from unitgain.bench.turns import Pace, Progress, waiter
from unitgain.denoiser import Denoiser


def forward(
    cases: Sequence[Case],
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
    reference: Path | None = None,
    trace: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Measure evaluations of D, all cases in turns.

    Args:
        cases: networks in modes of `parse_mode`; ratios are to the first.
        batch: images of an evaluation.
        device: where.
        pace: how long.
        reference: checkout of the official code, which is then measured first, with the weights of the first network.
        trace: file for a trace.
        on_progress: is told what is going on.

    Returns:
        Rows with the facts `error`, the relative difference of D to the plain network in float32; for prepared ones
        `prepare_seconds`; where the first evaluation compiles, tunes or records, `compile_seconds` of that.

    Raises:
        ValueError: if a network or mode is unknown, or the reference cannot be used.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    modes = [parse_mode(case.mode, device) for case in cases]
    found: dict[int, Work] = {}
    extra: list[Work] = []
    for network in dict.fromkeys(case.network for case in cases):
        if on_progress is not None:
            on_progress(f"making {_name(network)}", len(found), len(cases))
        bench = Bench(network, batch, device)
        if reference is not None and not extra:
            extra.append(bench.reference_work(load_reference(reference, bench.denoiser, device)))
        for index, case in enumerate(cases):
            if case.network == network:
                found[index] = bench.work(case.name, modes[index])
    works = [*extra, *(found[index] for index in range(len(cases)))]
    return measure(
        works,
        what="forward",
        device=device,
        pace=pace,
        settings={"batch": batch, "reference": reference is not None},
        trace=trace,
        on_progress=on_progress,
    )


class Bench:
    """One network, the inputs it is evaluated on, and what it should give.

    Args:
        network: of a case.
        batch: images of an evaluation.
        device: where.
    """

    def __init__(self, network: object, batch: int, device: torch.device | str) -> None:
        self.batch, self.device = batch, torch.device(device)
        with PeakMemory(device) as memory:
            self.denoiser = open_denoiser(network, device)  # type: ignore[arg-type]
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
                waiter(self.device)()
                facts["prepare_seconds"] = time.perf_counter() - start
            evaluate, held = prepared, memory.kept
        else:
            evaluate, held = as_trained(self.denoiser, mode.dtype, mode.kind == "plain"), self.held
        run = no_gradients(lambda: evaluate(*self.inputs))
        start = time.perf_counter()
        facts["error"] = relative_error(run(), self.expected)
        if mode.first_is_slow:
            facts["compile_seconds"] = time.perf_counter() - start
        counts = forward_counts(self.denoiser.spec, self.batch, mode.dtype)
        return Work(name=name, run=run, items=self.batch, dtype=mode.dtype, counts=counts, held=held, facts=facts)

    def reference_work(self, reference: Reference) -> Work:
        """An evaluation of the official network."""
        run = no_gradients(lambda: reference(*self.inputs))
        counts = forward_counts(self.denoiser.spec, self.batch, reference.dtype)
        facts = {"error": relative_error(run(), self.expected)}
        return Work(name="reference", run=run, items=self.batch, dtype=reference.dtype, counts=counts, facts=facts)


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


def _name(network: object) -> str:
    return network if isinstance(network, str) else getattr(network, "name", "a network")
