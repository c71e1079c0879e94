"""Whole samplers, and what they cost beyond the evaluations of their networks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unitgain.bench.cases import Case, inputs, lay_out, open_denoiser, parse_mode
from unitgain.bench.measure import Report, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.bench.roofline import forward_counts
from unitgain.bench.turns import Pace, Progress
from unitgain.denoiser import Denoiser
from unitgain.guide import Guided
from unitgain.recipe import Recipe
from unitgain.sample import SAMPLERS, evaluations, generate, sigma_grid, tile_size

ALONE = " (evaluations alone)"


def sampling(
    cases: Sequence[Case],
    *,
    batch: int | None = None,
    steps: int = 32,
    sampler: str = "heun",
    guide: str | Recipe | None = None,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
    trace: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Measure whole samples, and for each the evaluations of its networks alone, all in turns.

    Args:
        cases: networks in modes of `parse_mode`; ratios are to the first.
        batch: images, drawn together; by default as many as the first network evaluates at a time.
        steps: of the sampler.
        sampler: one of `unitgain.sample.SAMPLERS`.
        guide: network that guides, in the mode of the case; None for the network without its label.
        guidance: weight; 1 for none, which never evaluates the guide.
        device: where.
        pace: how long.
        trace: file for a trace.
        on_progress: is told what is going on.

    Returns:
        A row for each case, with the fact `over_evaluations`: its time over that of as many evaluations of the denoiser
        on the same images, one after the other: the quotient of the medians.

    Raises:
        ValueError: if a network, mode or sampler is unknown, or a number is out of range.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    sigmas = sigma_grid(steps)
    works: list[Work] = []
    for index, case in enumerate(cases):
        if on_progress is not None:
            on_progress(f"making {case.name}", index, len(cases))
        draws = Draws(case, guide, guidance, torch.device(device))
        batch = batch or tile_size(draws.main, device)
        works += draws.works(batch, sigmas, sampler)
    settings = {"batch": batch, "steps": steps, "sampler": sampler, "guidance": guidance}
    report = measure(
        works, what="sample", device=device, pace=pace, settings=settings, trace=trace, on_progress=on_progress
    )
    return with_overhead(report)


def with_overhead(report: Report) -> Report:
    """The report with the time of each sampler over that of its evaluations alone."""
    rows = []
    for row in report.rows:
        if not row.name.endswith(ALONE):
            alone = report.row(row.name + ALONE)
            row = dataclasses.replace(row, facts={**row.facts, "over_evaluations": row.seconds / alone.seconds})
        rows.append(row)
    return dataclasses.replace(report, rows=tuple(rows))


class Draws:
    """A network in a mode, guided if wanted, and what sampling with it costs.

    Args:
        case: network and mode.
        guide: as in `sampling`.
        guidance: as in `sampling`.
        device: where.
    """

    def __init__(self, case: Case, guide: str | Recipe | None, guidance: float, device: torch.device) -> None:
        self.name, self.device = case.name, device
        self.mode = parse_mode(case.mode, device)
        with PeakMemory(device) as memory:
            self.main = self._open(case.network)
            self.denoiser: Denoiser | Guided = self.main
            self.evaluated = [self.main]
            if guidance != 1:
                other = None if guide is None else self._open(guide)
                self.evaluated.append(other or self.main)
                self.denoiser = Guided(self.main, other, guidance)
        self.held = memory.kept

    def works(self, batch: int, sigmas: Tensor, sampler: str) -> list[Work]:
        """Whole samples, and the evaluations alone."""
        number = evaluations(sampler, len(sigmas) - 1)
        counts = forward_counts(self.main.spec, batch, self.mode.dtype)
        for other in self.evaluated[1:]:
            counts = counts.and_then(forward_counts(other.spec, batch, self.mode.dtype))
        x, _, label = inputs(self.main, batch, self.device)
        levels = sigmas[:-1].float().to(self.device).repeat_interleave(-(-number // (len(sigmas) - 1)))[:number]

        def draw() -> object:
            return list(generate(self.denoiser, range(batch), sigmas, sampler=SAMPLERS[sampler], batch=batch))

        @torch.inference_mode()
        def evaluate() -> object:
            return [self.denoiser(x, level, label) for level in levels][-1]

        work = Work(
            name=self.name,
            run=draw,
            items=batch,
            dtype=self.mode.dtype,
            counts=counts.times(number),
            held=self.held,
            facts={
                "evaluations": number * len(self.evaluated),
                "images_per_evaluation": tile_size(self.main, self.device),
            },
        )
        return [work, dataclasses.replace(work, name=self.name + ALONE, run=evaluate, facts={})]

    def _open(self, network: str | Recipe) -> Denoiser:
        denoiser = open_denoiser(network, self.device)
        if self.mode.kind == "prepared":
            return self.mode.prepare(denoiser)
        lay_out(denoiser, self.mode.dtype, plain=self.mode.kind == "plain")
        return denoiser
