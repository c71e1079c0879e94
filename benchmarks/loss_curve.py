"""The loss of a short run on the digits, step by step: a change of the numbers of training shows here first.

`python benchmarks/loss_curve.py` compares with the committed curve; `--update "why"` replaces it and notes why in
the log, or adds the curve of another processor. Exact on one processor with one version of torch: one thread, and the
instruction set that all processors have. The libraries of makers differ even so, by a rounding here and there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from arguments import parse
from unitgain.files import write_text

CURVE, LOG = "loss_curve.json", "loss_curve.md"
STEPS, BATCH = 24, 32
BETWEEN_VERSIONS = 1e-3  # relative, between versions of torch, whose kernels round differently
BETWEEN_PROCESSORS = 1e-5  # relative; 1e-7 was seen after 24 steps
ANY_CPU = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "UNITGAIN_NATIVE": "0",  # C is compiled for the processor that is there
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "WORLD_SIZE": "1",
}


def measure(steps: int = STEPS) -> dict[str, Any]:
    """The curve as this code and this torch give it, computed in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--print", str(steps)], env={**os.environ, **ANY_CPU}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the run failed: {done.stderr}")
    return json.loads(done.stdout)


def run(steps: int) -> dict[str, Any]:
    """Train, here and now."""
    import torch

    from unitgain.data.digits import digits
    from unitgain.recipes import DIGITS
    from unitgain.train import TrainConfig, train
    from unitgain.train.rows import read_stats

    torch.set_num_threads(1)
    images = steps * BATCH
    recipe = DIGITS.replace(batch=BATCH, duration=images, snapshot_every=images)
    config = TrainConfig(recipe=recipe, data="digits", microbatch=BATCH // 2, tick=BATCH, checkpoint_every=images)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", digits(), quiet=True, tensorboard=False)
        losses = [row["loss"] for row in read_stats(Path(folder) / "run")]
    return {"torch": torch.__version__, "processor": processor(), "steps": steps, "batch": BATCH, "loss": losses}


def processor() -> str:
    """Which processor this is: its name alone may stand for several."""
    info = Path("/proc/cpuinfo")
    rows = (line.partition(":")[::2] for line in info.read_text().splitlines()) if info.exists() else ()
    values = {name.strip(): value.strip() for name, value in rows}
    names = ("model name", "cpu family", "model", "stepping")
    return "/".join(values.get(name, "") for name in names) if values else platform.processor()


def differences(found: dict[str, Any], committed: list[dict[str, Any]]) -> list[str]:
    """Where a curve differs from the committed one that is nearest to it in kind.

    Exactly with the same torch and processor; by more than `BETWEEN_PROCESSORS` or `BETWEEN_VERSIONS` if not.
    """

    def kinship(curve: dict[str, Any]) -> int:
        same = curve["torch"] == found["torch"]
        return same + (same and curve["processor"] == found["processor"])

    nearest = max(committed, key=kinship)
    tolerance = (BETWEEN_VERSIONS, BETWEEN_PROCESSORS, 0)[kinship(nearest)]
    if len(found["loss"]) != len(nearest["loss"]):
        return [f"{len(found['loss'])} steps instead of {len(nearest['loss'])}"]
    rows = enumerate(zip(found["loss"], nearest["loss"], strict=True), start=1)
    return [
        f"step {step}: {ours!r} instead of {theirs!r}"
        for step, (ours, theirs) in rows
        if abs(ours - theirs) > tolerance * abs(theirs)
    ]


def read(folder: Path) -> list[dict[str, Any]]:
    """Curves of a folder, one for each version of torch and processor."""
    path = folder / CURVE
    return json.loads(path.read_text()) if path.exists() else []


def update(found: dict[str, Any], why: str, folder: Path) -> None:
    """Keep the curve and say why; it replaces those that it contradicts."""
    curves, log = read(folder), folder / LOG
    kind = (found["torch"], found["processor"])
    kept = [
        curve for curve in curves if (curve["torch"], curve["processor"]) != kind and not differences(found, [curve])
    ]
    old = curves[0]["loss"][-1] if curves else None
    text = log.read_text() if log.exists() else f"# Loss curve of the digits\n\n{(__doc__ or '').strip()}\n"
    text += f"\n- {date.today()}, torch {kind[0]}, {kind[1]}: last loss {old} -> {found['loss'][-1]}. {why}\n"
    write_text(folder / CURVE, json.dumps([*kept, found], indent=1) + "\n")
    write_text(log, text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", metavar="WHY")
    parser.add_argument("--print", type=int, metavar="STEPS", help="train so many steps in this process, and print")
    options = parse(parser, arguments)
    if options.print:
        print(json.dumps(run(options.print)))
        return 0
    found = measure(2 if options.small else STEPS)
    if options.update:
        update(found, options.update, options.folder)
    committed = read(options.folder)
    if not committed:
        parser.error(f"there is no {options.folder / CURVE} to compare with; --update WHY writes one")
    rows = differences(found, committed)
    print("\n".join(rows) or "the committed curve")
    return int(bool(rows))


if __name__ == "__main__":
    sys.exit(main())
