"""What training takes of memory, against the estimate of `unitgain inspect RECIPE --batch N`.

`python benchmarks/memory.py` measures every configuration in fresh processes of one thread: the most resident memory
(VmHWM of /proc) of rank 0 over three steps, twice: as it is, and with MALLOC_MMAP_THRESHOLD_=65536, which makes the C
library give back to the system at once what is freed, so that only what is in use is seen. The estimate of the first is
the sum, that of the second is the sum without what the C library keeps.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from arguments import parse
from machine import write_results
from unitgain.parallel import World, processes
from unitgain.recipe import Recipe
from unitgain.recipes import recipe
from unitgain.train import Execution, Microbatch, TrainState, train_step
from unitgain.train.estimate import estimate, process_bytes
from unitgain.train.speed import peak_memory

STEPS = 3
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """How a recipe is trained; `batch` is that of all processes."""

    name: str
    batch: int
    microbatch: int
    processes: int = 1
    shard: bool = False
    recompute: bool = False

    @property
    def recipe(self) -> Recipe:
        """The recipe with this batch."""
        return recipe(self.name).replace(batch=self.batch, duration=self.batch, snapshot_every=self.batch)


CASES = [
    Case("digits", 256, 128),
    Case("pixels64-mini", 8, 8),
    Case("pixels64-mini", 16, 8),
    Case("pixels64-mini", 8, 8, recompute=True),
    Case("pixels64-mini", 16, 8, 2),
    Case("pixels64-mini", 16, 8, 2, shard=True),
    Case("pixels64-mini", 16, 8, 2, shard=True, recompute=True),
    Case("digits", 64, 64),
    Case("digits", 64, 32, 2),
    Case("digits", 64, 32, 2, shard=True),
    Case("pixels32", 8, 8),
    Case("pixels32", 8, 4),
]


def train_case(case: Case) -> None:
    """Train in this process, alone or as one of many, and print its peak on rank 0."""
    torch.set_num_threads(1)
    made = case.recipe
    with processes() as world:
        once = case.batch > case.microbatch
        state = TrainState.start(
            made,
            world=world,
            execution=Execution(shard=case.shard, recompute=case.recompute),
            normalize_once=once,
        )
        for _ in range(STEPS):
            train_step(state, made, microbatches(case, made, world))
        if world.main:
            print(peak_memory(torch.device("cpu")))


def microbatches(case: Case, made: Recipe, world: World) -> Any:
    """Noise as data."""
    spec, loss = made.network, made.loss
    count = case.batch // case.microbatch // world.size
    for turn in range(count):
        clean = torch.randn(case.microbatch, spec.channels, spec.resolution, spec.resolution)
        sigma, noise = loss.draw(clean)
        label = torch.zeros(case.microbatch, dtype=torch.int64) if spec.label_dim else None
        yield Microbatch(clean=clean, sigma=sigma, noise=noise, label=label, last=turn == count - 1)


def measured(case: Case, returned: bool) -> int:
    """Peak of rank 0 in fresh processes, bytes; `returned`: with freed memory given back at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if returned else {}
    command = [sys.executable, __file__, "--measure", json.dumps(vars(case))]
    started = []
    for rank in range(case.processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.processes)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env={**environment, **own}, **pipes))
    ends = [process.communicate() for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("\n".join(error for _, error in ends))
    return int(ends[0][0].split()[-1])


def compare(case: Case, process: int) -> dict[str, Any]:
    """Estimates and measurements of a case, bytes, and their ratios."""
    found = estimate(
        case.recipe,
        processes=case.processes,
        microbatch=case.microbatch,
        execution=Execution(shard=case.shard, recompute=case.recompute),
        process=process,
    )
    in_use, peak = measured(case, returned=True), measured(case, returned=False)
    return {
        **vars(case),
        "estimate": vars(found),
        "in_use_estimated": found.tensors + process,
        "in_use_measured": in_use,
        "in_use_ratio": (found.tensors + process) / in_use,
        "tensors_ratio": found.tensors / (in_use - process),
        "peak_estimated": found.total,
        "peak_measured": peak,
        "peak_ratio": found.total / peak,
    }


def text(rows: list[dict[str, Any]], process: int) -> str:
    lines = [
        "# Memory of training: estimated and measured",
        "",
        __doc__.split("\n\n", 1)[1].strip(),
        "",
        f"The process itself, measured by training next to nothing: {process / MIB:.0f} MiB, in every figure but",
        "`tensors`, the ratio without it. MiB; ratios are estimated / measured.",
        "",
        "| recipe | batch | microbatch | processes | how "
        "| in use: est. | meas. | ratio | tensors | peak: est. | meas. | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        how = ["FSDP2" if row["shard"] else "DDP"] if row["processes"] > 1 else []
        how += ["recompute"] if row["recompute"] else []
        cells = [row["name"], row["batch"], row["microbatch"], row["processes"], ", ".join(how)]
        for kind in ("in_use", "peak"):
            cells += [f"{row[f'{kind}_estimated'] / MIB:.0f}", f"{row[f'{kind}_measured'] / MIB:.0f}"]
            cells.append(f"{row[f'{kind}_ratio']:.2f}")
            cells += [f"{row['tensors_ratio']:.2f}"] if kind == "in_use" else []
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for kind, title in (("in_use", "In use"), ("peak", "Peak")):
        ratios = [row[f"{kind}_ratio"] for row in rows]
        lines += ["", f"{title}: ratios from {min(ratios):.2f} to {max(ratios):.2f}."]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help="one case as JSON, in this process")
    parser.add_argument("--only", help="recipes to measure, separated by commas; writes nothing")
    arguments = parse(parser, args)
    if arguments.measure:
        train_case(Case(**json.loads(arguments.measure)))
        return
    torch.set_num_threads(1)
    process = process_bytes()
    rows = []
    for case in CASES[:1] if arguments.small else CASES:
        if arguments.only and case.name not in arguments.only.split(","):
            continue
        rows.append(compare(case, process))
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "estimate"}), flush=True)
        if not arguments.only:  # what is there so far
            write_results("memory", {"process": process, "cases": rows}, text(rows, process), folder=arguments.folder)


if __name__ == "__main__":
    main()
