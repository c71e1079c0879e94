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
from datetime import date
from pathlib import Path
from typing import Any

from unitgain.files import write_text

FOLDER = Path(__file__).parent / "results"
CURVE, LOG = FOLDER / "loss_curve.json", FOLDER / "loss_curve.md"
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
    from unitgain.train.rows import read_stats

    torch.set_num_threads(1)
    images = STEPS * BATCH
    recipe = DIGITS.replace(batch=BATCH, duration=images, snapshot_every=images)
    config = TrainConfig(recipe=recipe, data="digits", microbatch=BATCH // 2, tick=BATCH, checkpoint_every=images)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", digits(), quiet=True, tensorboard=False)
        losses = [row["loss"] for row in read_stats(Path(folder) / "run")]
    return {"torch": torch.__version__, "processor": processor(), "steps": STEPS, "batch": BATCH, "loss": losses}


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


def update(found: dict[str, Any], why: str) -> None:
    """Keep the curve and say why; it replaces those that it contradicts."""
    curves = json.loads(CURVE.read_text()) if CURVE.exists() else []
    kind = (found["torch"], found["processor"])
    kept = [
        curve for curve in curves if (curve["torch"], curve["processor"]) != kind and not differences(found, [curve])
    ]
    old = curves[0]["loss"][-1] if curves else None
    text = LOG.read_text() if LOG.exists() else f"# Loss curve of the digits\n\n{(__doc__ or '').strip()}\n"
    text += f"\n- {date.today()}, torch {kind[0]}, {kind[1]}: last loss {old} -> {found['loss'][-1]}. {why}\n"
    write_text(CURVE, json.dumps([*kept, found], indent=1) + "\n")
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
