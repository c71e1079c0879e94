"""What a run draws at the same seeds as it learns, from its own snapshots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from unitgain.checkpoint.snapshot import SnapshotError
from unitgain.console import warn
from unitgain.data.fit import ImageError, decode
from unitgain.data.images import grid
from unitgain.draw import DrawSettings, decoder, draw_images, open_network
from unitgain.evaluate.images import as_ranges
from unitgain.report.curves import evenly
from unitgain.report.history import History
from unitgain.trust import DEFAULT_LIMITS, LimitError, read_regular

SETTINGS = DrawSettings(steps=16)  # enough to see what a network knows


@dataclass(frozen=True)
class Drawing:
    """A picture of samples.

    Args:
        nimg: images that the network had seen.
        image: the samples in a grid.
    """

    nimg: int
    image: Image.Image


def samples_of(
    history: History,
    times: int,
    seeds: Sequence[int] | None = None,
    length: float | None = None,
    *,
    device: torch.device | str = "cpu",
    on_images: Callable[[float, int], None] | None = None,
) -> tuple[list[Drawing], str]:
    """Pictures of a run as it learned, and what is to be said of them: its own grids, or drawn from its snapshots.

    Args:
        history: of the run.
        times: at how many times, at most.
        seeds: one image each, drawn anew; None for the run's own grids, or seeds 0 to 7.
        length: EMA length to draw anew with; None for the run's own grids, or the longest that is stored.
        device: where to draw.
        on_images: called with (images drawn, images in all).

    Raises:
        ValueError: if there are snapshots, but none of this length.
    """
    if seeds is None and length is None and (drawings := grids_of(history, times)):
        return drawings, "Drawn by the run itself."
    snapshots = choose_snapshots(history, times, length)
    if not snapshots:
        return [], "None yet: the run has no snapshot."
    seeds = range(8) if seeds is None else seeds
    total = len(snapshots) * len(seeds)
    report = None if on_images is None else lambda done: on_images(done, total)
    try:
        drawings = draw_over_time(snapshots, seeds, torch.device(device), report)
    except (SnapshotError, ImportError, ValueError, OSError) as error:
        warn(f"no samples: {error}")
        return [], f"Not drawn: {error}"
    name = snapshots[-1].stem.partition("-")[2]
    return drawings, f"Seeds {as_ranges(seeds)}, EMA length {name}, {SETTINGS.steps} steps of Heun's method."


def grids_of(history: History, times: int) -> list[Drawing]:
    """Grids that the run itself has left, at up to so many even times; files that are no pictures are left out."""
    drawings = []
    for path in evenly(history.grids, times):
        try:
            drawings.append(Drawing(int(path.stem), decode(read_regular(path, DEFAULT_LIMITS, below=path.parent))))
        except (OSError, LimitError, ImageError):
            continue
    return drawings


def choose_snapshots(history: History, times: int, length: float | None = None) -> list[Path]:
    """Snapshots of one EMA length, at up to so many even times.

    Args:
        history: of the run.
        times: how many.
        length: sigma_rel; None for the longest that the run stores.

    Raises:
        ValueError: if there are snapshots, but none of this length.
    """
    stored: dict[str, list[Path]] = {}
    for path in history.snapshots:
        stored.setdefault(path.stem.partition("-")[2], []).append(path)
    lengths = sorted(name for name in stored if name.replace(".", "", 1).isdigit())
    if length is None:
        name = lengths[-1] if lengths else next((name for name in stored if name != "raw"), None)
        return evenly(stored[name], times) if name is not None else []
    if not stored:
        return []
    name = f"{length:.3f}"
    if name not in stored:
        raise ValueError(
            f"{history.folder} stores no averages of length {name}, but {', '.join(lengths) or 'none'}: choose one of "
            "these, or make others with unitgain ema reconstruct"
        )
    return evenly(stored[name], times)


def draw_over_time(
    snapshots: Sequence[Path],
    seeds: Sequence[int],
    device: torch.device,
    on_images: Callable[[float], None] | None = None,
) -> list[Drawing]:
    """Draw the same seeds from each snapshot, in a row.

    Args:
        snapshots: files.
        seeds: one image each.
        device: where to draw.
        on_images: called with the number of images drawn so far, of all snapshots.

    Raises:
        SnapshotError: if a file is damaged.
        ImportError, ValueError, OSError: if they are latents whose decoder is not to be had.
    """
    drawings = []
    for turn, path in enumerate(snapshots):
        network = open_network(str(path), device)
        decode = decoder(network.encoder, network.denoiser.spec.channels, device)
        done = turn * len(seeds)
        report = None if on_images is None else lambda images, done=done: on_images(done + images)
        drawn = [pixels for _, _, pixels in draw_images(network.denoiser, decode, seeds, SETTINGS, on_images=report)]
        drawings.append(Drawing(network.record["nimg"], grid(torch.cat(drawn), len(seeds))))
    return drawings
