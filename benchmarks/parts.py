"""What each part that is written in C gains in prepared networks: `OMP_NUM_THREADS=1 python benchmarks/parts.py`.

Each is switched off in turn, and libraries do its work. CPU seconds of one thread, all variants in turns, medians:
neighbours on the machine disturb them little. Without AMX: oneDNN and the library are told that there is none.

Each setting is measured in a process of its own, as oneDNN reads what it may use once.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from machine import write_results
from unitgain.arch.configs import edm2, edm2plus
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.infer.backend import Backend
from unitgain.infer.passes import Passes

NETWORKS = {"EDM2-S": edm2("s", channels=3), "EDM2+-S": edm2plus("s")}
SETTINGS = {"bfloat16, AMX": "bfloat16", "bfloat16, no AMX": "bfloat16 noamx", "float32": "float32"}
SMALLER = {"resolution": 32, "model_channels": 64}
ROUNDS, CALLS = 7, 4
PASSES = "unitgain.infer.passes"


def by_definition(self: Passes, operation: object) -> None:
    """No 1x1 convolution in C."""


OFF: dict[str, dict[str, Any]] = {
    "all": {"unitgain.infer.prepare.can_convolve_depthwise": lambda dtype: False},
    "attention": {f"{PASSES}.can_attend": lambda *kind: False},
    "join, norm, SiLU": {f"{PASSES}.Passes.enter": Backend.enter},
    "sum": {f"{PASSES}.Passes.add": Backend.add},
    "conversion": {f"{PASSES}.convert": lambda x, dtype: x.to(dtype)},
    "depthwise": {f"{PASSES}.Passes.widest": 0},
    "3x3 by filtering": {f"{PASSES}.Passes.tile": lambda self, operation: None},
    "1x1": {f"{PASSES}.Passes._pointwise": by_definition},
}
"""What is patched to do without a part."""


@contextmanager
def without(part: str) -> Iterator[None]:
    """Libraries do the work of a part."""
    with ExitStack() as stack:
        for target, value in OFF.get(part, {}).items():
            stack.enter_context(patch(target, value))
        yield


@torch.no_grad()
def measure(setting: str) -> dict[str, dict[str, float]]:
    """Milliseconds of an image for each network, with all parts (""), and without each."""
    name, _, no_amx = setting.partition(" ")
    if no_amx:
        patch("torch.cpu._is_amx_tile_supported", lambda: False).start()
    torch.set_num_threads(1)
    rows = {}
    for network, spec in NETWORKS.items():
        torch.manual_seed(0)
        denoiser = Denoiser(spec.replace(**SMALLER)).eval()
        prepared = {}
        for part in ("", *OFF):
            with without(part):
                prepared[part] = prepare(denoiser, getattr(torch, name))
        x, label = torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)
        seconds: dict[str, list[float]] = {part: [] for part in prepared}
        for turn in range(ROUNDS + 1):
            for part, denoise in prepared.items():
                with without(part):
                    start = time.process_time()
                    for _ in range(CALLS):
                        denoise(x, 1.0, label)
                    taken = time.process_time() - start
                if turn:  # the first one warms up
                    seconds[part].append(taken / CALLS)
        rows[network] = {part: 1e3 * statistics.median(each) for part, each in seconds.items()}
    return rows


def main() -> None:
    """Measure and write the table."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for label, setting in SETTINGS.items():
        env = os.environ | ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"} if "noamx" in setting else {})
        command = [sys.executable, __file__, setting]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found[label] = json.loads(done.stdout.splitlines()[-1])
        print(label, found[label], flush=True)
    lines = [
        "# What is written in C, part by part",
        "",
        "CPU time of one thread for an image at 3x32x32, base width 64, with everything in C that pays here, and how "
        "many times as long it takes when libraries do the work of one part, or of all. A part that a network does not "
        "use, or that stands aside, is at 1.00 but for noise, which is some percent.",
        "",
        "| network | ms | " + " | ".join(OFF) + " |",
        "|---" * (2 + len(OFF)) + "|",
    ]
    for label, rows in found.items():
        for network, row in rows.items():
            cells = " | ".join(f"{row[part] / row['']:.2f}" for part in OFF)
            lines.append(f"| {network}, {label} | {row['']:.1f} | {cells} |")
    write_results("parts", {"ms": found}, "\n".join(lines))


if __name__ == "__main__":
    main()
