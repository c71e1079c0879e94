"""The machine that a figure was measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, torch, and the GPU if `device` is one; nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def load() -> float:
    """Processes that have wanted to run, on average over the last five minutes; 0 where that is not known."""
    return os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0
