"""Everything that is claimed of GPUs: `python benchmarks/gpu.py`. Figures go to `results/gpu.json` and `.md`.

EDM2-S and EDM2+-S at 3x64x64 with 1000 classes: evaluations, samples and training steps at batch 32, against the plain
implementation in eager float16, NCHW, weights normalized in every evaluation, everything parameter by parameter. With
the share of the measured peak of matrix products, memory, and a roofline. All of a part takes turns in one process.

The parts are measured one after the other and kept: a call that was interrupted is gone on with. `--small` runs the
same with tiny networks on a CPU.
"""

import argparse
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
SAMPLING, TRAINING, PEAK, PLUS, MEMORY = 2.0, 1.8, 0.45, 1.7, 0.87  # the last: 13 % less


def networks(small: bool) -> dict[str, Recipe]:
    """EDM2-S and EDM2+-S, or tiny ones with the same blocks."""
    found = {"EDM2-S": recipe("edm2-img64-s"), "EDM2+-S": recipe("edm2plus-img64-s")}
    if not small:
        return found
    tiny = {"resolution": 8, "model_channels": 8, "channels_per_head": 8, "num_blocks": 1, "channel_mult": (1,)}
    tiny |= {"label_dim": 10, "attn_resolutions": ()}
    return {label: one.replace(name=label, network=one.network.replace(**tiny)) for label, one in found.items()}


def told(report: Report) -> dict[str, Any]:
    """A report as JSON, and as the text of a page."""
    text = [markdown(cells(report)), "", markdown(roofline_cells(report)), "", " ".join(notes(report))]
    return {"report": to_dict(report), "text": "\n".join(text)}


def cases(made: dict[str, Recipe], modes: list[str]) -> list[Case]:
    return [Case(one, mode, f"{label} {mode}") for label, one in made.items() for mode in modes]


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
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--modes", nargs="*", default=["float16", "bfloat16", "bfloat16+compile"], help="of inference")
    parser.add_argument("--steps", nargs="*", default=["float16", "bfloat16", "bfloat16+compile"], help="of training")
    parser.add_argument("--sampler-steps", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each part, after warming up")
    parser.add_argument("--small", action="store_true", help="tiny networks on a CPU, to try the script")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--folder", type=Path, help="of the results")
    args = parser.parse_args(arguments)
    if not args.small and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --small tries the script on a CPU")
    device = "cpu" if args.small else "cuda"
    folder = args.folder or (Path(tempfile.gettempdir()) / "unitgain-benchmarks" if args.small else RESULTS)
    made, how = networks(args.small), {"device": device, "pace": Pace(seconds=args.seconds)}
    infer, train = cases(made, [PLAIN, *args.modes]), cases(made, [PLAIN, *args.steps])
    parts = {
        "evaluations": lambda: told(forward(infer, batch=args.batch, **how)),
        "samples": lambda: told(sampling(infer, batch=args.batch, steps=args.sampler_steps, **how)),
        "training": lambda: told(training(train, batch=args.batch, **how)),
    }
    settings = {name: getattr(args, name) for name in ("batch", "modes", "steps", "sampler_steps", "seconds")}
    settings["device"] = device
    found = in_parts("gpu", parts, page, settings=settings, fresh=args.fresh, device=device, folder=folder)
    print("\n" + page(found))


if __name__ == "__main__":
    main()
