"""Train every config of both papers on the digits at a tiny size, and measure the distance of what it draws.

    python benchmarks/configs.py [--steps 200] [--width 16]

Two minutes or less a config on one core.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from arguments import parse
from machine import write_results
from tiny import PAPERS, tiny_recipe
from unitgain.analysis.cost import network_cost
from unitgain.data.digits import digits
from unitgain.data.order import derive, indices
from unitgain.denoiser import Denoiser
from unitgain.loss import DenoisingLoss
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.sample import generate, sigma_grid
from unitgain.train import Microbatch, TrainState, train_step

ENDS = 20  # steps at the start and the end whose loss is averaged


def train_config(name: str, width: int, steps: int, batch: int, images: int) -> dict:
    """Train a config; what it costs, its loss, its distances, and how many values were not finite."""
    made = tiny_recipe(name, width, steps, batch)
    data = digits()
    torch.manual_seed(0)
    state = TrainState.start(made)
    loss = made.loss
    nonfinite, errors, began = 0, [], time.monotonic()
    for step in range(steps):
        clean, label = data.batch(indices(state.nimg, batch, len(data), 0))
        sigma, noise = loss.draw(clean, torch.Generator().manual_seed(derive(0, state.nimg)))
        report = train_step(state, made, [Microbatch(clean=clean, sigma=sigma, noise=noise, label=label)])
        nonfinite += sum(report.nonfinite.values()) + (not math.isfinite(report.loss))
        if min(step, steps - 1 - step) < ENDS:
            errors.append(plain_loss(state.denoiser, loss, clean, sigma, noise, label))
    seconds = time.monotonic() - began
    nonfinite += sum(int((~torch.isfinite(tensor)).sum()) for tensor in state.modules.state_dict().values())
    features = data.encoder.encode(data.images).flatten(1).double().numpy()
    raw = distance(state.denoiser, data, features, images)
    state.denoiser.load_state_dict(state.emas[-1].tensors())
    return {
        "recipe": name,
        "parameters": network_cost(made.network).parameters,
        "lr": made.lr,
        "seconds": round(seconds, 1),
        "loss_first": float(np.mean(errors[:ENDS])),
        "loss_last": float(np.mean(errors[-ENDS:])),
        "nonfinite": nonfinite,
        "fd_raw": raw,
        "fd_ema": distance(state.denoiser, data, features, images),
        "ema": f"half-life {made.ema_half_life}" if made.ema_half_life else f"sigma_rel {made.ema[-1]}",
    }


def plain_loss(denoiser: Denoiser, loss: DenoisingLoss, *batch: torch.Tensor) -> float:
    """The loss without uncertainty (Eq. 14), which is comparable between configs."""
    clean, sigma, noise, label = batch
    with torch.no_grad():
        level = sigma[:, None, None, None]
        denoised = denoiser(clean + level * noise, sigma, label)
        return (loss.weight(level, denoiser.sigma_data) * (denoised - clean) ** 2).mean().item()


def distance(denoiser: Denoiser, data, features: np.ndarray, images: int) -> float:  # noqa: ANN001
    """Frechet distance in pixel space between the digits and so many images, of the first seeds."""
    denoiser.eval()
    pixels = [data.encoder.decode(x) for _, _, x in generate(denoiser, range(images), sigma_grid(12), batch=250)]
    drawn = data.encoder.encode(torch.cat(pixels)).flatten(1).double().numpy()
    denoiser.train()
    return frechet_distance(*statistics(drawn), *statistics(features))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=500, help="drawn for each distance")
    parser.add_argument("--only", nargs="*")
    args = parse(parser, arguments)
    if args.small:
        args.steps, args.images, args.only = 2, 16, ["EDM2 B", "EDM2+ G*"]
    torch.set_num_threads(1)
    settings = {"steps": args.steps, "batch": args.batch, "width": args.width, "images": args.images}
    rows = earlier(args.folder, settings)
    for label, name in PAPERS.items():
        if label in rows or (args.only and label not in args.only):
            continue
        rows[label] = train_config(name, args.width, args.steps, args.batch, args.images)
        rows = {known: rows[known] for known in PAPERS if known in rows}
        print(label, rows[label], flush=True)
        write_results("configs", {"settings": settings, "configs": rows}, report(rows, settings), folder=args.folder)


def earlier(folder: Path, settings: dict[str, int]) -> dict[str, dict]:
    """Configs that an interrupted run with the same settings has measured; delete the results to measure again."""
    path = folder / "configs.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["configs"] if found.get("settings") == settings else {}


def report(rows: dict[str, dict], settings: dict[str, int]) -> str:
    """The table as text."""
    lines = [
        "# Every config on the digits",
        "",
        f"{settings['steps']} steps of {settings['batch']} images, two levels, one block each, base width "
        f"{settings['width']} where the papers have 192. Loss: Eq. 14, mean of the first and last {ENDS} steps. "
        f"Distance: Frechet, in pixel space, {settings['images']} images of 12 steps against the 1797 digits. Each "
        "config has its own loss, EMA and Adam; A-C, whose weights are not normalized, have a tenth of the learning "
        "rate.",
        "",
        "| config | parameters | lr | loss | distance, raw | distance, EMA | not finite |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, row in rows.items():
        lines.append(
            f"| {label} | {row['parameters']:,} | {row['lr']:g} | {row['loss_first']:.3f} -> {row['loss_last']:.3f} "
            f"| {row['fd_raw']:.3f} | {row['fd_ema']:.3f} ({row['ema']}) | {row['nonfinite']} |"
        )
    if missing := [label for label in PAPERS if label not in rows]:
        lines += ["", f"Not measured yet: {', '.join(missing)}. Running the script again goes on with them."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
