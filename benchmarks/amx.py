"""What should multiply bfloat16 on a processor with AMX, libraries or C: `OMP_NUM_THREADS=1 python benchmarks/amx.py`.

CPU seconds of one thread, variants in turn, medians: neighbours on the machine disturb them little.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from unittest.mock import patch

import torch

from arguments import parse
from machine import write_results
from tiny import tiny_network
from unitgain.arch.configs import edm2, edm2plus
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.native import NATIVE

ROUNDS = 9


def variants(denoiser: Denoiser) -> dict[str, Denoiser]:
    """The network in every way, all in bfloat16; "plain" is the trained network itself, channels-last."""
    made: dict[str, Denoiser] = {"prepared": prepare(denoiser, torch.bfloat16)}
    with patch("torch.cpu._is_amx_tile_supported", lambda: False):
        made["prepared as if without AMX"] = prepare(denoiser, torch.bfloat16)
    with patch("unitgain.infer.prepare.can_convolve_depthwise", lambda dtype: False):
        made["prepared, by libraries alone"] = prepare(denoiser, torch.bfloat16)
    denoiser.dtype = torch.bfloat16
    return {**made, "plain": denoiser.to(memory_format=torch.channels_last)}


def measure(networks: dict[str, Denoiser], batch: int) -> dict[str, float]:
    """CPU seconds per image."""
    spec = networks["plain"].spec
    x, label = torch.randn(batch, spec.channels, spec.resolution, spec.resolution), torch.arange(batch)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(ROUNDS):
        for name, network in networks.items():
            before = time.process_time()
            network(x, 1.0, label)
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - before)
    return {name: statistics.median(each) / batch for name, each in seconds.items()}


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    args = parse(argparse.ArgumentParser(description=__doc__), arguments)
    if not args.small and (not torch.cpu._is_amx_tile_supported() or os.environ.get(NATIVE) == "0"):
        raise SystemExit("this processor has no AMX, or C is switched off")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = {}
    for name, spec in (("EDM2-S", edm2("s", channels=3)), ("EDM2+-S", edm2plus("s"))):
        networks = variants(Denoiser(tiny_network(spec, 16) if args.small else spec).eval())
        for batch in (1, 4):
            rows[f"{name}, batch {batch}"] = measure(networks, batch)
            print(name, batch, rows[f"{name}, batch {batch}"], flush=True)
    names = list(next(iter(rows.values())))
    lines = [
        "# bfloat16 on a processor with AMX",
        "",
        "CPU seconds of one thread per evaluation and image at 3x64x64, median of eight turns. On this processor "
        "`prepare` leaves 3x3 and 1x1 convolutions to libraries, which use AMX, and makes the rest in C; as if without "
        "AMX it makes those in C, too.",
        "",
        "| network | " + " | ".join(names) + " |",
        "|---" * (1 + len(names)) + "|",
        *(f"| {row} | " + " | ".join(f"{rows[row][name]:.3f}" for name in names) + " |" for row in rows),
    ]
    write_results("amx", {"rows": rows}, "\n".join(lines), folder=args.folder)


if __name__ == "__main__":
    main()
