"""Training data: any pictures prepared (`prepare`) and opened (`prepared`), or arrays in memory (`dataset`); what the
network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    {
        "ArrayDataset": "unitgain.data.dataset",
        "Dataset": "unitgain.data.dataset",
        "Fit": "unitgain.data.fit",
        "Loader": "unitgain.data.loader",
        "PreparedDataset": "unitgain.data.prepared",
        "SourceOptions": "unitgain.data.sources",
        "open_data": "unitgain.data.named",
        "prepare_data": "unitgain.data.prepare",
    },
)
