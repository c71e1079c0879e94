"""Peak memory of one case in a process of its own: what sampling with that network takes, from opening it on."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from unitgain.bench.cases import inputs, open_denoiser, parse_mode
from unitgain.bench.memory import STATUS, PeakMemory


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak.

    Attributes:
        opening: while the network is opened and prepared; anonymous memory, above what the process had before.
        evaluating: while it is evaluated, with its weights; likewise. What a long run of sampling takes.
        process: of the whole process, libraries and all, since it began; 0 on a GPU.
    """

    opening: int
    evaluating: int
    process: int


def footprint(network: str, mode: str, *, batch: int = 1, device: str = "cpu", threads: int | None = None) -> Footprint:
    """Open, prepare and evaluate a network in a fresh process.

    Args:
        network: name of a recipe, whose weights are made first and count while opening; or whatever `unitgain.load`
            opens.
        mode: of `parse_mode`.
        batch: images of an evaluation.
        device: where.
        threads: of the process; by default as many as here.

    Raises:
        ValueError: if the mode is unknown.
        RuntimeError: if the process fails.
    """
    parse_mode(mode, device)
    asked = {"network": network, "mode": mode, "batch": batch, "device": device}
    asked["threads"] = threads or torch.get_num_threads()
    command = [sys.executable, __file__, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {network}:{mode} failed: {done.stderr.strip()[-500:]}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(network: str, mode: str, batch: int, device: str) -> Footprint:
    """The same in this process, which should have done nothing else."""
    chosen = parse_mode(mode, device)
    with PeakMemory(device) as opening:
        denoiser = chosen.apply(open_denoiser(network, device, mapped=not chosen.as_trained))
    arguments = inputs(denoiser, batch, device)
    run = torch.inference_mode()(lambda: denoiser(*arguments))
    run()  # compiles what is to be compiled
    with PeakMemory(device) as evaluating:
        run()
    taken = opening.kept + evaluating.gained
    return Footprint(opening.gained, taken, 0 if device == "cuda" else highest())


def highest() -> int:
    """Bytes of this process at its highest since it began, files that it has mapped included; 0 if not known."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main(arguments: Sequence[str]) -> None:
    """Measure here what is asked for as JSON, and print it."""
    asked = json.loads(arguments[0])
    torch.set_num_threads(asked.pop("threads"))
    print(json.dumps(asdict(measure_here(**asked))))


if __name__ == "__main__":
    main(sys.argv[1:])
