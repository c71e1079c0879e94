"""Official reference statistics, read and written."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.checkpoint.opened import opened
from unitgain.checkpoint.records import Refused
from unitgain.trust import read_npz

STATISTICS = ("fid", "fd_dinov2")  # what a reference file may hold, by official name
COUNT = "num_images"  # beside them in files of the official tool
MAX_FEATURES = 16_384
Statistics = dict[str, Any]  # "mu" and "sigma", float64 arrays, and "num_images" where the file says it


def read_reference(path: Path) -> dict[str, Statistics]:
    """Official reference statistics, `.pkl` or EDM's `.npz`, by the names in `STATISTICS`.

    Returns:
        For each, the mean `mu`, `[d]`, and the covariance `sigma`, `[d, d]`, float64; and `num_images` where
        the file says it.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it holds anything else.
    """
    if path.suffix == ".npz":
        return {"fid": _reference_npz(path)}
    with opened(path) as (root, reader, _):
        found = {}
        for name, record in root.items():
            if name == COUNT and len(root) > 1:
                continue  # of all
            if name not in STATISTICS or type(record) is not dict or set(record) - {COUNT} != {"mu", "sigma"}:
                known = " and ".join(STATISTICS)
                raise Refused(f"{str(name)[:64]!a} is no pair of mu and sigma under {known}: these are no statistics")
            holder = record if COUNT in record else root
            count = reader.array(holder[COUNT]) if COUNT in holder else None
            found[name] = _statistics(reader.array(record["mu"]), reader.array(record["sigma"]), count)
        return found


def _reference_npz(path: Path) -> Statistics:
    try:
        arrays = read_npz(path)
    except (ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"no file at {path}") from None
        raise Refused(f"{path} cannot be read: {error}") from None
    if not {"mu", "sigma"} <= arrays.keys():
        raise Refused(f"{path}: it has {', '.join(arrays)[:200]!a}, not mu and sigma")
    mean, cov, count = arrays["mu"], arrays["sigma"], arrays.get(COUNT)
    if mean.dtype.kind != "f" or cov.dtype.kind != "f":
        raise Refused(f"{path}: mu and sigma are of dtype {mean.dtype} and {cov.dtype}, not of real numbers")
    return _statistics(mean.astype(np.float64), cov.astype(np.float64), count)


def _statistics(mean: NDArray[np.float64], cov: NDArray[np.float64], count: NDArray[Any] | None) -> Statistics:
    if mean.ndim != 1 or not 1 <= len(mean) <= MAX_FEATURES or cov.shape != (len(mean), len(mean)):
        raise Refused(f"mu of shape {mean.shape} and sigma of shape {cov.shape} are no mean and covariance")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise Refused("mu or sigma has values that are not finite")
    scale = np.abs(cov).max()
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-8 * max(scale, 1e-30)) or (np.diag(cov) < -1e-6 * scale).any():
        raise Refused("sigma is not symmetric with a diagonal of at least 0: it is no covariance")
    if count is None:
        return {"mu": mean, "sigma": cov}
    if count.size != 1 or count.dtype.kind not in "iuf" or not 1 <= (number := float(count.item())) < 2**53:
        raise Refused(f"{COUNT} is no number of images")
    if number != int(number):
        raise Refused(f"{COUNT} is {number}, not a whole number of images")
    return {"mu": mean, "sigma": cov, COUNT: int(number)}
