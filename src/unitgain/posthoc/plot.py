"""Pictures of post-hoc EMA: profiles as in EDM2's Fig. 4, and the error of the fit against the length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitgain.ema import PowerProfile, Profile
from unitgain.figures import check_picture, colors, new_axes, new_figure, save
from unitgain.posthoc.solve import WARN_ABOVE, Array, Weights, said
from unitgain.text import plot_label

STORED, WANTED, ACHIEVED, ERROR = "#9bb7d4", "#222222", "#7d3c98", "#c0392b"


def plot_profiles(weights: Weights, targets: Sequence[Profile], path: Path) -> None:
    """What is stored (above), and what is wanted, achieved and missed for each target (below).

    Args:
        weights: solution for `targets`.
        targets: the profiles wanted.
        path: picture to write; its suffix says which kind: .svg, .png or .pdf.

    Raises:
        ValueError: if the suffix is none of these.
    """
    check_picture(path)
    save(profiles_figure(weights, targets), path)


def profiles_figure(weights: Weights, targets: Sequence[Profile]) -> Any:
    """The figure that `plot_profiles` writes."""
    figure = new_figure(7, 2.2 + 2.2 * len(targets))
    axes = figure.subplots(1 + len(targets), 1, sharex=True, squeeze=False)[:, 0]
    end = max(profile.t for profile in weights.snapshots)
    for profile in weights.snapshots:
        axes[0].fill_between(*_to_peak(profile), color=STORED, alpha=0.25, linewidth=0.4, edgecolor=WANTED)
    tau = _times(weights, targets, end)
    axes[0].set_ylabel("stored\n(to their peaks)")
    for index, (target, row) in enumerate(zip(targets, axes[1:], strict=True)):
        wanted, achieved = target.density(tau), weights.density(tau, index)
        row.fill_between(tau, achieved, color=ACHIEVED, alpha=0.35, linewidth=0, label="achieved")
        row.plot(tau, wanted, "--", color=WANTED, linewidth=1.2, label="wanted")
        row.plot(tau, achieved - wanted, color=ERROR, linewidth=0.8, label="difference")
        row.set_ylabel("weight")
        row.set_title(f"{said(target)}: relative error {weights.error[index]:.1e}", fontsize=9, loc="left")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left")
    axes[-1].set_xlabel("training time t")
    return figure


def plot_responses(lengths: Sequence[float], path: Path) -> None:
    """Response functions of power-function averages over relative time, to their peaks (EDM2, Fig. 24).

    Args:
        lengths: sigma_rel.
        path: as in `plot_profiles`.

    Raises:
        ValueError: if a length is out of range, or the suffix is none that is known.
    """
    figure, axes = new_axes("t / t_c", "f(t) = t^gamma", (5.6, 3.4))
    tau: Array = np.linspace(0, 1, 500)
    for length, color in colors(sorted(lengths)).items():
        profile = PowerProfile.of(1.0, length)
        label = f"sigma_rel = {length:g}, gamma = {profile.gamma:.2f}"
        axes.plot(tau, profile.density(tau) / (profile.gamma + 1), color=color, label=label)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def plot_errors(lengths: Sequence[float], errors: Mapping[str, Sequence[float]], path: Path) -> None:
    """Relative error of the profile against the length sigma_rel, one curve per entry.

    Args:
        lengths: sigma_rel.
        errors: relative L2 errors by name of the curve.
        path: as in `plot_profiles`.

    Raises:
        ValueError: if the suffix is none that is known.
    """
    figure, axes = new_axes("EMA length sigma_rel", "relative error of the profile", (5.6, 3.4))
    for name, values in errors.items():
        axes.semilogy(lengths, values, "o-", markersize=3, label=plot_label(name))
    axes.axhline(WARN_ABOVE, color=ERROR, linestyle=":", linewidth=1)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def _times(weights: Weights, targets: Sequence[Profile], end: float) -> Array:
    """Times that show every profile's peak from both sides of its sharp end."""
    ends = sorted({profile.t for profile in (*weights.snapshots, *targets)})
    sharp = [time * side for time in ends for side in (1, 1 + 1e-9)]
    return np.unique(np.concatenate([np.linspace(0, end, 1500), np.array(sharp)]).clip(0, end))


def _to_peak(profile: Profile) -> tuple[Array, Array]:
    """Where a profile can be seen, and its density over its peak: few points, for there are many profiles."""
    tau: Array = np.linspace(0, profile.t, 1000)
    density: Array = profile.density(tau)
    first = float(tau[density > 1e-3 * density.max()][0])
    tau = np.linspace(first, profile.t, 60)
    tau = np.append(tau, profile.t * (1 + 1e-9))
    return tau, profile.density(tau) / density.max()
