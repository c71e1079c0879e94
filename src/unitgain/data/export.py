"""Prepared data as the archive that the official code reads: an uncompressed zip with `dataset.json`."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unitgain.data.fit import encode_image
from unitgain.data.images import to_image
from unitgain.data.media import npy
from unitgain.data.prepared import PreparedDataset
from unitgain.files import atomic

PNG = b"\x89PNG"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same data give the same bytes whenever they are exported


def export(
    dataset: PreparedDataset,
    path: Path,
    on_progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the archive, atomically. PNG for pixels, NPY `[2 C, h, w]` (means, then standard deviations) for latents.

    Args:
        dataset: pixels or latents.
        path: of the zip file; must not be there.
        on_progress: called with the images done and all of them.
        say: told of conditions, which official archives do not hold.

    Raises:
        FileExistsError: if there is such a file.
        DataError: if a row cannot be read.
        ValueError: if these are arrays, of which there are no official archives.
    """
    if dataset.manifest.kind == "array":
        raise ValueError(f"{dataset.name} holds arrays: official archives are of pictures or latents")
    if path.exists():
        raise FileExistsError(f"{path} is there already: choose another name or delete it")
    if conditions := [column.name for column in dataset.manifest.conditions]:
        say(f"conditions are left out, which the official form does not have: {', '.join(conditions)}")
    suffix = "npy" if dataset.latents else "png"
    names = [f"{index // 1000:05d}/img{index:08d}.{suffix}" for index in range(len(dataset))]
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), _member(dataset, index))
            if on_progress is not None:
                on_progress(index + 1, len(names))
        labels = None
        if dataset.labels is not None:
            labels = [[name, label] for name, label in zip(names, dataset.labels.tolist(), strict=True)]
        text = json.dumps({"labels": labels, "classes": dataset.classes})
        archive.writestr(zipfile.ZipInfo("dataset.json", EPOCH), text)


def _member(dataset: PreparedDataset, index: int) -> bytes:
    if dataset.latents:
        return npy(dataset.rows(np.array([index]))[0][0].numpy())
    image = to_image(dataset.rows(np.array([index]))[0][0])  # nothing that cannot be decoded gets into an archive
    data = dataset.stored(index)
    return data if data.startswith(PNG) else encode_image(image, "png")
