"""Distance against number of evaluations on the digits, for each sampler: `python benchmarks/samplers.py RUN`.

RUN is a run of the recipe `digits`, such as `python benchmarks/guidance.py` trains. Figures go to `results/samplers.*`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from arguments import parse
from machine import write_results
from unitgain.draw import DrawSettings, decoder, draw_images, open_network
from unitgain.metrics.record import Source
from unitgain.posthoc import reconstruct
from unitgain.sample import SAMPLERS, Sampler, sigma_grid
from unitgain.sweep import Judge

BUDGETS = (5, 7, 11, 15, 23, 31, 47)  # evaluations: odd, so that every sampler can spend them
LENGTH = 0.10
RANGE = {"sigma_min": 0.02, "sigma_max": 30.0}  # 8-bit digits show nothing finer, and have a deviation of 0.5


def steps_for(sampler: Sampler, budget: int) -> int:
    """Steps that take this many evaluations."""
    return next(steps for steps in range(1, budget + 1) if sampler.evaluations(sigma_grid(steps)) == budget)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=448)
    args = parse(parser, arguments)
    images, budgets = (16, BUDGETS[:2]) if args.small else (args.images, BUDGETS)
    torch.set_num_threads(1)
    judge = Judge.open(["fd_pixels"], "digits")
    with tempfile.TemporaryDirectory() as folder:
        (average,) = reconstruct(args.run, [LENGTH], folder, dtype="float32")
        network = open_network(str(average.path))
    decode = decoder(network.encoder, network.denoiser.spec.channels)
    distances: dict[str, dict[int, float]] = {name: {} for name in SAMPLERS}
    for name, sampler in ((name, kind()) for name, kind in SAMPLERS.items()):
        for budget in budgets:
            settings = DrawSettings(sampler=sampler, steps=steps_for(sampler, budget), **RANGE)
            drawn = draw_images(network.denoiser, decode, range(images), settings)
            (record,) = judge((pixels for _, _, pixels in drawn), Source())
            distances[name][budget] = record.value
            print(name, budget, f"{record.value:.4f}", flush=True)
    lines = [
        "# Samplers on the digits\n",
        f"Frechet distance in pixel space of {images} samples (the same seeds everywhere, EMA length {LENGTH:g}, "
        f"noise levels {RANGE['sigma_max']:g} to {RANGE['sigma_min']:g}) against evaluations of the denoiser.\n",
        "| sampler | " + " | ".join(map(str, budgets)) + " |",
        "|---|" + "---|" * len(budgets),
        *(
            f"| {name} | " + " | ".join(f"{values[budget]:.3f}" for budget in budgets) + " |"
            for name, values in distances.items()
        ),
    ]
    write_results("samplers", {"images": images, "distances": distances}, "\n".join(lines), folder=args.folder)


if __name__ == "__main__":
    main()
