"""Training data: any pictures, signals, fields or volumes prepared (`prepare`) and opened (`prepared`), or in memory
(`dataset`); what the network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.data.dataset import ArrayDataset, Dataset
    from unitgain.data.fit import Fit
    from unitgain.data.loader import Loader
    from unitgain.data.named import open_data
    from unitgain.data.prepare import prepare_data
    from unitgain.data.prepared import PreparedDataset
    from unitgain.data.sources import SourceOptions
    from unitgain.data.wrapped import from_torch

__all__ = [
    "ArrayDataset",
    "Dataset",
    "Fit",
    "Loader",
    "PreparedDataset",
    "SourceOptions",
    "from_torch",
    "open_data",
    "prepare_data",
]

__getattr__, __dir__ = offer(__name__)
