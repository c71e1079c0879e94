"""Data sets by name."""

from dataclasses import replace
from pathlib import Path

import torch

from unitgain.data.dataset import ArrayDataset, Dataset
from unitgain.data.digits import digits
from unitgain.data.encoder import ArrayEncoder, PixelEncoder
from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset, measured_encoder
from unitgain.data.settings import Normalize
from unitgain.data.sources.tell import place_of
from unitgain.data.wrapped import WrappedDataset
from unitgain.files import cache_folder, near
from unitgain.serial import digest, to_dict

DIGITS = "digits"


def open_data(
    name: str, normalize: Normalize = "official", *, fit: Fit | None = None, folder: Path | None = None
) -> Dataset:
    """The data set of that name: `digits`, a folder of prepared data, or, with `fit`, any source of pictures or arrays.

    Args:
        name: of the set; a source is named as for `prepare_data`: a folder, an archive, a table, or hub:org/name.
        normalize: how pixels become what the network sees: "official" maps 0...255 to [-1, 1]; "measured" gives the
            data mean 0 and standard deviation 0.5, as the digits always have.
        fit: how the pictures of a source become images; they are prepared once. Of several
            processes, call it in one before the others: two that prepare the same would be in each other's way.
        folder: where they are then; by default in `unitgain.files.cache_folder()`.

    Raises:
        BrokenPictureError: if a picture cannot be used.
        ValueError: if there is none, `normalize` does not go with it, or there is a `folder` without `fit`.
        DataError: if the data are damaged.
    """
    if folder is not None and fit is None:
        raise ValueError(f"folder {folder} is where pictures are prepared: give fit too, or open what is there by name")
    if name == DIGITS:
        return digits()
    if fit is not None:
        told = {name: value for name, value in to_dict(fit).items() if name != "layout" or value}  # as before it came
        folder = folder or cache_folder() / "data" / digest([place_of(name), told])[:16]
        prepare_data(name, folder, fit)
        return normalized(PreparedDataset(folder), normalize)
    if not Path(name).exists():
        raise ValueError(
            f"unknown data set {name!r}: expected digits, or a folder made with: unitgain data prepare SOURCE {name}"
            f"{near(Path(name))}"
        )
    return normalized(PreparedDataset(name), normalize)


def normalized(dataset: Dataset, normalize: Normalize) -> Dataset:
    """The data set with pixels made what the network sees in this way.

    Args:
        dataset: prepared data, an array of 8-bit pixels, or what `from_torch` gives; others bring their own
            normalization.
        normalize: "official" leaves it as it is; "measured" gives it mean 0 and standard deviation 0.5, which prepared
            arrays have in any case.

    Raises:
        ValueError: if it cannot be measured.
    """
    if normalize == "official":
        return dataset
    if isinstance(dataset.encoder, ArrayEncoder):
        return dataset  # measured already
    if isinstance(dataset, PreparedDataset):
        return dataset.with_encoder(measured_encoder(dataset.manifest))
    if isinstance(dataset, ArrayDataset) and dataset.dtype == torch.uint8:
        return replace(dataset, encoder=PixelEncoder.measure(dataset.images))
    if isinstance(dataset, WrappedDataset):
        return dataset.measured()
    raise ValueError(f"data {dataset.name}: only 8-bit pixels can be normalized as measured; these are what they are")
