"""What a run draws at the same seeds as it learns, from its own snapshots."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unitgain.checkpoint.snapshot import SnapshotError
from unitgain.classes import Classes
from unitgain.console import warn
from unitgain.data.captions import captioned_grid
from unitgain.data.dataset import Dataset
from unitgain.data.fit import ImageError, decode
from unitgain.data.manifest import DataError
from unitgain.data.named import DIGITS, open_data
from unitgain.data.order import indices
from unitgain.data.sheet import draw
from unitgain.denoiser import classes_of
from unitgain.draw import DataRows, DrawSettings, draw_images, open_network
from unitgain.draw.decode import painter_of
from unitgain.ema import length_text
from unitgain.evaluate.images import as_ranges
from unitgain.posthoc import reconstruct
from unitgain.posthoc.planning import fit_errors
from unitgain.posthoc.solve import WARN_ABOVE
from unitgain.report.history import History
from unitgain.text import evenly
from unitgain.trust import DEFAULT_LIMITS, LimitError, read_regular

SETTINGS = DrawSettings(steps=16)  # enough to see what a network knows
LENGTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.14, 0.17, 0.2, 0.25)
LIGHT = 2**27  # bytes of a snapshot, up to which other lengths are drawn without being asked for
COLUMNS = 4
PAIRS = " On the left of each pair is the real picture, on the right what was drawn for its conditions."
UNTOLD = " Drawn without conditions: the data that have them are not there."


@dataclass(frozen=True)
class Drawing:
    """A picture of samples.

    Args:
        nimg: images that the network had seen.
        image: the samples in a grid.
        length: EMA length, sigma_rel; None where it is the same as of others, or not known.
    """

    nimg: int
    image: Image.Image
    length: float | None = None


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
        return drawings, "Drawn by the run itself." + PAIRS * any(one.nimg in history.paired for one in drawings)
    snapshots = choose_snapshots(history, times, length)
    if not snapshots:
        return [], "None yet: the run has no snapshot."
    seeds = range(8) if seeds is None else seeds
    try:
        rows = rows_told(history)
        drawings = draw_over_time(snapshots, seeds, torch.device(device), rows, on_images)
    except (SnapshotError, ImportError, ValueError, OSError) as error:
        warn(f"no samples: {error}")
        return [], f"Not drawn: {error}"
    name = snapshots[-1].stem.partition("-")[2]
    note = f"Seeds {as_ranges(seeds)}, EMA length {name}, {SETTINGS.steps} steps of Heun's method."
    return drawings, note + (PAIRS if rows else UNTOLD * _is_told(history))


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
    name = length_text(length)
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
    rows: DataRows | None,
    on_images: Callable[[float, int], None] | None,
) -> list[Drawing]:
    """Draw the same seeds from each snapshot, in a row.

    Args:
        snapshots: files.
        seeds: one image each.
        device: where to draw.
        rows: of data that the networks are told, whose real pictures stand beside what is drawn.
        on_images: called with (images drawn, images in all).

    Raises:
        SnapshotError: if a file is damaged.
        ImportError, ValueError, OSError: if they are latents whose decoder is not to be had.
    """
    drawings, total = [], len(snapshots) * len(seeds)
    for turn, path in enumerate(snapshots):
        network = open_network(str(path), device)
        decode = painter_of(network.denoiser)
        done = turn * len(seeds)
        report = None if on_images is None else lambda images, done=done: on_images(done + images, total)
        settings = SETTINGS.replace(conditions=rows)
        parts = list(draw_images(network.denoiser, decode, seeds, settings, on_images=report))
        known = classes_of(network.denoiser)
        names = [known.label(int(label)) for _, labels, _ in parts if labels is not None for label in labels]
        length = (network.record["profile"] or {}).get("sigma_rel")
        pixels = torch.cat([pixels for _, _, pixels in parts])
        pixels = pixels if rows is None else rows.beside(seeds, pixels, decode)
        drawings.append(Drawing(network.record["nimg"], sheet(pixels, names), length))
    return drawings


def sheet(pixels: UInt8[Tensor, "n c h w"], names: Sequence[str]) -> Image.Image:
    """Pictures in rows, with the names of their classes below where there are any."""
    columns = min(len(pixels), max(COLUMNS, math.ceil(len(pixels) ** 0.5)))
    return captioned_grid(pixels, names, columns)


def lengths_of(
    history: History,
    lengths: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
    on_images: Callable[[float, int], None] | None = None,
) -> list[Drawing]:
    """The same seeds at several EMA lengths, reconstructed where the run's snapshots end.

    Args:
        history: of the run.
        lengths: sigma_rel of each; None for `LENGTHS` where a snapshot is of at most `LIGHT` bytes, and none else.
            Those that the stored averages do not allow with a small error are left out, with a warning if they were
            asked for.
        seeds: one image each; None for seeds 0 to 7.
        device: where to draw.
        on_images: called with (images drawn, images in all).
    """
    if not history.snapshots or (lengths is None and history.snapshots[-1].stat().st_size > LIGHT):
        return []
    seeds = range(8) if seeds is None else seeds
    try:
        wanted = lengths or LENGTHS
        errors = fit_errors(history.folder, wanted)
        within = [length for length, error in zip(wanted, errors, strict=True) if error <= WARN_ABOVE]
        if lengths and (out := [f"{length:g}" for length in lengths if length not in within]):
            warn(f"out of reach of the snapshots in {history.folder}, and left out: length {', '.join(out)}")
        with tempfile.TemporaryDirectory(prefix="unitgain-") as folder:
            paths = [one.path for one in reconstruct(history.folder, within, Path(folder) / "ema")] if within else []
            return draw_over_time(paths, seeds, torch.device(device), rows_told(history), on_images)
    except (SnapshotError, ImportError, ValueError, OSError) as error:
        warn(f"no samples at other EMA lengths: {error}")
        return []


def rows_told(history: History) -> DataRows | None:
    """Rows of the data that a run was trained on, for networks that are told of them; None if these are not there."""
    dataset = data_of(history) if _is_told(history) else None
    return None if dataset is None or not dataset.condition_shapes else DataRows.mixed(dataset)


def _is_told(history: History) -> bool:
    return history.config is not None and bool(history.config.recipe.network.conditions)


def data_of(history: History) -> Dataset | None:
    """The data that a run was trained on; None where they are not there any more, or are others now."""
    config = history.config
    if config is None or (config.data != DIGITS and not Path(config.data).is_dir()):
        return None
    try:
        dataset = open_data(config.data, normalize=config.normalize)
    except (DataError, ImportError, ValueError, OSError) as error:
        warn(f"no real pictures: {error}")
        return None
    return dataset if dataset.fingerprint == config.data_fingerprint else None


def real_pictures(history: History, count: int = 24) -> Image.Image | None:
    """Pictures of the data that the run was trained on, picked at random, with the names of their classes.

    None where they are not there any more, are others now, or are no pictures.
    """
    dataset = data_of(history)
    if dataset is None:
        return None
    rows = np.sort(indices(0, min(count, len(dataset)), len(dataset), 0))
    try:
        pixels, labels = draw(dataset, rows), dataset.labels
    except (DataError, ImportError, ValueError, OSError) as error:
        warn(f"no real pictures: {error}")
        return None
    if labels is None:
        return sheet(pixels, [])
    own, known = labels[torch.from_numpy(rows)], Classes(dataset.label_dim, dataset.classes)
    order = own.argsort(stable=True)
    return sheet(pixels[order], [known.label(int(own[place])) for place in order])
