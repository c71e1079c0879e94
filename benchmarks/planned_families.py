"""How fast the networks train that `unitgain.train.plan` chooses from: python benchmarks/planned_families.py

EDM2 and EDM2+ blocks at three widths, in float32 and in what this machine multiplies fastest: whole steps on 32x32
images in colour, all in turns in one process. Some minutes.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence

import torch

from arguments import parse
from machine import write_results
from unitgain.infer import fastest_precision
from unitgain.train.rules import network_for, recipe_for
from unitgain.train.warmup import SECONDS, images_per_second

WIDTHS, IMAGES, TURNS = (16, 32, 64), 16, 3


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(argparse.ArgumentParser(description=__doc__), arguments)
    widths, images, turns, seconds = (WIDTHS[:1], 2, 1, 0.0) if args.small else (WIDTHS, IMAGES, TURNS, SECONDS)
    device = torch.device("cpu")
    precisions = dict.fromkeys(("float32", fastest_precision(device)))
    cases = list(itertools.product(widths, precisions, (False, True)))
    speeds: dict[tuple, list[float]] = {case: [] for case in cases}
    for _, case in itertools.product(range(turns), cases):
        width, precision, depthwise = case
        network = network_for((3, 32, 32), 0, width, 1, depthwise)
        recipe = recipe_for(network, images, precision=precision, batch=images)
        speeds[case].append(images_per_second(recipe, images, device, seconds))
        print(*case, speeds[case][-1], flush=True)
    found = {case: statistics.median(values) for case, values in speeds.items()}
    rows = [
        {
            "width": width,
            "precision": precision,
            "EDM2": found[width, precision, False],
            "EDM2+": found[width, precision, True],
        }
        for width, precision in itertools.product(widths, precisions)
    ]
    lines = [
        f"| {r['width']} | {r['precision']} | {r['EDM2']:.1f} | {r['EDM2+']:.1f} | {r['EDM2+'] / r['EDM2']:.2f} |"
        for r in rows
    ]
    page = "\n".join(
        [
            "# Speed of the networks that plans choose from",
            "",
            f"Images per second of whole steps of {images} images, 3x32x32, one block per level, medians of {turns}.",
            "",
            "| width | precision | EDM2 | EDM2+ | EDM2+ / EDM2 |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )
    write_results("planned_families", {"rows": rows}, page, folder=args.folder)


if __name__ == "__main__":
    main()
