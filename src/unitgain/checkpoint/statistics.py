"""Official reference statistics in pickles."""

from pathlib import Path
from typing import Any

from unitgain.checkpoint.opened import opened
from unitgain.checkpoint.records import Refused

STATISTICS = ("fid", "fd_dinov2")  # what a reference file may hold, by official name
COUNT = "num_images"  # beside them in files of the official tool


def read_reference(path: Path) -> dict[str, dict[str, Any]]:
    """Official reference statistics by the names in `STATISTICS`; whether they can be so, nobody has looked.

    Returns:
        For each, what should be the mean `mu`, `[d]`, and the covariance `sigma`, `[d, d]`; and `num_images` where the
        file says it. Arrays of float64.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it holds anything else.
    """
    with opened(path) as (root, reader, _):
        shared = {COUNT: root[COUNT]} if COUNT in root else {}  # by all
        found = {}
        for name, record in root.items():
            if name in shared and len(root) > 1:
                continue
            if name not in STATISTICS or type(record) is not dict or set(record) - {COUNT} != {"mu", "sigma"}:
                known = " and ".join(STATISTICS)
                raise Refused(f"{str(name)[:64]!a} is no pair of mu and sigma under {known}: these are no statistics")
            found[name] = {key: reader.array(value) for key, value in {**shared, **record}.items()}
        return found
