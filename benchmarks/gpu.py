"""Everything that is claimed of GPUs: `python benchmarks/gpu.py`. Figures go to `results/gpu.json` and `.md`.

EDM2-S and EDM2+-S at 3x64x64 with 1000 classes: evaluations, samples and training steps at batch 32, against the plain
implementation in eager float16, NCHW, weights normalized in every evaluation, everything parameter by parameter. With
the share of the measured peak of matrix products, memory, and a roofline. All of a part takes turns in one process.

Modes that compile, record or use kernels of our own are first tried with tiny networks, each in a process of its own;
one that fails is left out, and the page says why. The parts are measured one after the other and kept: a call that was
interrupted is gone on with. `--small` runs the same with tiny networks on a CPU, without CUDA graphs, and with the
kernels only if TRITON_INTERPRET=1 has them interpreted, without samples then.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from machine import RESULTS, in_parts, verdict
from unitgain.bench.cases import Case
from unitgain.bench.forward import forward
from unitgain.bench.measure import Report
from unitgain.bench.sampling import sampling
from unitgain.bench.tables import cells, markdown, notes, roofline_cells
from unitgain.bench.training import training
from unitgain.bench.turns import Pace
from unitgain.recipe import Recipe
from unitgain.recipes import recipe
from unitgain.serial import to_dict

PLAIN = "plain+float16"
MODES = ["float16", "bfloat16", "bfloat16+graph", "bfloat16+kernels", "bfloat16+kernels+graph"]
MODES += ["bfloat16+compile", "bfloat16+compile=reduce-overhead", "bfloat16+kernels+compile=reduce-overhead"]
STEPS = ["float16", "bfloat16", "bfloat16+kernels", "bfloat16+compile", "bfloat16+kernels+compile"]
SLOWEST = 900  # seconds that a trial may take
CLOSE = 0.05  # relative error of D that tells low precision from nonsense
SAMPLING, TRAINING, PEAK, PLUS, MEMORY = 2.0, 1.8, 0.45, 1.7, 0.87  # the last: 13 % less


def networks(small: bool) -> dict[str, Recipe]:
    """EDM2-S and EDM2+-S, or tiny ones with the same blocks."""
    found = {"EDM2-S": recipe("edm2-img64-s"), "EDM2+-S": recipe("edm2plus-img64-s")}
    if not small:
        return found
    tiny = {"resolution": 4, "model_channels": 8, "channels_per_head": 8, "num_blocks": 1, "channel_mult": (1,)}
    tiny |= {"label_dim": 10, "attn_resolutions": ()}
    return {label: one.replace(name=label, network=one.network.replace(**tiny)) for label, one in found.items()}


def told(report: Report) -> dict[str, Any]:
    """A report as JSON, and as the text of a page."""
    text = [markdown(cells(report)), "", markdown(roofline_cells(report)), "", " ".join(notes(report))]
    return {"report": to_dict(report), "text": "\n".join(text)}


def cases(made: dict[str, Recipe], modes: list[str]) -> list[Case]:
    """Of each network in each mode; the kernels are for depthwise convolutions, which EDM2 has none of."""
    found = [(label, mode) for label in made for mode in modes if "kernels" not in mode or label == "EDM2+-S"]
    return [Case(made[label], mode, f"{label} {mode}") for label, mode in found]


def possible(modes: list[str], device: str) -> list[str]:
    """Those that can run at all: graphs need a GPU, kernels one or the interpreter."""
    interpreted = bool(os.environ.get("TRITON_INTERPRET")) and importlib.util.find_spec("triton") is not None
    without = {"graph"} if device == "cpu" else set[str]()
    if device == "cpu" and not interpreted:
        without.add("kernels")
    left = [mode for mode in modes if not without & set(mode.split("+"))]
    if len(left) < len(modes):
        print(f"not on this machine: {', '.join(mode for mode in modes if mode not in left)}", flush=True)
    return left


def trials(infer: list[str], train: list[str], device: str) -> dict[str, Any]:
    """Which modes fail, by part, and the same as text."""
    failed: dict[str, dict[str, str]] = {"inference": {}, "training": {}}
    for what, modes in (("inference", infer), ("training", train)):
        for mode in modes:
            reason = trial(what, mode, device) if "+" in mode else ""
            if reason:
                failed[what][mode] = reason
                print(f"{what} in {mode} is left out: {reason}", flush=True)
    lines = [f"{what} in {mode}: {reason}" for what, modes in failed.items() for mode, reason in modes.items()]
    return {"failed": failed, "text": "\n".join(lines) or "Every mode ran with tiny networks."}


def trial(what: str, mode: str, device: str) -> str:
    """What goes wrong with tiny networks in this mode, in a process of its own, as a fault of a kernel ends it."""
    command = [sys.executable, __file__, "--trial", what, mode, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SLOWEST)
    except subprocess.TimeoutExpired:
        return f"took more than {SLOWEST} s"
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1].strip()


def try_mode(what: str, mode: str, device: str) -> None:
    """Fail unless tiny networks run in this mode, with results that are about right."""
    made, how = cases(networks(small=True), [mode]), {"device": device, "pace": Pace(repeats=1)}
    if what == "training":
        training(made, batch=2, **how)
        return
    for row in forward(made, batch=2, **how).rows:
        if not row.facts["error"] < CLOSE:
            raise SystemExit(f"error of D {row.facts['error']:.2g}")


def working(what: str, modes: list[str], folder: Path) -> list[str]:
    """The modes without those that failed their trial."""
    failed = json.loads((folder / "gpu.json").read_text())["trials"]["failed"][what]
    return [mode for mode in modes if mode not in failed]


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    title = "Everything on a GPU" if found["settings"]["device"] == "cuda" else "In small, on a CPU: no claim"
    lines = [f"# {title}", "", (__doc__ or "").split("\n\n")[1]]
    for part, one in found.items():
        if part != "settings":
            lines += ["", f"## {part.capitalize()}", "", one["text"]]
    return "\n".join([*lines, "", "## Wanted", "", *wanted(found)])


def wanted(found: dict[str, Any]) -> list[str]:
    """Every target that there is a figure for."""
    lines = ["| | wanted | measured | met |", "|---|---|---|---|"]
    for part, target in (("evaluations", SAMPLING), ("samples", SAMPLING), ("training", TRAINING)):
        if part not in found:
            continue
        ours, plus = best(found, part, "EDM2-S"), best(found, part, "EDM2+-S")
        lines.append(f"| {part}: {ours['name']}, x plain | {verdict(ours['ratio'], target)} |")
        if part == "training":
            half = best(found, part, "EDM2-S", "bfloat16")
            lines.append(f"| {part}: {half['name']}, share of the peak | {verdict(half['roofline']['share'], PEAK)} |")
        else:
            lines.append(f"| {part}: {plus['name']} over EDM2-S | {verdict(plus['ratio'] / ours['ratio'], PLUS)} |")
        share = memory(plus) / max(memory(ours), 1)
        lines.append(f"| {part}: {plus['name']} over EDM2-S, memory | {verdict(share, MEMORY, at_most=True)} |")
    return lines


def best(found: dict[str, Any], part: str, network: str, mode: str = "") -> dict[str, Any]:
    """The fastest row of a network that is not plain, in the modes that begin so."""
    rows = [row for row in found[part]["report"]["rows"] if row["name"].split()[0] == network]
    ours = [row for row in rows if "plain" not in row["name"] and "alone" not in row["name"]]
    ours = [row for row in ours if row["name"].split()[1].startswith(mode)] or ours
    return max(ours, key=lambda row: row["ratio"])


def memory(row: dict[str, Any]) -> int:
    return row["held"] + row["gained"]


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, help="32, in small 4")
    parser.add_argument("--modes", nargs="*", default=MODES, help="of inference")
    parser.add_argument("--steps", nargs="*", default=STEPS, help="of training")
    parser.add_argument("--sampler-steps", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each part, after warming up")
    parser.add_argument("--small", action="store_true", help="tiny networks on a CPU, to try the script")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--folder", type=Path, help="of the results")
    parser.add_argument("--trial", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.trial:
        return try_mode(*args.trial)
    if not args.small and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --small tries the script on a CPU")
    device = "cpu" if args.small else "cuda"
    args.batch = args.batch or (4 if args.small else 32)
    folder = args.folder or (Path(tempfile.gettempdir()) / "unitgain-benchmarks" if args.small else RESULTS)
    made, how = networks(args.small), {"device": device, "pace": Pace(seconds=args.seconds)}
    infer, train = possible(args.modes, device), possible(args.steps, device)
    chosen = lambda what, modes: cases(made, [PLAIN, *working(what, modes, folder)])  # noqa: E731
    inference, steps = lambda: chosen("inference", infer), lambda: chosen("training", train)
    # Tiny networks draw 64 images at a time, which takes half an hour where kernels are interpreted.
    drawing = lambda: [case for case in inference() if device == "cuda" or "kernels" not in case.mode]  # noqa: E731
    parts = {
        "trials": lambda: trials(infer, train, device),
        "evaluations": lambda: told(forward(inference(), batch=args.batch, **how)),
        "samples": lambda: told(sampling(drawing(), batch=args.batch, steps=args.sampler_steps, **how)),
        "training": lambda: told(training(steps(), batch=args.batch, **how)),
    }
    settings = {name: getattr(args, name) for name in ("batch", "sampler_steps", "seconds")}
    settings |= {"device": device, "modes": infer, "steps": train}
    found = in_parts("gpu", parts, page, settings=settings, fresh=args.fresh, device=device, folder=folder)
    print("\n" + page(found))


if __name__ == "__main__":
    main()
