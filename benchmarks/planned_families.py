"""How fast the networks train that `unitgain.train.plan` chooses from: python benchmarks/planned_families.py

EDM2 and EDM2+ blocks at three widths, in float32 and in what this machine multiplies fastest: whole steps on 32x32
images in colour, all in turns in one process. Some minutes.
"""

import itertools
import statistics

import torch

from machine import write_results
from unitgain.infer import fastest_precision
from unitgain.train.rules import network_for, recipe_for
from unitgain.train.warmup import images_per_second

WIDTHS, IMAGES, TURNS = (16, 32, 64), 16, 3


def main() -> None:
    device = torch.device("cpu")
    precisions = dict.fromkeys(("float32", fastest_precision(device)))
    cases = list(itertools.product(WIDTHS, precisions, (False, True)))
    speeds: dict[tuple, list[float]] = {case: [] for case in cases}
    for _, case in itertools.product(range(TURNS), cases):
        width, precision, depthwise = case
        network = network_for((3, 32, 32), 0, width, 1, depthwise)
        recipe = recipe_for(network, IMAGES, precision=precision, batch=IMAGES)
        speeds[case].append(images_per_second(recipe, IMAGES, device))
        print(*case, speeds[case][-1], flush=True)
    found = {case: statistics.median(values) for case, values in speeds.items()}
    rows = [
        {
            "width": width,
            "precision": precision,
            "EDM2": found[width, precision, False],
            "EDM2+": found[width, precision, True],
        }
        for width, precision in itertools.product(WIDTHS, precisions)
    ]
    lines = [
        f"| {r['width']} | {r['precision']} | {r['EDM2']:.1f} | {r['EDM2+']:.1f} | {r['EDM2+'] / r['EDM2']:.2f} |"
        for r in rows
    ]
    page = "\n".join(
        [
            "# Speed of the networks that plans choose from",
            "",
            f"Images per second of whole steps of {IMAGES} images, 3x32x32, one block per level, medians of {TURNS}.",
            "",
            "| width | precision | EDM2 | EDM2+ | EDM2+ / EDM2 |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )
    write_results("planned_families", {"rows": rows}, page)


if __name__ == "__main__":
    main()
