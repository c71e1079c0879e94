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

from arguments import parse
from footprint import footprint
from machine import in_parts
from unitgain.bench.cases import Case, inputs, open_denoiser, parse_mode
from unitgain.bench.forward import forward
from unitgain.bench.measure import Pace, Work, measure
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.infer import fastest_dtype
from unitgain.infer.layers import supported
from unitgain.sample import Heun, generate, sigma_grid
from unitgain.serial import to_dict

NETWORKS = {"EDM2-S": "edm2-img64-s", "EDM2+-S": "edm2plus-img64-s"}
SMALL = {"EDM2-S": "digits", "EDM2+-S": "pixels64-mini"}


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
    return to_dict(forward(cases, batch=batch, pace=Pace(repeats=repeats)))


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
                parse_mode(mode).apply(denoiser)
                found.setdefault(f"{label} {mode}", []).append(time.perf_counter() - start)
    return found


def measure_sample(network: str, steps: int) -> dict[str, Any]:
    """A whole sample, and as many evaluations of the same network on the same images, one after the other."""
    denoiser, sigmas = parse_mode("fast").apply(open_denoiser(network)), sigma_grid(steps)
    x, _, label = inputs(denoiser, 1, "cpu")
    levels = [*sigmas[:-1].repeat_interleave(2).float()][: Heun().evaluations(sigmas)]

    @torch.inference_mode()
    def evaluate() -> None:
        for level in levels:
            denoiser(x, level, label)

    whole = Work(name="whole", run=lambda: list(generate(denoiser, range(1), sigmas, batch=1)), items=1)
    report = measure([whole, Work(name="evaluations", run=evaluate, items=1)], pace=Pace(repeats=2))
    seconds = {row.name: row.seconds for row in report.rows}
    return {"steps": steps, "evaluations": len(levels), "seconds": seconds}


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "# Inference",
        "",
        "Evaluations of D at 3x64x64, 1000 classes, random weights and gains. `plain`: float32, contiguous, weights "
        "normalized in every evaluation; the others are prepared. Times are medians of turns in one process, ratios "
        "medians of the ratios of a turn; error: of D, relative, against plain. `of peak` counts the "
        "multiply-accumulates of convolutions by their definition: those of EDM2 are made with fewer, by Winograd's "
        "filtering, but for `+direct`.",
    ]
    for part, report in found.items():
        if part.startswith("batch"):
            lines += ["", f"## {part.capitalize()}", "", *forward_lines(report)]
    if "memory" in found:
        lines += ["", "## Peak memory", "", *memory_lines(found["memory"])]
    if "sample" in found:
        sample = found["sample"]
        whole, alone = sample["seconds"]["whole"], sample["seconds"]["evaluations"]
        over = f"{whole / alone:.3f} times its {sample['evaluations']} evaluations alone"
        lines += ["", "## A whole sample", ""]
        lines.append(f"{sample['steps']} steps of Heun's method with EDM2+-S fast: {whole:.2f} s, {over}.")
    if "preparing" in found:
        lines += ["", "## Preparing again", "", "| network | s, the third time |", "|---|---|"]
        lines += [f"| {name} | {seconds[-1]:.2f} |" for name, seconds in found["preparing"].items()]
        lines += ["", "The tables above have the first time, with memory that the system hands out for it."]
    return "\n".join(lines)


def forward_lines(report: dict[str, Any]) -> list[str]:
    plain = {row["name"].split()[0]: row["seconds"] for row in report["rows"] if row["name"].endswith("plain")}
    lines = [
        "| network | ms | quartiles | x plain EDM2-S | x plain | of peak | error | prepare s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        facts = row["facts"]
        made = f"{facts['prepare_seconds']:.2f}" if "prepare_seconds" in facts else ""
        lines.append(
            f"| {row['name']} | {row['seconds'] * 1e3:.0f} | {row['seconds_low'] * 1e3:.0f} to "
            f"{row['seconds_high'] * 1e3:.0f} | {row['ratio']:.2f} "
            f"| {plain[row['name'].split()[0]] / row['seconds']:.2f} | {row['share']:.0%} "
            f"| {facts['error']:.1e} | {made} |"
        )
    rates = ", ".join(f"{name} {rate / 1e9:.0f} G" for name, rate in report["peaks"].items())
    end = f"Load average at the end: {report['load']:.1f}."
    return [*lines, "", f"Square matrix products, multiply-accumulates per second: {rates}. {end}"]


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


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns at batch 1; half of them, at least 3, beyond")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--steps", type=int, default=32, help="of the whole sample")
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes more")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--name", default="infer", help="of the results")
    args = parse(parser, arguments)
    if args.small:
        args.repeats, args.batches, args.steps = 1, [1], 2
    networks = SMALL if args.small else NETWORKS
    turns = {batch: args.repeats if batch == 1 else max(3, args.repeats // 2) for batch in args.batches}
    parts: dict[str, Any] = {
        f"batch {batch}": lambda batch=batch: measure_forward(networks, batch, turns[batch], args.compile)
        for batch in args.batches
    }
    parts["memory"] = lambda: measure_memory(networks, args.batches)
    parts["sample"] = lambda: measure_sample(networks["EDM2+-S"], args.steps)
    parts["preparing"] = lambda: measure_prepare(networks, modes(compile=False))
    settings = {"networks": networks, "repeats": args.repeats, "steps": args.steps, "compile": args.compile}
    found = in_parts(args.name, parts, page, settings=settings, fresh=args.fresh, folder=args.folder)
    print("\n" + page(found))


if __name__ == "__main__":
    main()
