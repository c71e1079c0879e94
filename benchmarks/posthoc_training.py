# ruff: noqa: E501
"""Reconstruction against direct tracking in real training: `python benchmarks/posthoc_training.py`.

Two runs on scikit-learn's digits: a classifier, and a denoiser (a plain network, Eq. 1 of EDM with fixed weighting). Two
averages, 64 snapshots; averages of six other lengths are tracked directly and compared with their reconstructions.
Figures go to `results/posthoc_training.json` and `.md`, pictures for the docs to `docs/pictures/`, or all to `--folder`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from arguments import RESULTS, parse
from machine import write_results
from unitgain.ema import PowerEMA, PowerProfile
from unitgain.posthoc import SnapshotStore, reconstruct, solve
from unitgain.posthoc.plot import plot_errors, plot_profiles

LENGTHS = (0.015, 0.03, 0.075, 0.13, 0.2, 0.25)
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"


def network(outputs: int, inputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, outputs))


def classifier_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy; of images with noise, for without it the loss and with it all movement of the weights dies out."""
    return nn.functional.cross_entropy(model(images + 0.7 * torch.randn_like(images)), labels)


def denoiser_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Squared error of the image, given it with noise of a random level, and the level."""
    sigma = (torch.randn(len(images), 1) * 1.0 - 0.8).exp()
    noisy = images + sigma * torch.randn_like(images)
    return ((model(torch.cat([noisy, sigma.log() / 4], dim=1)) - images) ** 2).mean()


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's, of values that are all different."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def run(kind: str, steps: int, snapshots: int, folder: Path) -> dict[str, object]:
    """Train, store in float32 and float16, reconstruct and compare."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32)
    images = (images - images.mean()) / images.std() * 0.5
    labels = torch.tensor(digits.target)
    loss = classifier_loss if kind == "classifier" else denoiser_loss
    model = network(10, 64) if kind == "classifier" else network(64, 65)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    emas = [PowerEMA(model, length) for length in (0.05, 0.10)]
    stores = {
        dtype: SnapshotStore(folder / kind / dtype, emas, every=steps / snapshots, dtype=dtype)
        for dtype in ("float32", "float16")
    }
    direct = [PowerEMA(model, length) for length in LENGTHS]
    for step in range(1, steps + 1):
        rows = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        loss(model, images[rows], labels[rows]).backward()
        optimizer.step()
        for ema in (*emas, *direct):
            ema.update(step, 1)
        if step % (steps // snapshots) == 0:
            for store in stores.values():
                store.write()
    result: dict[str, object] = {"final_loss": float(loss(model, images, labels).detach())}
    for dtype in stores:
        written = reconstruct(folder / kind / dtype, LENGTHS, folder / kind / f"out-{dtype}", dtype="float32")
        seen = [difference(load_file(one.path), ema.average) for one, ema in zip(written, direct, strict=True)]
        result[dtype] = dict(zip(map(str, LENGTHS), seen, strict=True))
        predicted = [one.error for one in written]
        result["predicted"] = dict(zip(map(str, LENGTHS), predicted, strict=True))
        result[f"rank_correlation_{dtype}"] = rank_correlation(predicted, seen)
    return result


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all weights together over the norm of the weights."""
    squared = sum(float(((found[name] - value) ** 2).sum()) for name, value in expected.items())
    return (squared / sum(float((value**2).sum()) for value in expected.values())) ** 0.5


def pictures(folder: Path) -> None:
    """For `docs/posthoc-ema.md`."""
    eight = [PowerProfile.of(k / 8, length) for k in range(1, 9) for length in (0.05, 0.10)]
    targets = [PowerProfile.of(1.0, length) for length in (0.07, 0.2)]
    plot_profiles(solve(eight, targets, warn_above=None), targets, folder / "profiles.svg")
    lengths = [round(0.01 * k, 2) for k in range(1, 28)]
    errors = {
        f"{n} snapshots of 0.05 and 0.10": solve(
            [PowerProfile.of(k / n, length) for k in range(1, n + 1) for length in (0.05, 0.10)],
            [PowerProfile.of(1.0, length) for length in lengths],
            warn_above=None,
        ).error.tolist()
        for n in (8, 32, 128)
    }
    plot_errors(lengths, errors, folder / "errors.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3200)
    args = parse(parser, arguments)
    steps, snapshots = (16, 8) if args.small else (args.steps, 64)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        results = {kind: run(kind, steps, snapshots, Path(name)) for kind in ("classifier", "denoiser")}
    pictures(PICTURES if args.folder == RESULTS else args.folder)
    rows = ["# Reconstruction against direct tracking\n"]
    for kind, result in results.items():
        rows.append(
            f"\n## {kind}\n\n| sigma_rel | predicted error of the profile | float32 snapshots | float16 |\n|---|---|---|---|\n"
        )
        for length in map(str, LENGTHS):
            values = [result[key][length] for key in ("predicted", "float32", "float16")]  # type: ignore[index]
            rows.append(f"| {length} | " + " | ".join(f"{value:.1e}" for value in values) + " |\n")
        rows.append(f"\nRank correlation, float32: {result['rank_correlation_float32']:.2f}\n")
    values = {"steps": steps, "snapshots": snapshots, **results}
    write_results("posthoc_training", values, "".join(rows), folder=args.folder)
    print("".join(rows))


if __name__ == "__main__":
    main()
