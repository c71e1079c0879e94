"""Memory and time of converting a file of the size of EDM2-XS: the bound is twice the size of the file.

    python benchmarks/official.py

The file is synthetic, in the official format: random float16 weights, each module with its source code.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

XS = {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 128}


def convert(source: Path, out: Path) -> None:
    """Convert in this process, and print what it took beyond what the imports do."""
    from robustness import reset_peak, resident
    from unitgain.checkpoint.convert import convert_network
    from unitgain.checkpoint.origin import Origin

    reset_peak()
    before, began = resident(peak=False), time.perf_counter()
    convert_network(source, out, Origin(nimg=2**31, sigma_rel=0.135, recipe="edm2-img512-xs"))
    taken = {"seconds": round(time.perf_counter() - began, 2), "memory_bytes": resident(peak=True) - before}
    print(json.dumps(taken))


def main() -> None:
    """Write the file, convert it in a process of its own, and store the figures."""
    from official_files import random_state, write_official

    from machine import write_results

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edm2-img512-xs-2147483-0.135.pkl"
        rows = {}
        for protocol in (4, 2):
            write_official(path, XS, state=random_state(XS), latents=True, protocol=protocol)
            command = [sys.executable, __file__, str(path), str(path.with_suffix(".safetensors"))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken = json.loads(done.stdout)
            size = path.stat().st_size
            rows[f"protocol {protocol}"] = {"bytes": size, **taken, "ratio": round(taken["memory_bytes"] / size, 3)}
    text = "# Converting a file of the size of EDM2-XS\n\nResident memory beyond what the imports take, at most.\n\n"
    text += "| pickle | file, MB | memory, MB | memory / file | seconds |\n|---|---|---|---|---|\n"
    for name, row in rows.items():
        sizes = f"{row['bytes'] / 1e6:.1f} | {row['memory_bytes'] / 1e6:.1f} | {row['ratio']:.2f}"
        text += f"| {name} | {sizes} | {row['seconds']:.1f} |\n"
    write_results("official", {"rows": rows}, text)
    print(text)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "attacks"))
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
