"""Where images come from: folders, archives, tables, the Hub. `open_source` tells them apart."""

from unitgain.data.sources.source import Indexed, Item, Source, SourceOptions
from unitgain.data.sources.tell import open_source

__all__ = ["Indexed", "Item", "Source", "SourceOptions", "open_source"]
