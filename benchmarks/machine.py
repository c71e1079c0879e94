"""The machine that a figure was measured on, and how results are written down."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from unitgain.files import write_text

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, threads and torch; nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_results(name: str, results: dict[str, Any], text: str) -> None:
    """Write `results/<name>.json` and `results/<name>.md`, the machine in both."""
    where = machine()
    write_text(RESULTS / f"{name}.json", json.dumps({"machine": where, **results}, indent=1) + "\n")
    line = ", ".join(f"{key} {value}" for key, value in where.items())
    write_text(RESULTS / f"{name}.md", f"{text.rstrip()}\n\nMeasured by `benchmarks/{name}.py` on: {line}.\n")
