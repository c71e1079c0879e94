"""Magnitudes of the activations and weights of a snapshot (EDM2, Appendix A.6)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitgain.analysis.magnitude import measure
from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader
from unitgain.data.dataset import Dataset
from unitgain.data.encoder import encoder_from_dict
from unitgain.denoiser import Label
from unitgain.hub import load
from unitgain.loss import DenoisingLoss
from unitgain.recipes import RECIPES
from unitgain.text import one_line
from unitgain.train.declare import check_told


def measure_snapshot(
    path: Path,
    dataset: Dataset,
    samples: int = 4096,
    *,
    loss: DenoisingLoss | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
    on_images: Callable[[float, int | None], None] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Measure a snapshot, an average too, in evaluation mode; with the same images and noise each time.

    Args:
        path: of the snapshot.
        dataset: that it was trained on; its images are seen as the snapshot sees them.
        samples: how many of its images, drawn without repetition; all of them where it has fewer.
        loss: whose noise levels; by default those of the recipe that the snapshot names.
        batch: images at a time.
        device: where to measure.
        on_images: called with (images done, images in all).

    Returns:
        What the snapshot is an average of, and a row as in `stats.jsonl`: "nimg" and "magnitudes".

    Raises:
        ValueError: if the data do not fit the network, or no noise levels are known.
        SnapshotError: if it is no snapshot, or damaged.
    """
    with Snapshot(path) as snapshot:
        header = snapshot.header
    network, encoder = header.network, encoder_from_dict(header.encoder)
    if loss is None:
        if header.recipe not in RECIPES:
            raise ValueError(f"{path}: the noise levels of {one_line(header.recipe)!r} are not known here; give a loss")
        loss = RECIPES[header.recipe].loss
    if samples < 1 or batch < 1:
        raise ValueError(f"samples = {samples}, batch = {batch}: must be at least 1")
    if type(encoder) is not type(dataset.encoder) or (network.label_dim and network.label_dim != dataset.label_dim):
        raise ValueError(f"{path} was not trained on data such as {one_line(dataset.name)}: other values or labels")
    chosen = np.random.default_rng(0).permutation(len(dataset))[:samples]
    generator = torch.Generator(device).manual_seed(0)
    check_told(network, dataset, ())

    def batches() -> Iterator[tuple[Tensor, Label]]:
        for first in range(0, len(chosen), batch):
            rows = np.sort(chosen[first : first + batch])
            stored, labels = dataset.rows(rows)
            clean = encoder.encode(stored.to(device), generator)
            if clean.shape[1:] != (network.channels, *network.size):
                raise ValueError(f"{path} is for other images than those of {one_line(dataset.name)}")
            label: Label = labels.to(device) if labels is not None and network.label_dim else None
            if network.conditions:
                told = dataset.conditions_of(rows).only(one.name for one in network.conditions)
                label = told.to(device).with_label(label)
            yield clean, label
            if on_images is not None:
                on_images(min(first + batch, len(chosen)), len(chosen))

    found = measure(load(path).to(device), batches(), loss, generator=generator)
    return _averaged(path, header), {"nimg": header.nimg, "magnitudes": found}


def _averaged(path: Path, header: SnapshotHeader) -> str:
    """Which run a snapshot is of, and what average."""
    length = header.sigma_rel
    kind = header.profile["kind"] if length is None else f"EMA length {length:g}"
    folder = path.resolve().parent
    run = folder.parent if folder.name in ("snapshots", "ema") else folder
    return f"{run.name}, {kind}"
