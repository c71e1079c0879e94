"""Draws the pictures of docs/concepts into the folder of this file: `python docs/pictures/draw.py`, within seconds."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from unitgain.data.digits import digits
from unitgain.ema import PowerProfile
from unitgain.sample import heun, sigma_grid

FOLDER = Path(__file__).parent
SIGMA_DATA = 0.5


def mean_of_data(x: Tensor, sigma: float, data: Tensor, blur: float = 0.0) -> Tensor:
    """The exact denoiser of `data`, each blurred by a Gaussian: the posterior mean of `x`, both `[N, D]`."""
    variance = blur**2 + sigma**2
    share = torch.softmax(-torch.cdist(x, data).square() / (2 * variance), dim=1)
    return (blur**2 * x + sigma**2 * (share @ data)) / variance


def noise() -> None:
    """A digit at seven noise levels, and the mean of all digits that it could be."""
    data = digits().images.flatten(1).double()
    data = (data - data.mean()) / data.std() * SIGMA_DATA
    levels = [0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0]
    figure, axes = plt.subplots(2, len(levels), figsize=(9, 3))
    noise = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for column, sigma in zip(axes.T, levels, strict=True):
        x = data[8:9] + sigma * noise
        shown = (x / math.hypot(sigma, SIGMA_DATA) * SIGMA_DATA, mean_of_data(x, sigma, data))
        for axis, image in zip(column, shown, strict=True):
            axis.imshow(image.view(8, 8), cmap="gray", vmin=-1, vmax=1)
            axis.set_axis_off()
        column[0].set_title(f"$\\sigma$ = {sigma:g}")
    save(figure, "noise.png")


def preconditioning() -> None:
    """c_skip, c_out and c_in over sigma (Eqs. 5-7)."""
    sigma = torch.logspace(-2.7, 1.9, 200)
    total = (sigma**2 + SIGMA_DATA**2).sqrt()
    figure, axis = plt.subplots(figsize=(6, 3))
    lines = {"skip": (SIGMA_DATA / total) ** 2, "out": sigma * SIGMA_DATA / total, "in": 1 / total}
    for name, values in lines.items():
        axis.semilogx(sigma, values, label=f"$c_\\mathrm{{{name}}}$")
    axis.axvline(SIGMA_DATA, color="gray", linestyle=":", linewidth=1)
    axis.set_xlabel("noise level $\\sigma$ (dotted: that of the data)")
    axis.legend()
    save(figure, "preconditioning.svg")


def normalization() -> None:
    """Steps perpendicular to a weight in the plane, without and with its projection (Eqs. 60-66)."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), sharex=True, sharey=True)
    for axis, forced, title in zip(axes, (False, True), ("not forced", "forced"), strict=True):
        weight, path = torch.tensor([1.0, 0.0]), []
        for _ in range(100):
            path.append(weight)
            weight = weight + 0.25 * torch.stack([-weight[1], weight[0]]) / weight.norm()
            weight = weight / weight.norm() if forced else weight
        axis.plot(*torch.stack(path).T, marker=".", linewidth=0.5)
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, linestyle=":"))
        axis.set_aspect("equal")
        axis.set_title(title)
    save(figure, "normalization.svg")


def averaging() -> None:
    """Profiles of power-function averages at the end of training (Eq. 121, as in Fig. 24)."""
    figure, axis = plt.subplots(figsize=(6, 3))
    time = torch.linspace(0, 1, 400, dtype=torch.float64).numpy()
    for length in (0.05, 0.1, 0.15, 0.2, 0.25):
        axis.plot(time, PowerProfile.of(1.0, length).density(time), label=f"$\\sigma_\\mathrm{{rel}}$ = {length:.2f}")
    axis.set_xlabel("training time")
    axis.set_ylabel("how much the weights count")
    axis.legend()
    save(figure, "averaging.svg")


def guidance() -> None:
    """Samples of an exact denoiser of blurred data, guided by that of data blurred more (Eq. 152)."""
    turn = torch.linspace(-1, 1, 200, dtype=torch.float64)
    data = torch.stack([turn, 0.6 * (2.2 * turn).sin() * turn.abs()], dim=1)
    start = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True)
    for axis, weight in zip(axes, (1.0, 2.0, 4.0), strict=True):

        def denoise(x: Tensor, sigma: Tensor, weight: float = weight) -> Tensor:
            main, guide = (mean_of_data(x, float(sigma), data, blur) for blur in (0.1, 0.25))
            return weight * main + (1 - weight) * guide

        scatter(axis, heun(denoise, start, sigma_grid(32)), data)
        axis.set_title(f"w = {weight:g}")
    save(figure, "guidance.png")


def scatter(axis: Axes, samples: Tensor, data: Tensor) -> None:
    """Draw samples, and the curve of the data beneath them, both `[N, 2]`."""
    axis.plot(*data.T, color="lightgray", linewidth=6, zorder=0)
    axis.plot(*samples.T, ".", markersize=3)
    axis.set_aspect("equal")


def save(figure: Figure, name: str) -> None:
    """Write a figure; an SVG without the date, so that the same picture has the same bytes."""
    figure.tight_layout()
    figure.savefig(FOLDER / name, dpi=110, metadata={"Date": None} if name.endswith(".svg") else None)
    plt.close(figure)


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "unitgain"
    for draw in (noise, preconditioning, normalization, averaging, guidance):
        draw()
