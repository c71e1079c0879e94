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
        dtype: of the results, one of the same; sums are in float32, and rounded to it.
    """

    def __init__(self, weights: Tensor, dtypes: Sequence[torch.dtype], dtype: torch.dtype) -> None:
        functions = _functions()
        assert functions is not None
        self._combine, rows, scratch = functions
        self.results, self.sources = weights.shape
        self.dtype = dtype
        self._dtypes = (ctypes.c_int32 * self.sources)(*(TYPES[dtype] for dtype in dtypes))
        padded = torch.zeros(-(-self.results // rows) * rows, self.sources)
        padded[: self.results] = weights
        self._weights = padded.view(-1, rows, self.sources).transpose(1, 2).contiguous()
        self._scratch = torch.empty(scratch(self.sources))

    def __call__(
        self, sources: Sequence[int], out: Tensor, first: int, sums: bool
    ) -> tuple[list[int], list[int], bool]:
        """Combine one run of values of each source.

        Args:
            sources: addresses of their first bytes.
            out: `[results, width]`, contiguous, of `dtype`; overwritten.
            first: number of the first value in its tensor, a multiple of 512.
            sums: also add up what was read, as `unitgain.checkpoint.tensors.checksum` does.

        Returns:
            One sum per source, or nothing; one per result; and whether all results are finite.
        """
        assert len(sources) == self.sources
        assert out.shape[0] == self.results
        assert out.dtype == self.dtype
        assert out.is_contiguous()
        found = (ctypes.c_uint64 * self.sources)() if sums else None
        of_results = (ctypes.c_uint64 * self.results)()
        finite = self._combine(
            (ctypes.c_void_p * self.sources)(*sources),
            self._dtypes,
            self.sources,
            out.shape[1],
            self._weights.data_ptr(),
            self.results,
            out.data_ptr(),
            TYPES[self.dtype],
            first,
            found,
            of_results,
            self._scratch.data_ptr(),
        )
        return list(found) if found is not None else [], list(of_results), bool(finite)


@cache
def _functions() -> tuple | None:
    """The function, how many results it makes at once, and what memory it needs."""
    found = library("combine")
    if found is None:
        return None
    address, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    found.unitgain_combine.argtypes = [address, address, integer, integer, address, integer, address]
    found.unitgain_combine.argtypes += [number, integer, address, address, address]
    found.unitgain_combine.restype = number
    found.unitgain_combine_scratch.argtypes = [integer]
    found.unitgain_combine_scratch.restype = integer
    return found.unitgain_combine, found.unitgain_combine_rows(), found.unitgain_combine_scratch
