"""The loss of a short run on the digits, step by step: a change of the numbers of training shows here first.

`python benchmarks/loss_curve.py` compares with the committed curve; `--update "why"` replaces it and notes why in
the log. Exact on CPUs with the same version of torch: one thread, and the instruction set that all of them have.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from unitgain.files import write_text

FOLDER = Path(__file__).parent / "results"
CURVE, LOG = FOLDER / "loss_curve.json", FOLDER / "loss_curve.md"
STEPS, BATCH = 24, 32
TOLERANCE = 1e-3  # relative, between versions of torch, whose kernels round differently
ANY_CPU = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "WORLD_SIZE": "1",
}


def measure() -> dict[str, Any]:
    """The curve as this code and this torch give it, computed in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--print"], env={**os.environ, **ANY_CPU}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the run failed: {done.stderr}")
    return json.loads(done.stdout)


def run() -> dict[str, Any]:
    """Train, here and now."""
    import torch

    from unitgain.data.digits import digits
    from unitgain.recipes import DIGITS
    from unitgain.train import TrainConfig, train
    from unitgain.train.log import read_stats

    torch.set_num_threads(1)
    images = STEPS * BATCH
    recipe = DIGITS.replace(batch=BATCH, duration=images, snapshot_every=images)
    config = TrainConfig(recipe=recipe, data="digits", microbatch=BATCH // 2, tick=BATCH, checkpoint_every=images)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", digits(), quiet=True, tensorboard=False)
        losses = [row["loss"] for row in read_stats(Path(folder) / "run")]
    return {"torch": torch.__version__, "steps": STEPS, "batch": BATCH, "loss": losses}


def differences(found: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """Where two curves differ: exactly if torch is the same, by more than `TOLERANCE` if not."""
    exact = found["torch"] == committed["torch"]
    if len(found["loss"]) != len(committed["loss"]):
        return [f"{len(found['loss'])} steps instead of {len(committed['loss'])}"]
    rows = enumerate(zip(found["loss"], committed["loss"], strict=True), start=1)
    return [
        f"step {step}: {ours!r} instead of {theirs!r}"
        for step, (ours, theirs) in rows
        if (ours != theirs if exact else abs(ours - theirs) > TOLERANCE * abs(theirs))
    ]


def update(found: dict[str, Any], why: str) -> None:
    """Replace the committed curve and say why."""
    old = json.loads(CURVE.read_text())["loss"][-1] if CURVE.exists() else None
    text = LOG.read_text() if LOG.exists() else f"# Loss curve of the digits\n\n{(__doc__ or '').strip()}\n"
    text += f"\n- {date.today()}, torch {found['torch']}: last loss {old} -> {found['loss'][-1]}. {why}\n"
    write_text(CURVE, json.dumps(found, indent=1) + "\n")
    write_text(LOG, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", metavar="WHY")
    parser.add_argument("--print", action="store_true")
    options = parser.parse_args()
    if options.print:
        print(json.dumps(run()))
        return
    found = measure()
    if options.update:
        update(found, options.update)
    rows = differences(found, json.loads(CURVE.read_text()))
    print("\n".join(rows) or "the committed curve")
    sys.exit(bool(rows))


if __name__ == "__main__":
    main()
