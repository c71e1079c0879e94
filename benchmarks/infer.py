"""What `unitgain.infer.prepare` gains: `python benchmarks/infer.py`. Figures go to `results/infer.json` and `.md`.

Each network is evaluated as it was trained, in float32, contiguous, its weights normalized in every evaluation, and
prepared, in turns in one process: medians of times, and the relative error of D. Weights and gains are random: what the
network adds to its input is not zero. With `--device cuda` the plain network computes in float16.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from machine import write_results
from unitgain.arch.ladder import edm2, edm2plus
from unitgain.denoiser import Denoiser
from unitgain.infer import fastest_dtype, prepare

NETWORKS = {"EDM2-S": edm2("s", channels=3), "EDM2+-S": edm2plus("s")}


def trained(name: str, width: int | None, device: torch.device) -> Denoiser:
    """A network with random gains, float32, contiguous."""
    torch.manual_seed(0)
    spec = NETWORKS[name]
    if width is not None:
        spec = spec.replace(model_channels=width, channels_per_head=min(64, width))
    denoiser = Denoiser(spec).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.ndim:
            parameter.normal_(1.0, 0.2)
    denoiser.network.memory_format = torch.contiguous_format  # pyright: ignore[reportAttributeAccessIssue]
    return denoiser.to(device)


def medians(runs: dict[str, Callable[[], Tensor]], repeats: int, wait: Callable[[], None]) -> dict[str, float]:
    """Median seconds of each, in turns; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found - expected).norm() / expected.norm())


def matmul_rate(dtype: torch.dtype, device: torch.device, wait: Callable[[], None], size: int = 2048) -> float:
    """Multiply-adds per second of a square matrix product, the best of five."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return size**3 / best


def measure(name: str, batch: int, args: argparse.Namespace, plain_s: dict[int, float], wait: Callable) -> list[dict]:
    """All precisions of one network at one batch size."""
    device = torch.device(args.device)
    denoiser = trained(name, args.width, device)
    spec = denoiser.spec
    x = torch.randn(batch, spec.channels, spec.resolution, spec.resolution, device=device)
    sigma = torch.full((batch,), 0.7, device=device)
    label = torch.arange(batch, device=device) % spec.label_dim
    dtypes = [torch.float32] + [d for d in (fastest_dtype(device),) if d != torch.float32]
    with torch.inference_mode():
        expected = denoiser(x, sigma, label)
        if device.type == "cuda":
            denoiser.dtype = torch.float16
        runs: dict[str, Callable[[], Tensor]] = {"plain": lambda: denoiser(x, sigma, label)}
        seconds, errors = {}, {}
        for dtype in dtypes:
            key = str(dtype).removeprefix("torch.")
            start = time.perf_counter()
            prepared = prepare(denoiser, dtype, compile=args.compile)
            seconds[key] = time.perf_counter() - start
            errors[key] = relative_error(prepared(x, sigma, label), expected)
            runs[key] = lambda run=prepared: run(x, sigma, label)
        times = medians(runs, args.repeats, wait)
    if name == "EDM2-S":
        plain_s[batch] = times["plain"]
    rows = []
    for key in runs:
        rows.append(
            {
                "network": name,
                "batch": batch,
                "mode": key,
                "seconds": times[key],
                "ratio": times["plain"] / times[key],
                "ratio_to_plain_edm2_s": plain_s[batch] / times[key],
                "error": errors.get(key),
                "prepare_seconds": seconds.get(key),
            }
        )
        print(rows[-1], flush=True)
    return rows


def report(rows: list[dict], rates: dict[str, float]) -> str:
    """The table as text."""
    lines = [
        "# Inference",
        "",
        "Seconds of one evaluation of D at 3x64x64, 1000 classes. `plain`: float32, contiguous, weights normalized in "
        "every evaluation (float16 on a GPU); the others are prepared. Ratios are times of the plain network over "
        "times of the row, measured in turns in one process; error: of D, relative, against the plain network.",
        "",
        "| network | batch | mode | seconds | x plain | x plain EDM2-S | error | prepare s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        made = "" if row["prepare_seconds"] is None else f"{row['prepare_seconds']:.2f}"
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['mode']} | {row['seconds']:.3f} | {row['ratio']:.2f} "
            f"| {row['ratio_to_plain_edm2_s']:.2f} | {error} | {made} |"
        )
    lines += ["", "Square matrix products of 2048 on the same machine, multiply-adds per second: "]
    lines[-1] += ", ".join(f"{name} {rate / 1e9:.0f} G" for name, rate in rates.items()) + "."
    return "\n".join(lines)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--width", type=int, help="base channels, to try the script in small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--name", default="infer", help="of the results")
    args = parser.parse_args()
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    dtypes = dict.fromkeys((torch.float32, fastest_dtype(args.device)))
    rates = {str(d).removeprefix("torch."): matmul_rate(d, torch.device(args.device), wait) for d in dtypes}
    plain_s: dict[int, float] = {}
    rows = [row for name in NETWORKS for batch in args.batches for row in measure(name, batch, args, plain_s, wait)]
    settings = {"repeats": args.repeats, "width": args.width, "compile": args.compile, "device": args.device}
    write_results(args.name, {"settings": settings, "matmul": rates, "rows": rows}, report(rows, rates))


if __name__ == "__main__":
    main()
