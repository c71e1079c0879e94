"""Memory and time of converting a file of the size of EDM2-XS: the bound is twice the size of the file.

    python benchmarks/official.py

The file is synthetic, in the official format: random float16 weights, each module with its source code.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from arguments import parse

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file, convert it in a process of its own, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--convert", nargs=2, type=Path, metavar=("FILE", "OUT"), help="in this process, and print")
    args = parse(parser, arguments)
    if args.convert:
        convert(*args.convert)
        return
    from official_files import random_state, write_official

    from machine import write_results

    config = {**XS, "model_channels": 64, "img_resolution": 8} if args.small else XS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edm2-img512-xs-2147483-0.135.pkl"
        rows = {}
        for protocol in (4, 2):
            write_official(path, config, state=random_state(config), latents=True, protocol=protocol)
            command = [sys.executable, __file__, "--convert", str(path), str(path.with_suffix(".safetensors"))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken = json.loads(done.stdout)
            size = path.stat().st_size
            rows[f"protocol {protocol}"] = {"bytes": size, **taken, "ratio": round(taken["memory_bytes"] / size, 3)}
    text = "# Converting a file of the size of EDM2-XS\n\nResident memory beyond what the imports take, at most.\n\n"
    text += "| pickle | file, MB | memory, MB | memory / file | seconds |\n|---|---|---|---|---|\n"
    for name, row in rows.items():
        sizes = f"{row['bytes'] / 1e6:.1f} | {row['memory_bytes'] / 1e6:.1f} | {row['ratio']:.2f}"
        text += f"| {name} | {sizes} | {row['seconds']:.1f} |\n"
    write_results("official", {"rows": rows}, text, folder=args.folder)
    print(text)


if __name__ == "__main__":
    main()
