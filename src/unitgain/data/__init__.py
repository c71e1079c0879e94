"""Training data: any pictures prepared (`prepare`) and opened (`prepared`), or arrays in memory (`dataset`); what the
network sees of them (`encoder`); in which order (`order`) they are read (`loader`).
"""

from unitgain.lazy import offer

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
