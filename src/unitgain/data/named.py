"""Data sets by name."""

from pathlib import Path
from typing import Literal

from unitgain.data.loader import Dataset

DIGITS = "digits"


def open_data(name: str, normalize: Literal["official", "measured"] = "official") -> Dataset:
    """The data set of that name: `digits`, or a folder of prepared data.

    Args:
        name: of the set.
        normalize: how pixels become what the network sees: "official" maps 0...255 to [-1, 1]; "measured" gives the
            data mean 0 and standard deviation 0.5, as the digits always have.

    Raises:
        ValueError: if there is none, or `normalize` does not go with it.
        DataError: if the data are damaged.
    """
    from unitgain.data.prepared import PreparedDataset, measured_encoder

    if name == DIGITS:
        from unitgain.data.digits import digits

        return digits()
    if not Path(name).exists():
        raise ValueError(
            f"unknown data set {name!r}: expected digits, or a folder made with: unitgain data prepare SOURCE {name}"
        )
    dataset = PreparedDataset(name)
    if normalize == "measured":
        dataset.encoder = measured_encoder(dataset.manifest)
    return dataset
