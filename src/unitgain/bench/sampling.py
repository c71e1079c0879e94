"""Whole samples."""

from collections.abc import Sequence

import torch

from unitgain.analysis.cost import network_cost
from unitgain.bench.cases import Case, open_denoiser, parse_mode
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.guide import Guided
from unitgain.recipe import Recipe
from unitgain.sample import Heun, Sampler, generate, sigma_grid, tile_size

HEUN = Heun()


def sampling(
    cases: Sequence[Case],
    *,
    batch: int | None = None,
    steps: int = 32,
    sampler: Sampler = HEUN,
    guide: str | Recipe | None = None,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
) -> Comparison:
    """Measure whole samples, all cases in turns.

    Args:
        cases: networks in modes of `parse_mode`; ratios are to the first.
        batch: images, drawn together; by default as many as the first network evaluates at a time.
        steps: of the sampler.
        sampler: with its settings.
        guide: network that guides, in the mode of the case; None for the network without its label.
        guidance: weight; 1 for none, which never evaluates the guide.
        device: where.
        pace: how long.

    Returns:
        Rows with the facts `evaluations`, of networks in a sample, and `images_per_evaluation`.

    Raises:
        ValueError: if a network or mode is unknown, or a number is out of range.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    sigmas, device = sigma_grid(steps), torch.device(device)
    number = sampler.evaluations(sigmas)
    works: list[Work] = []
    for case in cases:
        mode = parse_mode(case.mode, device)
        with PeakMemory(device) as memory:
            main = mode.apply(open_denoiser(case.network, device))
            other = mode.apply(open_denoiser(guide, device)) if guidance != 1 and guide is not None else None
        networks = [main] if guidance == 1 else [main, other or main]
        denoiser = main if guidance == 1 else Guided(main, other, guidance)
        batch = works[0].items if works else batch or tile_size(main, device)
        works.append(
            Work(
                name=case.name,
                run=lambda denoiser=denoiser, batch=batch: list(
                    generate(denoiser, range(batch), sigmas, sampler=sampler, batch=batch)
                ),
                items=batch,
                dtype=mode.dtype,
                macs=batch * number * sum(network_cost(network.spec).macs for network in networks),
                held=memory.kept,
                facts={
                    "evaluations": number * len(networks),
                    "images_per_evaluation": tile_size(main, device),
                },
            )
        )
    return measure(works, device, pace)
