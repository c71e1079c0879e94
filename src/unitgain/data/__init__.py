"""Training data: any pictures prepared (`prepare`) and opened (`prepared`), or arrays in memory (`dataset`); what the
network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:  # for type checkers and documentation
    from unitgain.data.dataset import ArrayDataset as ArrayDataset
    from unitgain.data.dataset import Dataset as Dataset
    from unitgain.data.fit import Fit as Fit
    from unitgain.data.loader import Loader as Loader
    from unitgain.data.named import open_data as open_data
    from unitgain.data.prepare import prepare_data as prepare_data
    from unitgain.data.prepared import PreparedDataset as PreparedDataset
    from unitgain.data.sources import SourceOptions as SourceOptions

__getattr__, __dir__ = offer(
    __name__,
    {
        "unitgain.data.dataset": "ArrayDataset Dataset",
        "unitgain.data.fit": "Fit",
        "unitgain.data.loader": "Loader",
        "unitgain.data.named": "open_data",
        "unitgain.data.prepare": "prepare_data",
        "unitgain.data.prepared": "PreparedDataset",
        "unitgain.data.sources": "SourceOptions",
    },
)
