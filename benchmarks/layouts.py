"""Volumes in either layout of memory: `python benchmarks/layouts.py`. Figures go to `results/layouts.*`.

Small networks of volumes, as `unitgain` lays activations and weights out (channels last) and contiguous (channels
first). Both draw and train a step, in turns in one process, as many threads as there are cores. Seconds are the
processor's; ratios are those of a turn, given are the median and the quartiles over all turns.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from arguments import parse
from dimensions import JOBS, measure, work_of
from machine import write_results
from unitgain.layers import MEMORY_FORMATS
from unitgain.recipes import PIXELS32
from unitgain.serial import to_dict

LAST = MEMORY_FORMATS[3]
BRANCHES = {"EDM2": "s c m s c", "EDM2+": PIXELS32.network.branch}


def in_layout(layout: torch.memory_format, run: Callable[[], Any]) -> Callable[[], Any]:
    """The same, while volumes are laid out so."""

    def within() -> Any:
        MEMORY_FORMATS[3] = layout
        try:
            return run()
        finally:
            MEMORY_FORMATS[3] = LAST

    return within


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32])
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=7)
    args = parse(parser, arguments)
    if args.small:
        args.widths, args.side, args.batch, args.turns = [8], 8, 1, 2
    text = (__doc__ or "").partition("\n\n")[2]
    lines = ["# Layouts of volumes", "", *text.strip().splitlines(), ""]
    lines += [
        "| network | width | job | s, channels last | s, contiguous | times as fast | quartiles |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for label, branch in BRANCHES.items():
        for width in args.widths:
            network = PIXELS32.network.replace(
                resolution=(args.side,) * 3,
                channels=1,
                branch=branch,
                model_channels=width,
                channels_per_head=min(width, 16),
                channel_mult=(1, 2),
                num_blocks=1,
                attn_resolutions=(args.side // 2,),
            )
            values = to_dict(PIXELS32.replace(name="volumes", network=network, batch=args.batch))
            for job in JOBS:
                last, first = (
                    in_layout(layout, in_layout(layout, partial(work_of, job, values, args.batch))())
                    for layout in (LAST, torch.contiguous_format)
                )
                row = {"network": label, "width": width, "job": job, **measure(last, first, args.turns)}
                low, high = row["quartiles"]
                lines.append(
                    f"| {label} | {width} | {job} | {row['now']:.3f} | {row['before']:.3f} | {row['ratio']:.2f} "
                    f"| {low:.2f} to {high:.2f} |"
                )
                print(lines[-1], flush=True)
                rows.append(row)
    load = os.getloadavg()[2]
    lines += [
        "",
        f"Volumes of {args.side}x{args.side}x{args.side}, {args.batch} at once, float32. Load average {load:.1f}.",
    ]
    write_results("layouts", {"load": load, "rows": rows}, "\n".join(lines), folder=args.folder)


if __name__ == "__main__":
    main()
