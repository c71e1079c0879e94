"""Training beside busy neighbours, by how long threads that wait go on spinning: python benchmarks/busy.py.

GNU's OpenMP, which torch's wheels bring, has a thread that waits turn around billions of times before it sleeps. On a
machine of its own that saves microseconds; where others compute too it burns the time that the awaited thread needs.
Trains the digits recipe, alone and beside as many busy processes as there are processors, in turns over all bounds, so
that what else the machine does hits all alike. Ratios count: figures of a shared machine are noisy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from arguments import parse

BOUNDS = ("default", "0", "1000", "10000", "30000")


def rate(bound: str, images: int) -> float:
    """Images per second of a short run under this bound; the first half, in which everything warms up, is left out."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    if bound != "default":
        environment["GOMP_SPINCOUNT"] = bound
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # torch comes first, so that the command line leaves the bound alone
        code = "import sys, torch; from unitgain.cli.main import main; main(sys.argv[1:])"
        options = f"--duration {images} --tick {images // 10} --device cpu --quiet --no-tensorboard".split()
        command = [sys.executable, "-c", code, "train", "digits", "--out", str(run), *options]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    ticks = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return statistics.median(ticks[len(ticks) // 2 :])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--neighbours", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bounds", nargs="+", default=list(BOUNDS))
    asked = parse(parser, arguments, results=None)
    if asked.small:
        asked.repeat, asked.images, asked.neighbours, asked.bounds = 1, 640, 1, ["0"]
    found: dict[tuple[str, bool], list[float]] = {(bound, busy): [] for bound in asked.bounds for busy in (False, True)}
    for _ in range(asked.repeat):
        for busy in (False, True):
            spin = [sys.executable, "-c", "while True: pass"]
            neighbours = [subprocess.Popen(spin) for _ in range(asked.neighbours if busy else 0)]
            try:
                for bound in asked.bounds:
                    found[bound, busy].append(rate(bound, asked.images))
            finally:
                for one in neighbours:
                    one.kill()
                    one.wait()
    print(f"| GOMP_SPINCOUNT | alone, images/s | beside {asked.neighbours} busy processes |\n|---|---|---|")
    for bound in asked.bounds:
        alone, beside = (statistics.median(found[bound, busy]) for busy in (False, True))
        print(f"| {bound} | {alone:,.0f} | {beside:,.0f} ({beside / alone:.2f}) |")


if __name__ == "__main__":
    main()
