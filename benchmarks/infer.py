"""What `unitgain.infer.prepare` gains: `python benchmarks/infer.py`. Figures go to `results/infer.json` and `.md`.

EDM2-S and EDM2+-S at 3x64x64 with 1000 classes, as they are trained and prepared, in turns in one process: `plain` is
float32, contiguous, weights normalized in every evaluation. Weights and gains are random: what the network adds to its
input is not zero. Peak memory is that of fresh processes. A whole sample is measured against its 63 evaluations.

The parts are measured one after the other and kept: a call that was interrupted is gone on with.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from machine import RESULTS, in_parts, verdict
from unitgain.bench.cases import Case, open_denoiser, parse_mode
from unitgain.bench.footprint import footprint
from unitgain.bench.forward import forward
from unitgain.bench.sampling import sampling
from unitgain.bench.turns import Pace
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.infer import fastest_dtype
from unitgain.infer.layers import supported
from unitgain.serial import to_dict

NETWORKS = {"EDM2-S": "edm2-img64-s", "EDM2+-S": "edm2plus-img64-s"}
SMALL = {"EDM2-S": "digits", "EDM2+-S": "pixels64-mini"}
# Of the time of plain EDM2-S over that of the row, by batch.
FASTER = {("EDM2-S", "fast"): {1: 6.5, 8: 5.0}, ("EDM2+-S", "fast"): {1: 12.0, 8: 7.0}}
FASTER[("EDM2-S", "float32")] = {1: 1.4, 8: 1.0}
ERRORS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
MEMORY, OVERHEAD, PREPARE = 0.6, 1.05, 2.0


def modes(compile: bool) -> list[str]:
    """What each network is measured in: `fast` is the default of `prepare`, float16 beside it where it is native."""
    found = ["plain", "float32"]
    if fastest_dtype("cpu") != torch.float32:
        found.append("bfloat16")
    if supported(torch.float16):
        found.append("float16")
    return found + ([f"{found[-1]}+compile"] if compile else [])


def measure_forward(networks: dict[str, str], batch: int, repeats: int, compile: bool) -> dict[str, Any]:
    cases = [Case(name, mode, f"{label} {mode}") for label, name in networks.items() for mode in modes(compile)]
    # Beside it what Winograd's filtering gains; EDM2+ has no convolutions to filter.
    cases.insert(len(cases) // 2, Case(networks["EDM2-S"], "fast+direct", f"EDM2-S {fastest_name()}+direct"))
    return to_dict(forward(cases, batch=batch, pace=Pace(repeats=repeats), on_progress=said()))


def fastest_name() -> str:
    """Of the default of `prepare` here."""
    return str(fastest_dtype("cpu")).removeprefix("torch.")


def measure_memory(networks: dict[str, str], batches: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {label: snapshot_of(name, Path(folder)) for label, name in networks.items()}
        return {
            f"{label} {mode} batch {batch}": asdict(footprint(str(path), mode, batch=batch))
            for batch in batches
            for mode in (("plain", "fast", "fast+direct") if batch == 1 else ("fast", "fast+direct"))
            for label, path in paths.items()
            if mode != "fast+direct" or label == "EDM2-S"
        }


def snapshot_of(name: str, folder: Path) -> Path:
    """A file with random weights and gains, as users have networks."""
    denoiser = open_denoiser(name)
    header = SnapshotHeader(
        network=denoiser.spec,
        sigma_data=denoiser.sigma_data,
        nimg=0,
        profile={"kind": "raw"},
        recipe=name,
        encoder=to_dict(PixelEncoder()),
    )
    write_snapshot(folder / f"{name}.safetensors", header, denoiser.state_dict())
    return folder / f"{name}.safetensors"


def measure_prepare(networks: dict[str, str], modes: list[str]) -> dict[str, list[float]]:
    """Seconds of preparing three times: the later ones in memory that the process has had before."""
    found: dict[str, list[float]] = {}
    for label, name in networks.items():
        denoiser = open_denoiser(name)
        for mode in modes[1:]:  # but plain
            for _ in range(3):
                start = time.perf_counter()
                parse_mode(mode).prepare(denoiser)
                found.setdefault(f"{label} {mode}", []).append(time.perf_counter() - start)
    return found


def measure_sample(networks: dict[str, str], steps: int) -> dict[str, Any]:
    cases = [Case(networks["EDM2+-S"], "fast", "EDM2+-S fast")]
    return to_dict(sampling(cases, batch=1, steps=steps, pace=Pace(repeats=2), on_progress=said()))


def said() -> Any:
    """A line for each thing that begins."""
    lines: list[str] = []

    def say(what: str, *_: object) -> None:
        if what not in lines:
            lines.append(what)
            print(f"  {what}", flush=True)

    return say


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "# Inference",
        "",
        "Evaluations of D at 3x64x64, 1000 classes, random weights and gains. `plain`: float32, contiguous, weights "
        "normalized in every evaluation; the others are prepared. Times are medians of turns in one process, ratios "
        "medians of the ratios of a turn; error: of D, relative, against plain. `of peak` and `floor` count the "
        "multiply-adds of convolutions by their definition: those of EDM2 are made with fewer, by Winograd's "
        "filtering, but for `+direct`.",
    ]
    for part, report in found.items():
        if part.startswith("batch"):
            lines += ["", f"## {part.capitalize()}", "", *forward_lines(report)]
    if "memory" in found:
        lines += ["", "## Peak memory", "", *memory_lines(found["memory"])]
    if "sample" in found:
        row = found["sample"]["rows"][0]
        lines += ["", "## A whole sample", ""]
        steps, facts = found["sample"]["settings"]["steps"], row["facts"]
        over = f"{facts['over_evaluations']:.3f} times its {facts['evaluations']} evaluations alone"
        lines.append(f"{steps} steps of Heun's method with {row['name']}: {row['seconds']:.2f} s, {over}.")
    if "preparing" in found:
        lines += ["", "## Preparing again", "", "| network | s, the third time |", "|---|---|"]
        lines += [f"| {name} | {seconds[-1]:.2f} |" for name, seconds in found["preparing"].items()]
        lines += ["", "The tables above have the first time, with memory that the system hands out for it."]
    return "\n".join([*lines, "", "## Wanted", "", *wanted(found)])


def forward_lines(report: dict[str, Any]) -> list[str]:
    plain = {row["name"].split()[0]: row["seconds"] for row in report["rows"] if row["name"].endswith("plain")}
    lines = [
        "| network | ms | quartiles | x plain EDM2-S | x plain | of peak | floor ms | error | prepare s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        facts, roof = row["facts"], row["roofline"]
        made = f"{facts['prepare_seconds']:.2f}" if "prepare_seconds" in facts else ""
        lines.append(
            f"| {row['name']} | {row['seconds'] * 1e3:.0f} | {row['seconds_low'] * 1e3:.0f} to "
            f"{row['seconds_high'] * 1e3:.0f} | {row['ratio']:.2f} "
            f"| {plain[row['name'].split()[0]] / row['seconds']:.2f} | {roof['share']:.0%} | {roof['floor'] * 1e3:.0f} "
            f"| {facts['error']:.1e} | {made} |"
        )
    rates = ", ".join(f"{name} {rate / 1e9:.0f} G" for name, rate in report["peaks"].items())
    lines += ["", f"Square matrix products, multiply-adds per second: {rates}. Copies within memory: "]
    lines[-1] += f"{report['bandwidth'] / 1e9:.1f} GB/s. Load average at the end: {report['load']:.1f}."
    return lines


def memory_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "Each in a fresh process that opens a snapshot in float16: while it is opened and prepared, and while it is "
        "evaluated, weights included. The whole process has the libraries too, and the pages of the file that it read.",
        "",
    ]
    lines += ["| network | opening, MB | evaluating, MB | whole process, MB |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {one['opening'] / 1e6:.0f} | {one['evaluating'] / 1e6:.0f} | {one['process'] / 1e6:.0f} |"
        for name, one in found.items()
    ]


def wanted(found: dict[str, Any]) -> list[str]:
    """Every target that there is a figure for."""
    lines = ["| | wanted | measured | met |", "|---|---|---|---|"]
    for part, report in found.items():
        if not part.startswith("batch"):
            continue
        batch = report["settings"]["batch"]
        for (network, mode), targets in FASTER.items():
            rows = [row for row in report["rows"] if row["name"].split()[0] == network and counts(row["name"], mode)]
            if batch in targets and rows:
                best = max(rows, key=lambda row: row["ratio"])
                name = f"{best['name']}, batch {batch}, x plain EDM2-S"
                lines.append(f"| {name} | {verdict(best['ratio'], targets[batch])} |")
        for row in report["rows"]:
            limit = ERRORS.get(row["name"].split()[1].partition("+")[0])
            if limit is not None:
                error = verdict(row["facts"]["error"], limit, at_most=True)
                lines.append(f"| {row['name']}, batch {batch}, error of D | {error} |")
        for row in report["rows"]:
            if row["name"].startswith("EDM2-S") and "prepare_seconds" in row["facts"]:
                took = verdict(row["facts"]["prepare_seconds"], PREPARE, at_most=True)
                lines.append(f"| preparing {row['name']}, s | {took} |")
    for key in [key for key in found.get("memory", {}) if key.startswith("EDM2+-S fast")]:
        for mode in ("fast", "fast+direct"):
            other = key.replace("EDM2+-S fast", f"EDM2-S {mode}")
            ours, theirs = found["memory"][key], found["memory"][other]
            for what in ("opening", "evaluating", "process"):
                share = ours[what] / max(theirs[what], 1)
                lines.append(f"| {key} over {other}, memory {what} | {verdict(share, MEMORY, at_most=True)} |")
    if "sample" in found:
        ratio = found["sample"]["rows"][0]["facts"]["over_evaluations"]
        lines.append(f"| a whole sample over its evaluations | {verdict(ratio, OVERHEAD, at_most=True)} |")
    return lines


def counts(name: str, mode: str) -> bool:
    """Whether a row counts for a target: any low precision for `fast`."""
    words = name.split()[1].partition("+")[0]
    return words == mode if mode == "float32" else words in ("bfloat16", "float16")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns at batch 1; half of them, at least 3, beyond")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--steps", type=int, default=32, help="of the whole sample")
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes more")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--name", default="infer", help="of the results")
    parser.add_argument("--folder", type=Path, help="of the results")
    args = parser.parse_args(arguments)
    folder = args.folder or (Path(tempfile.gettempdir()) / "unitgain-benchmarks" if args.small else RESULTS)
    networks = SMALL if args.small else NETWORKS
    turns = {batch: args.repeats if batch == 1 else max(3, args.repeats // 2) for batch in args.batches}
    parts: dict[str, Any] = {
        f"batch {batch}": lambda batch=batch: measure_forward(networks, batch, turns[batch], args.compile)
        for batch in args.batches
    }
    parts["memory"] = lambda: measure_memory(networks, args.batches)
    parts["sample"] = lambda: measure_sample(networks, args.steps)
    parts["preparing"] = lambda: measure_prepare(networks, modes(compile=False))
    settings = {"networks": networks, "repeats": args.repeats, "steps": args.steps, "compile": args.compile}
    found = in_parts(args.name, parts, page, settings=settings, fresh=args.fresh, folder=folder)
    print("\n" + page(found))


if __name__ == "__main__":
    main()
