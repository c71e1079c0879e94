"""Whole samplers, and what they cost beyond the evaluations of their networks."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from unitgain.bench.cases import Case, inputs, lay_out, open_denoiser, parse_mode
from unitgain.bench.forward import forward_macs
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
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
) -> Comparison:
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
    for case in cases:
        draws = Draws(case, guide, guidance, torch.device(device))
        batch = batch or tile_size(draws.main, device)
        works += draws.works(batch, sigmas, sampler)
    settings = {"batch": batch, "steps": steps, "sampler": sampler, "guidance": guidance}
    comparison = measure(works, what="sample", device=device, pace=pace, settings=settings)
    for row in comparison.rows:
        if not row.name.endswith(ALONE):
            row.facts["over_evaluations"] = row.seconds / comparison.row(row.name + ALONE).seconds
    return comparison


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
        macs = batch * number * sum(forward_macs(network.spec) for network in self.evaluated)
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
            macs=macs,
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
