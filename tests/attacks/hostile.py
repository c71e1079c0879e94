"""Data that do harm, and what is done with them."""

import json
import struct
import zlib

import numpy as np

from unitgain.data.check import check
from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions

FIT = Fit(resolution=8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height, colour=2):
    """A PNG of black pixels, of which only the first rows are there: memory for all is taken before that is noticed."""
    bands = {0: 1, 2: 3, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = zlib.compress(bytes(20 * (1 + bands * width)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HUGE = bomb(13300, 13300)  # 177 megapixels


def use(folder):
    """Open a folder and read every row."""
    dataset = PreparedDataset(folder)
    dataset.rows(np.arange(len(dataset)))
    return [dataset.key(row) for row in range(len(dataset))]


def inspect(folder):
    return check(folder, workers=1).healthy


def prepared(source, tmp_path, on_error="skip", **options):
    """The names of the pictures that could be used, and why others could not."""
    folder = tmp_path / "prepared"
    prepare_data(str(source), folder, FIT, options=SourceOptions(**options), on_error=on_error, workers=1)
    left = (folder / "skipped.jsonl").read_text().splitlines() if (folder / "skipped.jsonl").exists() else []
    return use(folder), {row["key"]: row["error"] for row in map(json.loads, left)}
