"""How long commands take to answer, and what of that is Python and torch: python benchmarks/start.py [--repeat N].

Prints wall and processor seconds, the least of N turns each, so that a busy machine disturbs little. `import torch` in
the same turns is the yardstick.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from arguments import parse

CASES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import unitgain": ["-c", "import unitgain"],
    "unitgain --help": ["-m", "unitgain", "--help"],
    "unitgain train --help": ["-m", "unitgain", "train", "--help"],
    "unitgain train digits --chanel-mult 1": ["-m", "unitgain", "train", "digits", "--chanel-mult", "1"],
    "unitgain trian": ["-m", "unitgain", "trian"],
    "unitgain sample --help": ["-m", "unitgain", "sample", "--help"],
    "unitgain inspect digits": ["-m", "unitgain", "inspect", "digits"],
    "unitgain fetch": ["-m", "unitgain", "fetch"],
    "unitgain ema list NOWHERE": ["-m", "unitgain", "ema", "list", "NOWHERE"],
    "unitgain metrics NOWHERE --reference digits": ["-m", "unitgain", "metrics", "NOWHERE", "--reference", "digits"],
    "unitgain data check NOWHERE": ["-m", "unitgain", "data", "check", "NOWHERE"],
}


def once(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    asked = parse(parser, arguments, results=None)
    repeat, names = (1, ("python", "import unitgain")) if asked.small else (asked.repeat, tuple(CASES))
    found = {name: [] for name in names}
    for _ in range(repeat):
        for name in names:
            found[name].append(once(CASES[name]))
    print("| call | wall s | processor s |\n|---|---|---|")
    for name, turns in found.items():
        walls, processors = zip(*turns, strict=True)
        print(f"| `{name}` | {min(walls):.2f} | {min(processors):.2f} |")


if __name__ == "__main__":
    main()
