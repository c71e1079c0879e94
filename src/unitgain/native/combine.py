"""Linear combinations of many arrays in one pass: the product that reconstruction is made of."""

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from unitgain.native.build import TYPES, library


def can_combine(dtypes: Sequence[torch.dtype]) -> bool:
    """Whether arrays of these types can be combined by C on this machine."""
    return all(dtype in TYPES for dtype in dtypes) and _functions() is not None


class Combination:
    """`weights @ sources`, for sources that lie in memory as they are stored. Not for several threads at once.

    Args:
        weights: `[results, sources]`, float32.
        dtypes: of the sources; see `can_combine`.
    """

    def __init__(self, weights: Tensor, dtypes: Sequence[torch.dtype]) -> None:
        functions = _functions()
        assert functions is not None
        self._combine, rows, scratch = functions
        self.results, self.sources = weights.shape
        self._dtypes = (ctypes.c_int32 * self.sources)(*(TYPES[dtype] for dtype in dtypes))
        padded = torch.zeros(-(-self.results // rows) * rows, self.sources)
        padded[: self.results] = weights
        self._weights = padded.view(-1, rows, self.sources).transpose(1, 2).contiguous()
        self._scratch = torch.empty(scratch(self.sources))

    def __call__(self, sources: Sequence[int], out: Tensor, first: int, sums: bool) -> list[int]:
        """Combine one run of values of each source.

        Args:
            sources: addresses of their first bytes.
            out: `[results, width]`, float32, contiguous along the last dimension; overwritten.
            first: number of the first value in its tensor, a multiple of 512.
            sums: also add up what was read, as `unitgain.checkpoint.tensors.checksum` does.

        Returns:
            One sum per source, or nothing.
        """
        assert len(sources) == self.sources
        assert out.shape[0] == self.results
        assert out.dtype == torch.float32
        assert out.stride(1) == 1
        found = (ctypes.c_uint64 * self.sources)() if sums else None
        self._combine(
            (ctypes.c_void_p * self.sources)(*sources),
            self._dtypes,
            self.sources,
            out.shape[1],
            self._weights.data_ptr(),
            self.results,
            out.data_ptr(),
            out.stride(0),
            first,
            found,
            self._scratch.data_ptr(),
        )
        return list(found) if found is not None else []


@cache
def _functions() -> tuple | None:
    """The function, how many results it makes at once, and what memory it needs."""
    found = library("combine")
    if found is None:
        return None
    address, integer = ctypes.c_void_p, ctypes.c_int64
    found.unitgain_combine.argtypes = [address, address, integer, integer, address, integer, address]
    found.unitgain_combine.argtypes += [integer, integer, address, address]
    found.unitgain_combine.restype = None
    found.unitgain_combine_scratch.argtypes = [integer]
    found.unitgain_combine_scratch.restype = integer
    return found.unitgain_combine, found.unitgain_combine_rows(), found.unitgain_combine_scratch
