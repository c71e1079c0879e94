"""Training data: any pictures, signals, fields or volumes prepared (`prepare`) and opened (`prepared`), or in memory
(`dataset`); what the network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.data.dataset import ArrayDataset as ArrayDataset
    from unitgain.data.dataset import Dataset as Dataset
    from unitgain.data.fit import Fit as Fit
    from unitgain.data.loader import Loader as Loader
    from unitgain.data.named import open_data as open_data
    from unitgain.data.prepare import prepare_data as prepare_data
    from unitgain.data.prepared import PreparedDataset as PreparedDataset
    from unitgain.data.sources import SourceOptions as SourceOptions
    from unitgain.data.wrapped import from_torch as from_torch

__getattr__, __dir__ = offer(__name__)
